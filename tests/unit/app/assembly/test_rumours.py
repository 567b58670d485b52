"""What a gateway makes of what others tell it."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from app.assembly.rumours import Rumours, both
from app.store.redis_client import RedisClient
from app.upstream.fleet.changes import Change
from tests.fakes.redis_server import running_redis

TOLD: dict[str, Any] = {
    "from": "other",
    "backend": "small",
    "url": "http://127.0.0.1:9000",
    "what": "rests",
    "seconds": 3.0,
}


@pytest.fixture
async def rumours() -> Rumours:
    return Rumours(RedisClient("redis://127.0.0.1:1/0", None, lambda: 0.0), "ours")


async def test_it_hears_what_others_have_noticed(rumours: Rumours) -> None:
    assert rumours.read(json.dumps(TOLD).encode()) == Change("small", "http://127.0.0.1:9000", "rests", 3.0)


async def test_it_hears_which_model_is_limited(rumours: Rumours) -> None:
    told = TOLD | {"what": "limited", "model": "gpt"}
    assert rumours.read(json.dumps(told).encode()) == Change("small", TOLD["url"], "limited", 3.0, "gpt")


@pytest.mark.parametrize(
    "changes",
    [
        {"from": "ours"},
        {"model": 7},
        {"model": None},
        {"what": "sings"},
        {"what": ["out"]},
        {"backend": 7},
        {"url": None},
        {"seconds": -1},
        {"seconds": 1e9},
        {"seconds": "nan"},
        {"seconds": []},
    ],
)
async def test_what_is_its_own_or_makes_no_sense_is_passed_over(rumours: Rumours, changes: dict[str, Any]) -> None:
    assert rumours.read(json.dumps(TOLD | changes).encode()) is None


@pytest.mark.parametrize("message", [b"", b"\xff\xfe", b"[]", b"null", b"{}", b"[" * 100_000])
async def test_anything_can_be_published(rumours: Rumours, message: bytes) -> None:
    assert rumours.read(message) is None


async def test_each_database_of_a_redis_has_a_channel_of_its_own(tmp_path: Path) -> None:
    told: list[bytes] = []
    with running_redis(tmp_path) as redis, Redis.from_url(redis.url) as channels:
        listening = channels.pubsub()
        listening.psubscribe("thalamus:health:*")
        assert listening.get_message(timeout=5)
        for database in (0, 3):
            async with aclosing(RedisClient(f"{redis.url}?db={database}", None, lambda: 0.0)) as client:
                Rumours(client, "ours").tell(Change("small", "http://127.0.0.1:9000", "back"))
            message = await asyncio.to_thread(listening.get_message, timeout=5)
            told.append(message["channel"])
    assert told == [b"thalamus:health:0", b"thalamus:health:3"]


async def test_two_are_told_in_their_order() -> None:
    told: list[tuple[int, Change]] = []
    change = Change("small", "http://127.0.0.1:9000", "back")
    both(lambda one: told.append((1, one)), lambda one: told.append((2, one)))(change)
    assert told == [(1, change), (2, change)]
