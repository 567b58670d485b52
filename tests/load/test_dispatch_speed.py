"""What choosing a replica and making an attempt costs, without the exchange and the answer. Prints its figures."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.answers.answer import read_answer
from app.upstream.client import Message
from app.upstream.dispatcher import Dispatcher, DispatchLimits
from app.upstream.fleet.replicas import Replicas
from app.upstream.forwarding import body_for, form_of
from app.upstream.http.deadline import Deadline
from app.upstream.http.exchange import Pace
from tests.fakes.upstream import FakeExchange
from tests.fakes.world import catalog, decision, model, request
from tests.fakes.yardstick import SHARED, Machine

ROUNDS, CALLS = 5, 500
BUDGET_US = 15
BODY = json.dumps({"model": "small", "choices": [{"index": 0, "message": {"content": "x"}}]}).encode()
SMALL, ASKED = model("small"), request()


def exchange() -> FakeExchange:
    return FakeExchange([BODY], content_type="application/json")


class Instant:
    """An upstream that costs nothing."""

    async def send(self, backend: str, url: str, message: Message) -> FakeExchange:
        return exchange()


async def cpu_us(call: Callable[[], Awaitable[object]]) -> float:
    """CPU time of one call, in the round that was disturbed least."""
    took_us = []
    for _ in range(ROUNDS):
        gc.collect()
        began_at = time.process_time()
        for _ in range(CALLS):
            await call()
        took_us.append((time.process_time() - began_at) / CALLS * 1e6)
    return min(took_us)


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "session_id"), [(1, None), (2, None), (8, None), (8, "s-1")])
async def test_an_attempt_that_succeeds_at_once_costs_little(
    replicas: int, session_id: str | None, machine: Machine
) -> None:
    urls = {"small-backend": tuple(f"http://127.0.0.1:{number}" for number in range(9000, 9000 + replicas))}
    telemetry = Telemetry(log=EventLog(io.StringIO()))
    pool = Replicas(catalog(SMALL, urls=urls), time.monotonic, telemetry)
    dispatcher = Dispatcher(Instant(), pool, DispatchLimits(), time.monotonic, telemetry)
    deadline, decided = Deadline.after(3600, time.monotonic), decision(SMALL)
    asked = replace(ASKED, session_id=session_id)
    pace = Pace(30.0, deadline, time.monotonic, asyncio.get_running_loop().call_later)

    async def whole() -> None:
        (await dispatcher.dispatch(asked, decided, deadline)).answer.close()

    async def exchange_alone() -> None:
        body_for(asked, pool.all[0], SMALL)
        (await read_answer(exchange(), form_of(asked, SMALL), pace)).close()

    took_us, others_us = await cpu_us(whole), await cpu_us(exchange_alone)
    figures = {"replicas": replicas, "session": session_id is not None, "dispatch_us": round(took_us - others_us, 1)}
    print(json.dumps(figures | {"body_and_answer_us": round(others_us, 1)}))
    assert took_us - others_us < SHARED * machine.slowness() * BUDGET_US
