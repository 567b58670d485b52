"""How much load retries add to a fleet that fails, and how quickly callers hear of it. Prints its figures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from app.gateway import Gateway
from app.upstream.http.deadline import Timeouts
from app.upstream.prober import Prober
from app.upstream.retries import AHEAD_S, PER_REQUEST, PER_S, SAVED_AT_MOST
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.gateway import Bench, bench, catalog_of, client_of
from tests.fakes.moody import Moody
from tests.fakes.open_loop import Heard, ask_at, loop_lag
from tests.fakes.world import catalog, model

pytestmark = [pytest.mark.slow, pytest.mark.timing]

RATE = 100.0
SETTLED_S = 5.0
# How long the retries last that were saved up, where every third request wants one; at twice the rate, half as long.
SAVED_FOR_S = 8.0
TIMEOUTS = Timeouts(connect_s=1.0, pool_wait_s=1.0, first_byte_s=5.0, idle_s=5.0, total_s=60.0)

STORMS = [
    pytest.param(Script(status=503), True, id="503 of replicas"),
    pytest.param(Script(status=503, headers={"retry-after": "0"}), False, id="503 of models, come back at once"),
    pytest.param(Script(status=500), True, id="500 of replicas"),
    pytest.param(Script(reset=True), False, id="resets of models"),
]


def calls(servers: Sequence[FakeBackend]) -> int:
    return sum(server.calls for server in servers)


@asynccontextmanager
async def four(scripts: Sequence[Script], *, one_model: bool) -> AsyncIterator[tuple[Bench, list[Moody]]]:
    """Four replicas of one model, or four models with one each."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(Moody(script)) for script in scripts]
        if one_model:
            the_catalog = catalog(model("small", "pool"), urls={"pool": tuple(server.url for server in servers)})
        else:
            the_catalog = catalog_of(**{f"model-{number}": server for number, server in enumerate(servers)})
        client = await stack.enter_async_context(client_of(the_catalog, TIMEOUTS))
        world = bench(the_catalog, client, TIMEOUTS)
        prober = Prober(client, world.replicas, the_catalog)
        await prober.start()
        yield world, servers
        await prober.stop()


async def calls_per_request(
    gateway: Gateway, servers: Sequence[FakeBackend], seconds: float, settled_s: float, rate: float = RATE
) -> tuple[float, float, Heard]:
    """After the first seconds, and overall, and what callers heard."""
    heard = Heard()
    load = asyncio.create_task(ask_at(rate, seconds, gateway, heard=heard))
    await asyncio.sleep(settled_s)
    calls_before, requests_before = calls(servers), heard.requests
    await load
    settled = (calls(servers) - calls_before) / (heard.requests - requests_before)
    return settled, calls(servers) / heard.requests, heard


@pytest.mark.parametrize(("script", "one_model"), STORMS)
async def test_a_storm_on_all_backends_is_not_made_worse(script: Script, one_model: bool, full_size: bool) -> None:
    seconds, settled_s = (60.0, SETTLED_S) if full_size else (2.0, 1.0)
    async with four([script] * 4, one_model=one_model) as (world, servers):
        settled, overall, heard = await calls_per_request(world.gateway, servers, seconds, settled_s)
    heard.say(calls_per_request_settled=round(settled, 3), calls_per_request=round(overall, 3))
    assert heard.outcomes["ok"] == 0
    assert settled <= 1.10
    # What piles up while the machine stands still goes out together, before any of it has failed.
    assert overall <= 1.20 + RATE * heard.lag_s / heard.requests
    assert heard.at(0.99) <= 0.1 + heard.lag_s
    assert all("retry-after" in error.headers() for error in heard.errors if error.status == 503)


async def test_retries_of_a_fleet_that_fails_now_and_then_everywhere_stay_within_their_budget(full_size: bool) -> None:
    """Nobody stands out, so all that keeps the load down is the budget."""
    async with four([Script()] * 4, one_model=True) as (world, servers):
        for server in servers:
            server.fails = 0.33
        seconds, settled_s, rate = (60.0, SAVED_FOR_S, RATE) if full_size else (6.0, SAVED_FOR_S / 2, 2 * RATE)
        async with loop_lag() as lags_s:
            settled, overall, heard = await calls_per_request(world.gateway, servers, seconds, settled_s, rate)
    refused = [error for error in heard.errors if error.headers().get("x-should-retry") == "false"]
    heard.say(
        calls_per_request_settled=round(settled, 3),
        calls_per_request=round(overall, 3),
        should_not_retry=len(refused),
    )
    retries = calls(servers) - heard.requests
    # While the machine stands still no request pays in, but time does.
    assert retries <= SAVED_AT_MOST + PER_REQUEST * heard.requests + PER_S * (AHEAD_S + sum(lags_s))
    # When what was saved is gone depends on how fast the machine is; a minute is long enough for any.
    assert settled <= 1.10 or not full_size
    assert heard.ok_share > 0.7
    assert refused


@pytest.mark.parametrize(("script", "one_model"), STORMS)
async def test_one_bad_backend_of_four_is_not_noticed(script: Script, one_model: bool, full_size: bool) -> None:
    good = Script(delay_s=0.01)
    async with four([script, good, good, good], one_model=one_model) as (world, servers):
        heard: Heard = await ask_at(RATE, 60.0 if full_size else 1.5, world.gateway)
    ratio = calls(servers) / heard.requests
    heard.say(calls_per_request=round(ratio, 3), asked_the_bad_one=servers[0].calls)
    assert heard.ok_share >= 0.999
    assert ratio <= 1.30
