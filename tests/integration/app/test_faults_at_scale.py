"""Many requests into each fault; every test prints its figures as one JSON line. `make test-all` runs them whole."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace

import pytest

from app.errors import GatewayError
from app.upstream.deadline import Timeouts
from app.upstream.dispatcher import Served
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.gateway import bench, catalog_of, client_of
from tests.fakes.upstream import texts
from tests.fakes.world import FakeKey, request

pytestmark = pytest.mark.slow

KEY = FakeKey()
AT_ONCE = 40
TIMEOUTS = Timeouts(connect_s=1.0, pool_wait_s=1.0, first_byte_s=1.0, idle_s=1.0, total_s=20.0)

BROKEN = {
    "refuses": None,
    "resets": Script(reset=True),
    "says 503": Script(status=503),
    "says 429": Script(status=429),
    "never answers": Script(hang=True),
    "resets after the head": Script(head_then_reset=True),
}


def seconds_at(times_s: list[float], share: float) -> float:
    return sorted(times_s)[int(share * (len(times_s) - 1))]


async def read(call: Awaitable[Served]) -> bytes:
    served = await call
    try:
        return b"".join([piece async for piece in served.answer])
    finally:
        await served.answer.aclose()


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN.keys())
async def test_failover_before_the_first_byte(script: Script | None, full_size: bool) -> None:
    requests = 2_000 if full_size else 200
    outcomes: Counter[str] = Counter()
    times_s: list[float] = []
    at_once = asyncio.Semaphore(AT_ONCE)
    bad = FakeBackend(replace(script or Script(), tokens=("bad ",) * 5))
    async with bad, FakeBackend(Script(tokens=("good ",) * 5)) as good:
        if script is None:
            await bad.stop()
        catalog = catalog_of(small=bad, large=good)
        async with client_of(catalog, TIMEOUTS) as client:
            world = bench(catalog, client, TIMEOUTS)

            async def one(number: int) -> None:
                async with at_once:
                    began_at = time.monotonic()
                    try:
                        sent = await read(world.gateway.complete(request(stream=bool(number % 2), max_tokens=1), KEY))
                    except GatewayError as exc:
                        outcomes[exc.code] += 1
                        return
                    times_s.append(time.monotonic() - began_at)
                    mixed = b"good" in sent and b"bad" in sent
                    outcomes["mixed" if mixed else "good" if sent.count(b"good ") == 5 else "cut"] += 1

            await asyncio.gather(*map(one, range(requests)))
        in_flight = world.in_flight
    figures = {"requests": requests, **outcomes, "p99_s": round(seconds_at(times_s, 0.99), 3), "asked_bad": bad.calls}
    print(json.dumps(figures))
    assert outcomes["good"] >= 0.999 * requests
    assert outcomes["mixed"] == 0
    assert seconds_at(times_s, 0.99) <= TIMEOUTS.first_byte_s + 1.0
    assert in_flight == (0, 0, 0)


async def test_streams_cut_at_random(full_size: bool) -> None:
    streams = 1_000 if full_size else 200
    rng = random.Random(7)
    tokens = tuple(f"<{number}>" for number in range(50))
    faults = ("fin", "rst", "garbage", "error")
    done = errors = wrong_prefixes = 0
    async with FakeBackend() as small:
        catalog = catalog_of(small=small)
        async with client_of(catalog, TIMEOUTS) as client:
            world = bench(catalog, client, TIMEOUTS)
            sent_by_all = []
            for number in range(streams):
                k = rng.randint(2, 50)
                small.script = {
                    "fin": Script(tokens, cut_after=k),
                    "rst": Script(tokens, cut_after=k, cut_with_reset=True),
                    "garbage": Script(tokens, garbage_after=k),
                    "error": Script(tokens, error_after=k),
                }[faults[number % len(faults)]]
                sent_by_all.append(await read(world.gateway.complete(request(stream=True), KEY)))
            for sent in sent_by_all:
                errors += sent.count(b'data: {"error"')
                done += b"[DONE]" in sent
                wrong_prefixes += not "".join(tokens).startswith(texts(sent))
    print(json.dumps({"streams": streams, "error_events": errors, "done": done, "wrong_prefixes": wrong_prefixes}))
    assert (errors, done, wrong_prefixes) == (streams, 0, 0)
    assert len(world.completed) == streams


@pytest.mark.parametrize("kind", ["before the first byte", "plain", "in the middle"])
async def test_callers_who_leave(kind: str, full_size: bool) -> None:
    leavers = 400 if full_size else 60
    times_s: list[float] = []
    script = Script(hang_after=3) if kind == "in the middle" else Script(hang=True)
    async with FakeBackend(script) as small:
        catalog = catalog_of(small=small)
        async with client_of(catalog, Timeouts()) as client:
            world = bench(catalog, client, Timeouts())
            for _ in range(leavers):
                call = asyncio.ensure_future(world.gateway.complete(request(stream=kind != "plain"), KEY))
                await small.until(in_flight=1)
                if kind == "in the middle":
                    served = await call
                    await anext(served.answer)
                    left_at = time.monotonic()
                    await served.answer.aclose()
                else:
                    left_at = time.monotonic()
                    call.cancel()
                    with suppress(asyncio.CancelledError):
                        await call
                await small.until(in_flight=0)
                times_s.append(time.monotonic() - left_at)
            in_flight, aborted = world.in_flight, small.aborted
    p99_s, worst_s = seconds_at(times_s, 0.99), max(times_s)
    print(json.dumps({"left": leavers, "cancelled": aborted, "p99_s": round(p99_s, 4), "max_s": round(worst_s, 4)}))
    assert aborted == leavers
    assert p99_s <= 0.05
    assert worst_s <= 0.25
    assert in_flight == (0, 0, 0)
    assert {record["outcome"] for record in world.completed} == {"cancelled"}
