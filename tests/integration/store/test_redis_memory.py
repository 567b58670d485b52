"""Whether a Redis drops keys when its memory is full, as far as it says so."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from app.store.redis_client import RedisClient
from app.store.redis_memory import evicts_by
from tests.fakes.redis_server import RedisServer


@pytest.mark.parametrize(
    ("maxmemory", "policy", "expected"),
    [
        ("1gb", "volatile-lru", "volatile-lru"),
        ("1gb", "allkeys-lfu", "allkeys-lfu"),
        ("1gb", "noeviction", None),
        ("0", "volatile-lru", None),
    ],
)
async def test_a_redis_says_how_it_evicts(
    redis_server: RedisServer, maxmemory: str, policy: str, expected: str | None
) -> None:
    redis_server.do("CONFIG", "SET", "maxmemory", maxmemory)
    redis_server.do("CONFIG", "SET", "maxmemory-policy", policy)
    assert await _asked(redis_server) == expected


@pytest.mark.parametrize(
    "fall_silent", [lambda server: server.do("ACL", "SETUSER", "default", "-info"), RedisServer.stop]
)
async def test_one_that_does_not_say_is_no_reason_to_complain(
    redis_server: RedisServer, fall_silent: Callable[[RedisServer], None]
) -> None:
    redis_server.do("CONFIG", "SET", "maxmemory", "1gb")
    redis_server.do("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    fall_silent(redis_server)
    assert await _asked(redis_server) is None


async def _asked(server: RedisServer) -> str | None:
    client = RedisClient(server.url, None, time.monotonic)
    try:
        return await evicts_by(client)
    finally:
        await client.aclose()
