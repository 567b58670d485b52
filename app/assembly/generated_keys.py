"""Keys that are not in the configuration, opened where the gateway's file says they are kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.forms.grants import read_key
from app.store.keys.credentials import PepperFile
from app.store.keys.issuer import Issuer, Log
from app.store.keys.key import Secret
from app.store.keys.key_ring import KeyRing
from app.store.keys.key_store import KeyStore, RedisKeys, SqliteKeys, written
from app.store.redis_client import RedisClient, StoreDown
from app.store.sqlite import looked_at


class Place(Protocol):
    """What settings say of where things are kept."""

    @property
    def store(self) -> str | None: ...
    @property
    def store_password(self) -> Secret | None: ...
    @property
    def state_dir(self) -> Path: ...
    @property
    def pepper_file(self) -> Path: ...


@dataclass(frozen=True)
class GeneratedKeys:
    """Keys that are not in the configuration: those that are good, and how others are made."""

    ring: KeyRing
    issuer: Issuer

    def heard_by(self, log: Log) -> None:
        """Log what happens to keys."""
        self.issuer.log = self.ring.log = log


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[RedisClient | None]:
    """Redis, where one is used."""
    if place.store is None:
        yield None
        return
    password = place.store_password
    redis = RedisClient(place.store, password.reveal() if password else None, time.monotonic)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def opened_keys(
    place: Place, redis: RedisClient | None, *, only_read: bool = False
) -> AsyncIterator[GeneratedKeys]:
    """Generated keys, of which nothing was read yet."""
    file = place.state_dir / "keys.sqlite"
    store: KeyStore = RedisKeys(redis) if redis else SqliteKeys(file, looked_at if only_read else written)
    peppers = PepperFile(place.pepper_file)
    ring, issuer = KeyRing(store, peppers, read_key), Issuer(store, peppers)
    issuer.changed = ring.refresh
    try:
        yield GeneratedKeys(ring, issuer)
    finally:
        await store.aclose()


@asynccontextmanager
async def watched_keys(place: Place, redis: RedisClient | None) -> AsyncIterator[GeneratedKeys]:
    """The same, kept up to date. A store that does not answer is asked again and again.

    Raises:
        UsageError: this gateway cannot check the keys that are there; the message is one line.
    """
    async with opened_keys(place, redis) as keys:
        with suppress(StoreDown):
            await keys.ring.refresh()
        watching = asyncio.create_task(keys.ring.watch(), name="keys")
        try:
            yield keys
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
