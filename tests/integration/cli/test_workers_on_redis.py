"""Gateways on one Redis: each worker is one of those that share it, and what it should not do is said."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.store.limits.scripts import HOLDERS
from tests.conftest import free_ports
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.caller import chat
from tests.fakes.deployment import write_config
from tests.fakes.program import KEYS, serving
from tests.fakes.redis_server import running_redis

pytestmark = pytest.mark.slow

LIMITED: dict[str, Any] = {
    "id": "limited",
    "secret": "sk-limited",
    "models": ["*"],
    "max_priority": "high",
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "concurrency": 5,
}


async def test_two_workers_and_another_gateway_give_a_key_its_limits_once(tmp_path: Path) -> None:
    with running_redis(tmp_path) as redis:
        async with FakeBackend(Script(delay_s=1)) as backend:
            configs = [configured(tmp_path / name, backend, redis.url, count) for name, count in (("a", 2), ("b", 1))]
            async with serving(configs[0]) as crew, serving(configs[1]) as alone:
                assert redis.do("ZCARD", HOLDERS) == 3
                outcomes = Counter(await asyncio.gather(*(ask(url) for url in (crew.url, crew.url, alone.url) * 8)))
                assert outcomes == {200: 5, 429: 19}


async def test_a_redis_that_drops_keys_is_told_of_at_the_start(tmp_path: Path) -> None:
    with running_redis(tmp_path, known=True) as redis:
        redis.do("CONFIG", "SET", "maxmemory", "1gb")
        redis.do("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        async with FakeBackend() as backend:
            config = configured(tmp_path / "a", backend, redis.url, 1)
            async with serving(config) as gateway:
                assert [one["policy"] for one in gateway.events("store.evicts")] == ["volatile-lru"]


def configured(folder: Path, backend: FakeBackend, store: str, workers: int) -> Path:
    folder.mkdir()
    data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    where: dict[str, Any] = {"listen": data, "admin_listen": admin, "store": store, "workers": workers}
    return write_config(folder, {"small": backend.url}, keys=[*KEYS, LIMITED], **where)


async def ask(url: str) -> int:
    """Over a connection of its own, so that any worker may get it."""
    headers = {"authorization": "Bearer sk-limited", "connection": "close"}
    url = f"{url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=chat(), headers=headers) as answer:
        await answer.read()
        return answer.status
