"""What choosing a replica and making an attempt costs, without the exchange and the answer. Prints its figures."""

from __future__ import annotations

import gc
import io
import json
import statistics
import time
from collections.abc import Awaitable, Callable

import pytest

from app.domain.decision import Decision
from app.domain.request import Request
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream import dispatcher as dispatching
from app.upstream.answer import Answer, Form
from app.upstream.client import Message
from app.upstream.deadline import Deadline
from app.upstream.dispatcher import Dispatcher, DispatchLimits
from app.upstream.replicas import Replicas
from tests.fakes.upstream import FakeExchange
from tests.fakes.world import catalog, decision, model, request

ROUNDS, CALLS = 9, 2_000


class Instant:
    """An upstream that costs nothing."""

    def __init__(self) -> None:
        self.exchange = FakeExchange()

    async def send(self, backend: str, url: str, message: Message) -> FakeExchange:
        return self.exchange


async def cpu_us(call: Callable[[], Awaitable[object]]) -> float:
    """Median over rounds of the CPU time of one call."""
    took_us = []
    for _ in range(ROUNDS):
        gc.collect()
        began_at = time.process_time()
        for _ in range(CALLS):
            await call()
        took_us.append((time.process_time() - began_at) / CALLS * 1e6)
    return statistics.median(took_us)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2, 8])
async def test_an_attempt_that_succeeds_at_once_costs_little(replicas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    form = Form("small", stream=True)

    async def read(*_: object) -> Answer:
        return Answer(form)

    # The answer's own cost is measured elsewhere.
    monkeypatch.setattr(dispatching, "read_answer", read)
    small = model("small")
    urls = {"small-backend": tuple(f"http://127.0.0.1:{number}" for number in range(9000, 9000 + replicas))}
    telemetry = Telemetry(log=EventLog(io.StringIO()))
    pool = Replicas(catalog(small, urls=urls), time.monotonic, telemetry)
    dispatcher = Dispatcher(Instant(), pool, DispatchLimits(), time.monotonic, telemetry)
    deadline, asked, decided = Deadline.after(3600, time.monotonic), request(stream=True), decision(small)

    async def one(asked: Request = asked, decided: Decision = decided) -> None:
        served = await dispatcher.dispatch(asked, decided, deadline)
        served.answer.close()

    took_us = await cpu_us(one)
    print(json.dumps({"replicas": replicas, "dispatch_us": round(took_us, 1)}))
    assert took_us < 60
