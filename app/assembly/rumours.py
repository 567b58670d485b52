"""What gateways on one Redis tell each other about the replicas that they share: who is out, who is back, who rests.

It is told as it happens, to whoever hears it then. While Redis is down nobody hears anything, and each gateway finds
out by itself, as it would alone.

That a replica is out is hearsay, because the fault may be the teller's own: it goes out here at the next failure here,
or at once where requests have failed here of late.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import get_args

from app.store.redis_client import RedisClient
from app.upstream.fleet.changes import Change, Tell, What
from app.upstream.fleet.rests import MAX_REST_S

CHANNEL = "thalamus:health:{database}"
"""Of one database of Redis, which itself tells all of them the same."""


class Rumours:
    """Tells what this gateway has noticed, and hears what others have."""

    def __init__(self, redis: RedisClient, gateway: str) -> None:
        """`gateway` is the same name in all processes of one, which hear of each other without Redis."""
        self._redis, self._gateway = redis, gateway
        self._channel = CHANNEL.format(database=redis.database)

    def tell(self, change: Change) -> None:
        message = {"from": self._gateway, **asdict(change)}
        self._redis.publish(self._channel, json.dumps(message).encode())

    @asynccontextmanager
    async def heard_by(self, hear: Callable[[Change], None]) -> AsyncIterator[None]:
        """Pass on what others tell, for as long as the block runs."""

        def heard(message: bytes) -> None:
            if change := self.read(message):
                hear(change)

        subscription = self._redis.subscribe(self._channel, heard)
        try:
            yield
        finally:
            await subscription.aclose()

    def read(self, message: bytes) -> Change | None:
        """What another gateway has noticed; None for what is ours, or makes no sense."""
        try:
            told = json.loads(message)
            seconds, model = float(told["seconds"]), told.get("model", "")
            change = Change(told["backend"], told["url"], told["what"], seconds, model)
            is_ours = told["from"] == self._gateway
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        names = (change.backend, change.url, change.model)
        makes_sense = all(isinstance(name, str) for name in names) and change.what in get_args(What)
        return change if makes_sense and 0.0 <= change.seconds <= MAX_REST_S and not is_ours else None


def both(one: Tell, other: Tell) -> Tell:
    """Tell two."""

    def tell(change: Change) -> None:
        one(change)
        other(change)

    return tell
