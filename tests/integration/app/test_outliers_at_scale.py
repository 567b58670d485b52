"""One replica of four is worse than the others, and gets well again: how many callers notice. Prints its figures.

At the reduced size the gateway's clock runs five times as fast, so that ten seconds of ejection pass in two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.fleet.replica import EJECTED_FOR_S, WARMS_FOR_S, Replica
from app.upstream.http.deadline import Timeouts
from app.upstream.prober import LOOK_EVERY_S, Prober
from tests.fakes.backend import Script
from tests.fakes.gateway import Bench, bench, client_of
from tests.fakes.moody import Moody
from tests.fakes.open_loop import ask_at
from tests.fakes.world import catalog, model

pytestmark = [pytest.mark.slow, pytest.mark.timing]

RATE = 100.0
DELAY_S = 0.02
GOOD = Script(delay_s=DELAY_S)
SLOW = Script(delay_s=10 * DELAY_S)
TIMEOUTS = Timeouts(connect_s=2.0, pool_wait_s=2.0, first_byte_s=40.0, idle_s=40.0, total_s=600.0)


@dataclass
class World:
    """A backend of four replicas behind a gateway."""

    bench: Bench
    servers: list[Moody]
    speed: float
    """Seconds of the gateway's clock in one second."""

    @property
    def sick(self) -> Moody:
        return self.servers[0]

    @property
    def replica(self) -> Replica:
        return self.bench.replicas.all[0]

    def events(self, name: str) -> int:
        return len(self.bench.events(name))

    async def until_event(self, name: str, count: int = 1) -> float:
        """Seconds of the gateway's clock until there were so many of these events."""
        began_at = time.monotonic()
        async with asyncio.timeout(60):
            while self.events(name) < count:
                await asyncio.sleep(0.002)
        return (time.monotonic() - began_at) * self.speed

    async def pass_by(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)


@asynccontextmanager
async def four_replicas(speed: float) -> AsyncIterator[World]:
    servers = [Moody(GOOD) for _ in range(4)]
    async with servers[0], servers[1], servers[2], servers[3]:
        the_catalog = catalog(model("small", "pool"), urls={"pool": tuple(server.url for server in servers)})
        async with client_of(the_catalog, TIMEOUTS) as client:
            world = bench(the_catalog, client, TIMEOUTS, clock=lambda: time.monotonic() * speed)
            prober = Prober(client, world.replicas, the_catalog, LOOK_EVERY_S / speed)
            await prober.start()
            yield World(world, servers, speed)
            await prober.stop()


@pytest.fixture
async def world(full_size: bool) -> AsyncIterator[World]:
    async with four_replicas(speed=1.0 if full_size else 5.0) as world:
        yield world


async def test_a_replica_that_always_fails_is_out_after_five_calls_and_comes_back_slowly(world: World) -> None:
    load = asyncio.create_task(ask_at(RATE, 45 / world.speed, world.bench.gateway))
    await world.pass_by(2)
    calls, world.sick.fails = world.sick.asked, 1.0
    await world.until_event("replica.ejected")
    failed_calls = world.sick.asked - calls
    await world.pass_by(5)
    world.sick.fails = 0.0
    back_s = await world.until_event("replica.restored")
    calls, calls_of_all = world.sick.asked, sum(server.asked for server in world.servers)
    await world.pass_by(WARMS_FOR_S)
    share = 4 * (world.sick.asked - calls) / (sum(server.asked for server in world.servers) - calls_of_all)
    await world.pass_by(WARMS_FOR_S)
    calls, calls_of_all = world.sick.asked, sum(server.asked for server in world.servers)
    heard = await load
    later = 4 * (world.sick.asked - calls) / (sum(server.asked for server in world.servers) - calls_of_all)
    heard.say(
        failed_calls=failed_calls,
        back_after_s=round(back_s, 1),
        share_in_first_10_s=round(share, 3),
        share_later=round(later, 2),
    )
    assert FAILURES_TO_EJECT <= failed_calls <= FAILURES_TO_EJECT + 1, "one more may have been under way"
    assert heard.outcomes == {"ok": heard.requests}
    assert back_s <= EJECTED_FOR_S + 10
    assert share <= 0.1
    assert later > 0.6


async def test_a_replica_of_which_a_third_fails_is_out_within_twenty_seconds(world: World) -> None:
    world.sick.fails = 0.3
    load = asyncio.create_task(ask_at(RATE, 20 / world.speed, world.bench.gateway))
    out_s = await world.until_event("replica.ejected")
    heard = await load
    (event, *_) = world.bench.events("replica.ejected")
    heard.say(out_after_s=round(out_s, 1), rule=event["rule"], ejections=world.events("replica.ejected"))
    assert event["replica"] == world.sick.url
    assert out_s <= 20
    assert heard.ok_share >= 0.999


async def test_a_replica_ten_times_slower_costs_nobody_an_answer_and_few_their_time(world: World) -> None:
    usual = await ask_at(RATE, 8 / world.speed, world.bench.gateway)
    world.sick.script = SLOW
    asked = world.sick.asked
    await ask_at(RATE, 8 / world.speed, world.bench.gateway)
    learning, asked = world.sick.asked - asked, world.sick.asked
    heard = await ask_at(RATE, 20 / world.speed, world.bench.gateway)
    share = 4 * (world.sick.asked - asked) / heard.requests
    heard.say(
        usual_p99_ms=round(1e3 * usual.at(0.99), 1), slow_calls_first=learning, share_of_the_slow_one=round(share, 3)
    )
    assert heard.outcomes == {"ok": heard.requests}
    assert heard.at(0.9) < 5 * DELAY_S + heard.lag_s
    assert heard.at(0.99) <= SLOW.delay_s + 0.1 + heard.lag_s
    assert share < 0.25
    assert world.events("replica.ejected") == 0


async def test_when_all_are_bad_all_are_tried_and_all_come_back(world: World) -> None:
    for server in world.servers:
        server.fails = 1.0
    bad = await ask_at(RATE, 8 / world.speed, world.bench.gateway)
    all_out = world.bench.replicas.ejections.all_out
    asked = [server.asked for server in world.servers]
    still_bad = await ask_at(RATE, 4 / world.speed, world.bench.gateway)
    tried = [server.asked - before for server, before in zip(world.servers, asked, strict=True)]
    for server in world.servers:
        server.fails = 0.0
    back_s = await world.until_event("replica.restored", 4)
    heard = await ask_at(RATE, 4 / world.speed, world.bench.gateway)
    still_bad.say(all_out=all_out, tried=tried, back_after_s=round(back_s, 1), ok_after=heard.ok_share)
    assert all_out
    assert bad.outcomes["ok"] == 0
    assert min(tried) > 0
    assert sum(tried) <= 1.1 * still_bad.requests
    assert back_s <= 15
    assert heard.outcomes == {"ok": heard.requests}
