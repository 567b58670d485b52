"""Limits of each kind, opened for tests that hold for all of them, with a clock that they can turn."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from app.store.limits.holders import Holders
from app.store.limits.limits import Limits, MemoryLimits
from app.store.limits.redis_limits import RedisLimits
from app.store.limits.scripts import HOLDERS
from app.store.limits.shared_limits import SharedLimits, Table
from app.store.redis_client import RedisClient
from tests.fakes.clock import FakeClock
from tests.fakes.redis_server import RedisServer


@dataclass
class Limiter:
    """One of several processes that share limits."""

    limits: Limits
    clock: FakeClock
    redis: RedisServer | None = None

    def advance(self, seconds: float) -> None:
        """Let time pass, here and in Redis, where that long ago everything happened."""
        self.clock.advance(seconds)
        if self.redis is None:
            return
        for name in self.redis.do("KEYS", "thalamus:limits:*"):
            self.redis.do("HINCRBY", name, "at", -round(1000 * seconds))
            self.redis.do("HINCRBY", name, "seen", -round(1000 * seconds))


@asynccontextmanager
async def limiter(kind: str, server: RedisServer | None = None, in_flight: int = 100) -> AsyncIterator[Limiter]:
    """`memory`, `shared` between processes of one machine, or `redis`."""
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        if kind == "redis":
            assert server
            limits = await stack.enter_async_context(redis_limits(server, clock, in_flight))
            yield Limiter(limits, clock, server)
        elif kind == "shared":
            table = Table.create(2)
            stack.callback(os.close, table.descriptor)
            shared = SharedLimits(table, 0, in_flight, clock)
            stack.callback(shared.close)
            yield Limiter(shared, clock)
        else:
            yield Limiter(MemoryLimits(in_flight, clock), clock)


@asynccontextmanager
async def redis_limits(
    server: RedisServer,
    clock: FakeClock | None = None,
    in_flight: int = 100,
    *,
    state_dir: Path | None = None,
    processes: int = 1,
) -> AsyncIterator[RedisLimits]:
    """One holder, with a connection of its own, and with a `state_dir` of its own unless one is named."""
    clock = clock or FakeClock()
    with TemporaryDirectory() as folder:
        holders = Holders(state_dir or Path(folder), processes, clock)
        async with (
            aclosing(RedisClient(server.url, None, clock)) as redis,
            aclosing(RedisLimits(redis, MemoryLimits(in_flight, clock), clock, holders)) as limits,
        ):
            await limits.start()
            yield limits


def let_holders_be_gone(server: RedisServer) -> None:
    """As if all that are known had told nothing for a while."""
    for name in server.do("ZRANGE", HOLDERS, 0, -1):
        server.do("ZINCRBY", HOLDERS, -60_000, name)
