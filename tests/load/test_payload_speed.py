"""What bodies and answers cost the gateway, without its HTTP. Prints its figures as one line of JSON.

CPU time, not wall time: other processes share the machine. The limits are far above what is measured on a quiet one.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.api.bodies.parsing import parse_chat
from app.api.bodies.strict_json import parse_object
from app.domain.models import Model
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.telemetry.metrics import Metrics
from app.upstream.answers.answer import Form, read_answer
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.replicas import Replicas
from app.upstream.forwarding import body_for
from app.upstream.http.deadline import Deadline
from app.upstream.http.exchange import Pace
from tests.fakes.call import FakeCall
from tests.fakes.upstream import FakeExchange, chunk, event
from tests.fakes.world import catalog, model
from tests.fakes.yardstick import Machine

BODY = {"model": "auto", "messages": [{"role": "user", "content": "word " * 30}], "max_tokens": 64, "stream": True}
CALL = FakeCall(headers={"host": "127.0.0.1:8090", "content-type": "application/json", "content-length": "240"})
EVENTS = [event(chunk("")), *[event(chunk("word "))] * 32, event(chunk("", "stop")), event(b"[DONE]")]
ROUNDS, TIMES = 5, 400


def cpu_us(work: Callable[[], Any]) -> float:
    """Microseconds of CPU for one call: the best of a few rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began_at = time.process_time()
        for _ in range(TIMES):
            work()
        best = min(best, (time.process_time() - began_at) / TIMES)
    return best * 1e6


async def relay(pieces: list[bytes]) -> None:
    clock = time.monotonic
    pace = Pace(30.0, Deadline.after(600, clock), clock, asyncio.get_running_loop().call_later)
    answer = await read_answer(FakeExchange(pieces), Form("shown", stream=True), pace)
    assert b"".join([piece async for piece in answer]).endswith(EVENTS[-1])


def test_a_request_and_each_event_of_its_answer_take_microseconds(
    capsys: pytest.CaptureFixture[str], machine: Machine
) -> None:
    body, small = json.dumps(BODY).encode(), model("small")
    request = parse_chat(parse_object(body), CALL)
    replica = _replica(small)
    loop = asyncio.new_event_loop()
    together = cpu_us(lambda: loop.run_until_complete(relay([b"".join(EVENTS)])))
    apart = cpu_us(lambda: loop.run_until_complete(relay(EVENTS)))
    loop.close()
    figures = {
        "body_read_us": cpu_us(lambda: parse_object(body)),
        "body_read_and_checked_us": cpu_us(lambda: parse_chat(parse_object(body), CALL)),
        "body_written_us": cpu_us(lambda: body_for(request, replica, small)),
        "event_of_many_us": together / len(EVENTS),
        "event_alone_us": apart / len(EVENTS),
    }
    with capsys.disabled():
        print(json.dumps({"test": "payload speed", **{name: round(us, 2) for name, us in figures.items()}}))
    assert figures["body_read_and_checked_us"] < 60 * machine.slowness()
    assert figures["event_of_many_us"] < 12 * machine.slowness()


def _replica(small: Model) -> Replica:
    telemetry = Telemetry(Metrics([small.name], ["default"], [small.backend]), EventLog(io.StringIO()))
    return Replicas(catalog(small), time.monotonic, telemetry).of(small.backend)[0]
