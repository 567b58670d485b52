"""A caller's deadline is kept whatever the backend does, and the backend is let go at once. Prints its figures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from app.upstream.client import DEADLINE
from app.upstream.dispatcher import MIN_ATTEMPT_S
from app.upstream.http.deadline import Timeouts
from tests.fakes.backend import FakeBackend, Received, Script
from tests.fakes.gateway import bench, catalog_of, client_of
from tests.fakes.open_loop import Heard, ask, loop_lag
from tests.fakes.world import request

pytestmark = [pytest.mark.slow, pytest.mark.timing]

LATE_S, CLOSED_WITHIN_S = 0.05, 0.1
AT_ONCE = 25
# Far longer than the deadline, so that it is the deadline that ends everything.
TIMEOUTS = Timeouts(first_byte_s=30.0, idle_s=30.0, total_s=600.0)

FAULTS: dict[str, Callable[[float], Script]] = {
    "stalls": lambda _: Script(hang=True),
    "stalls in the middle": lambda _: Script(hang_after=3),
    "drips": lambda _: Script(tokens=("x",) * 1000, event_delay_s=0.05),
    "fails a tenth of a second before": lambda deadline_s: Script(status=500, delay_s=deadline_s - 0.1),
    "fails when no attempt is worth its while": lambda deadline_s: Script(
        status=500, delay_s=deadline_s - 0.6 * MIN_ATTEMPT_S
    ),
}
"""By the deadline."""


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_answers_end_with_the_deadline_and_so_do_exchanges(
    fault: Callable[[float], Script], full_size: bool
) -> None:
    deadline_s = 2.0 if full_size else 1.0
    script, heard, closed_after_s = fault(deadline_s), Heard(), list[float]()
    begins = script.hang_after is not None or script.event_delay_s > 0
    async with FakeBackend(script) as small, FakeBackend(Script(hang=True)) as large, loop_lag() as lags_s:
        the_catalog = catalog_of(small=small, large=large)
        async with client_of(the_catalog, TIMEOUTS) as client:
            world = bench(the_catalog, client, TIMEOUTS)
            for _ in range(20 if full_size else 1):
                asked = [request(stream=begins or number % 5 > 0, deadline_s=deadline_s) for number in range(AT_ONCE)]
                await asyncio.gather(*(ask(world.gateway, one, heard) for one in asked))
                ended_at = time.monotonic()
                await asyncio.gather(small.until(in_flight=0), large.until(in_flight=0))
                closed_after_s.append(time.monotonic() - ended_at)
            in_flight = world.in_flight
    left_s = [int(received.headers[DEADLINE]) / 1e3 for received in small.requests + large.requests]
    heard.say(
        latest_ms=round(1e3 * (max(heard.times_s) - deadline_s), 1),
        closed_after_ms=round(1e3 * max(closed_after_s), 1),
        machine_lag_max_ms=round(1e3 * max(lags_s), 1),
        attempts=len(left_s),
        least_left_ms=round(1e3 * min(left_s)),
    )
    assert heard.outcomes["ok"] == 0
    assert max(heard.times_s) <= deadline_s + LATE_S + max(lags_s)
    assert max(closed_after_s) <= CLOSED_WITHIN_S + max(lags_s)
    assert min(left_s) >= MIN_ATTEMPT_S - 0.001
    assert in_flight == (0, 0, 0)


class Dripping(FakeBackend):
    """Sends `head`, and then one byte of a comment after another."""

    head = b""

    async def _stream(self, script: Script, request: Received, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + self.head)
        while True:
            writer.write(b":")
            await writer.drain()
            await asyncio.sleep(0.05)


TOKEN = b'data: {"choices": [{"index": 0, "delta": {"content": "Paris"}, "finish_reason": null}]}\n\n'


@pytest.mark.parametrize(
    ("head", "outcome"), [(b"", "upstream_timeout"), (TOKEN, "cut")], ids=["before the first event", "after it"]
)
async def test_bytes_that_drip_without_saying_anything_are_silence(head: bytes, outcome: str) -> None:
    timeouts, heard = Timeouts(first_byte_s=0.5, idle_s=0.5, total_s=60.0), Heard()
    async with Dripping() as small, loop_lag() as lags_s:
        small.head = head
        the_catalog = catalog_of(small=small)
        async with client_of(the_catalog, timeouts) as client:
            await ask(bench(the_catalog, client, timeouts).gateway, request(stream=True), heard)
    heard.say()
    assert heard.outcomes == {outcome: 1}
    assert heard.at(1.0) < 1.0 + max(lags_s)


async def test_an_answer_that_never_ends_is_cut_at_the_total_limit() -> None:
    timeouts, heard = Timeouts(first_byte_s=0.5, idle_s=0.5, total_s=1.0), Heard()
    async with FakeBackend(Script(tokens=("x",) * 1000, event_delay_s=0.1)) as small, loop_lag() as lags_s:
        the_catalog = catalog_of(small=small)
        async with client_of(the_catalog, timeouts) as client:
            world = bench(the_catalog, client, timeouts)
            await ask(world.gateway, request(stream=True), heard)
    heard.say()
    assert heard.outcomes == {"cut": 1}
    assert 0.9 < heard.at(1.0) < 1.0 + LATE_S + max(lags_s)
