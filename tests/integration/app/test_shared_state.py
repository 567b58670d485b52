"""Two gateways on one Redis: what one of them learns or grants, the other knows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.upstream.fleet.replica import Replica
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.caller import chat, hear, session_to
from tests.fakes.deployment import FIRST_KEYS, Deployment, deployed
from tests.fakes.process import until
from tests.fakes.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.timing

KEY = "sk-limited"
LIMITED = {"id": "limited", "secret": KEY, "models": ["*"], "max_priority": "high", "tokens_per_minute": None}
# A subscription that is lost is looked for each second.
HEARS_WITHIN_S = 5.0


@dataclass
class Pair:
    """Two gateways, their backend, and what they share."""

    one: Deployment
    other: Deployment
    backend: FakeBackend
    redis: RedisServer

    @property
    def replicas(self) -> list[Replica]:
        """The same server, as each of them sees it."""
        return [each.application.live.now.replicas.of("small")[0] for each in (self.one, self.other)]

    @property
    def out(self) -> list[bool]:
        return [replica.ejected_until is not None for replica in self.replicas]

    async def ask(self, gateway: Deployment) -> int:
        headers = {"authorization": f"Bearer {KEY}"}
        url = f"{gateway.url}/v1/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json=chat(), headers=headers) as answer:
            await answer.read()
            return answer.status


@asynccontextmanager
async def pair(folder: Path, **limits: Any) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis(folder, known=True))
        key = {**LIMITED, "requests_per_minute": None, "concurrency": None, **limits}
        keys = [{**one, "budget": None} for one in (*FIRST_KEYS, key)]
        changes: dict[str, Any] = {"store": redis.url, "keys": keys}
        gateways: list[Deployment] = []
        for name in ("one", "other"):
            (folder / name).mkdir()
            urls = {"small": gateways[0].backends["small"].url} if gateways else {}
            gateway = deployed(folder / name, "small", urls=urls, **changes)
            gateways.append(await stack.enter_async_context(gateway))
        await until(lambda: redis.do("PUBSUB", "NUMSUB", "thalamus:health:0")[1], 2)
        one, other = gateways
        yield Pair(one, other, one.backends["small"], redis)


async def test_a_replica_that_one_takes_out_is_out_for_the_other_at_its_first_failure_and_back_for_both(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as world:
        world.backend.script = Script(reset=True)
        for _ in range(5):
            await world.ask(world.one)
        await until(lambda: world.replicas[1].failures, 4)
        assert world.out == [True, False]
        await world.ask(world.other)
        assert world.out == [True, True]
        world.backend.script = Script()
        await until(lambda: world.out, [False, False])


async def test_a_replica_rests_for_both_as_long_as_it_asks_for(tmp_path: Path) -> None:
    async with pair(tmp_path) as world, session_to(world.one.url) as session:
        world.backend.script = Script(status=429, headers={"retry-after": "60"})
        assert (await hear(session)).status == 429
        asked = world.backend.calls
        async with session_to(world.other.url) as other:
            await until(lambda: world.replicas[1].rests_until > 0, True)
            assert (await hear(other)).status == 429
        assert world.backend.calls == asked, "the other gateway did not ask"


async def test_what_is_told_while_redis_is_down_is_lost_and_later_news_is_not(tmp_path: Path) -> None:
    async with pair(tmp_path) as world, session_to(world.one.url) as session:
        world.redis.kill()
        world.backend.script = Script(reset=True)
        for _ in range(5):
            await hear(session)
        assert world.out == [True, False]
        stores = world.one.application.live._lasting.stores
        await until(lambda: stores.up()["limits"], False)
        world.redis.start()
        await until(lambda: world.redis.do("PUBSUB", "NUMSUB", "thalamus:health:0")[1], 2, HEARS_WITHIN_S)
        world.backend.script = Script()
        await until(lambda: world.out, [False, False])
        await until(lambda: stores.up()["limits"], True, HEARS_WITHIN_S + 5)
        world.backend.script = Script(reset=True)
        for _ in range(5):
            await hear(session)
        await until(lambda: world.replicas[1].failures, 4)


@pytest.mark.parametrize("limit", [{"concurrency": 5}, {"requests_per_minute": 5}])
async def test_a_key_has_its_limits_once_not_once_per_gateway(tmp_path: Path, limit: dict[str, int]) -> None:
    async with pair(tmp_path, **limit) as world:
        world.backend.script = Script(delay_s=0.5)
        gateways = (world.one, world.other) * 8
        outcomes = Counter(await asyncio.gather(*(world.ask(gateway) for gateway in gateways)))
        assert outcomes == {200: 5, 429: 11}


async def test_one_that_stops_leaves_its_places_to_the_other(tmp_path: Path) -> None:
    async with pair(tmp_path, concurrency=1) as world:
        world.backend.script = Script(hang=True)
        stuck = asyncio.ensure_future(world.ask(world.one))
        await until(lambda: world.backend.in_flight, 1)
        assert await world.ask(world.other) == 429
        stuck.cancel()
        await until(lambda: world.backend.in_flight, 0)
        world.backend.script = Script()
        assert await world.ask(world.other) == 200
