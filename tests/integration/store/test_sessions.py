"""Sessions, in memory and in a real Redis: the same answers, and none that holds anybody up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest

from app.domain.request import Request
from app.domain.sessions import name_of
from app.store.redis_client import PATIENCE_S, RedisClient
from app.store.sessions import KEPT_S, PREFIX, MemorySessions, RedisSessions, Sessions
from tests.fakes.clock import FakeClock
from tests.fakes.redis_server import RedisServer, running_redis
from tests.fakes.world import request

pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@asynccontextmanager
async def shared(redis: RedisServer) -> AsyncIterator[RedisSessions]:
    """Those of one gateway."""
    async with (
        aclosing(RedisClient(redis.url, None, time.monotonic)) as client,
        aclosing(RedisSessions(client)) as sessions,
    ):
        yield sessions


@pytest.fixture(params=["memory", "redis"])
async def sessions(request: pytest.FixtureRequest, redis: RedisServer) -> AsyncIterator[Sessions]:
    if request.param == "memory":
        yield MemorySessions()
        return
    redis.do("FLUSHALL")
    async with shared(redis) as opened:
        yield opened


def asked(session_id: str = "s-1", key_id: str = "ann", tokens: int = 12) -> Request:
    return request(session_id=session_id, key_id=key_id, input_tokens=tokens)


async def settled(sessions: Sessions) -> None:
    if isinstance(sessions, RedisSessions):
        await sessions.aclose()


async def test_the_last_answer_is_what_is_remembered(sessions: Sessions) -> None:
    assert await sessions.find(asked()) is None
    sessions.remember(asked(), "small")
    sessions.remember(asked(tokens=40), "large")
    await settled(sessions)

    found = await sessions.find(asked())

    assert found is not None
    assert (found.model, found.messages, found.input_tokens) == ("large", 1, 40)
    assert found.goes_on_in(asked())
    assert 0 <= found.age_s < 5


async def test_nobody_finds_another_key_s_session(sessions: Sessions) -> None:
    sessions.remember(asked(), "small")
    await settled(sessions)
    assert await sessions.find(asked(key_id="bob")) is None
    assert await sessions.find(asked(session_id="s-2")) is None


async def test_memory_forgets_after_an_hour_and_who_was_not_heard_of_for_longest() -> None:
    clock = FakeClock()
    sessions = MemorySessions(clock, most=2)
    for name in ("first", "second", "first", "third"):
        sessions.remember(asked(name), "small")
    assert [await sessions.find(asked(name)) is not None for name in ("first", "second", "third")] == [
        True,
        False,
        True,
    ]
    clock.advance(KEPT_S)
    assert (found := await sessions.find(asked("first"))) is not None
    assert found.age_s == KEPT_S
    clock.advance(1)
    assert await sessions.find(asked("first")) is None


async def test_processes_tell_each_other() -> None:
    other = MemorySessions()
    sessions = MemorySessions(tell=lambda session: other.hear(json.loads(json.dumps(session))))
    sessions.remember(asked(), "small")
    found = await other.find(asked())
    assert found is not None
    assert (found.model, found.goes_on_in(asked())) == ("small", True)


async def test_gateways_on_one_redis_share_sessions_and_redis_forgets_them(redis: RedisServer) -> None:
    redis.do("FLUSHALL")
    async with shared(redis) as one, shared(redis) as other:
        one.remember(asked(), "small")
        await one.aclose()
        found = await other.find(asked())
    assert found is not None
    assert found.model == "small"
    key = PREFIX + name_of(asked())
    assert KEPT_S - 5 <= redis.do("TTL", key) <= KEPT_S
    assert b"France" not in redis.do("GET", key)


@pytest.mark.parametrize("kept", ["", "[]", "{", '{"model": 3}', '{"model": "small", "messages": "one"}'])
async def test_what_somebody_else_has_written_is_a_miss(redis: RedisServer, kept: str) -> None:
    redis.do("SET", PREFIX + name_of(asked("odd")), kept)
    async with shared(redis) as sessions:
        assert await sessions.find(asked("odd")) is None


async def test_while_redis_is_stalled_a_gateway_has_its_own_and_waits_little(redis: RedisServer) -> None:
    async with shared(redis) as sessions:
        sessions.remember(asked("mine"), "small")
        await sessions.aclose()
        redis.pause()
        try:
            began_at = time.monotonic()
            found, unknown = await asyncio.gather(sessions.find(asked("mine")), sessions.find(asked("other")))
            took_s = time.monotonic() - began_at
            sessions.remember(asked("other"), "large")
            await sessions.aclose()
        finally:
            redis.resume()
        print(json.dumps({"patience_s": PATIENCE_S, "waited_s": round(took_s, 3)}))
    assert found is not None
    assert (found.model, unknown) == ("small", None)
    assert took_s < PATIENCE_S + 1
