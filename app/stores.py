"""What a gateway keeps and shares: opened as one before anything is served, closed after everything else.

`store: embedded` is this process and the files in `state_dir`; an address is Redis, which any number of gateways share.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from app.settings import Settings
from app.store.journal import RecentDecisions
from app.store.limits import Limits, MemoryLimits
from app.store.redis_client import RedisClient
from app.store.sessions import MemorySessions, RedisSessions, Sessions
from app.telemetry.kept_metrics import FEATURES


@dataclass(frozen=True)
class Stores:
    """Everything that outlives a request."""

    limits: Limits
    journal: RecentDecisions = field(default_factory=RecentDecisions)
    redis: RedisClient | None = None
    """None where the store is embedded."""
    sessions: Sessions = field(default_factory=MemorySessions)

    def up(self) -> Mapping[str, bool]:
        """Whether what each feature needs of the store can be had, for the metrics."""
        return dict.fromkeys(FEATURES, self.redis is None or not self.redis.is_down)


@asynccontextmanager
async def open_stores(
    settings: Settings, limits: Limits | None = None, sessions: MemorySessions | None = None
) -> AsyncIterator[Stores]:
    """`limits` and `sessions` are those that this process shares with others of its gateway, if any.

    Raises:
        UsageError: a store cannot be opened; the message is one line.
    """
    async with AsyncExitStack() as stack:
        redis, shared = None, None
        if settings.store:
            password = settings.store_password
            redis = RedisClient(settings.store, password.reveal() if password else None, time.monotonic)
            stack.push_async_callback(redis.aclose)
            shared = RedisSessions(redis)
            stack.push_async_callback(shared.aclose)
        yield Stores(
            limits or MemoryLimits(settings.limits.in_flight, time.monotonic),
            redis=redis,
            sessions=shared or sessions or MemorySessions(),
        )
