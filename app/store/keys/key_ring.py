"""All generated keys in memory, so that a call is let in without waiting for anything.

How it works: each second the store is asked for its version; when that is another one, and every 30 seconds, all keys
are read again. So what another process changes counts within two seconds. While the store does not answer, keys that
are known are good for five minutes; of one that is not known nobody can say that it is wrong, so its caller is asked to
come back. Keys of the configuration never depend on any of this.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.clock import Clock
from app.errors import Overloaded, UsageError
from app.store.keys.credentials import Pepper, PepperFile, parsed
from app.store.keys.issuer import NAMED, UNREAD, Digest, Log, NoLog, Record, check_peppers
from app.store.keys.key import SKEW_S, Key, Keys
from app.store.keys.key_store import KeyStore
from app.store.redis_client import StoreDown

LOOK_EVERY_S = 1.0
READ_EVERY_S = 30.0
# Without an answer for so long, a key that nobody knows may be a new one.
STALE_AFTER_S = 5.0
KNOWN_FOR_S = 300.0
# Of thousands of records; then others have their turn.
READ_AT_ONCE = 64

ReadKey = Callable[[str, Mapping[str, Any]], Key]


@dataclass(frozen=True, slots=True)
class _Held:
    """A key, and what is kept of its two secrets: the present one and the one before it."""

    text: str
    """As it is kept."""
    key: Key
    digests: tuple[tuple[str, bytes, float | None], tuple[str, bytes, float | None]]


_NONE = ("", bytes(32), 0.0)


def _nobody(peppers: Sequence[Pepper]) -> _Held:
    """What the secret of an unknown id is compared with, so that it takes as long as a known one."""
    pepper = peppers[0].fingerprint if peppers else ""
    return _Held("", Key("nobody"), ((pepper, os.urandom(32), None), _NONE))


class KeyRing:
    """Finds generated keys."""

    def __init__(
        self,
        store: KeyStore,
        peppers: PepperFile,
        read_key: ReadKey,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self._store, self._pepper_file, self._read_key = store, peppers, read_key
        self._clock, self._wall_clock = clock, wall_clock
        self._peppers: tuple[Pepper, ...] = ()
        self._held: dict[str, _Held] = {}
        self._lived = 0
        """How many of them were valid when they were read last."""
        self._nobody = _nobody(())
        self._version = ""
        self._turn = asyncio.Lock()
        self._heard_at = self._read_at = -KNOWN_FOR_S * 2
        self.changed: Callable[[], object] = lambda: None
        """Called after keys have come, gone, or changed."""
        self.log: Log = NoLog()
        self._warned = ""
        self._unread: list[str] = []
        """Ids of those that a later release wrote."""
        self._unread_told: list[str] = []

    @property
    def is_stale(self) -> bool:
        """The store did not answer when it was asked last, or cannot be used."""
        return bool(self._warned)

    @property
    def keys(self) -> Sequence[Key]:
        """Those that are valid."""
        return [held.key for held in self._living(self._held).values()]

    def find(self, secret: str) -> Key | None:
        """
        Raises:
            Overloaded: the store has not answered for so long that it cannot be said.
        """
        credential = parsed(secret)
        if credential is None:
            return None
        silent_s = self._clock() - self._heard_at
        if silent_s > KNOWN_FOR_S:
            raise _unknowable()
        held = self._held.get(credential.public, self._nobody)
        is_it = self._is_secret(credential.secret, held)
        if silent_s > STALE_AFTER_S and held is self._nobody:
            raise _unknowable()
        return held.key if is_it else None

    def _is_secret(self, secret: str, held: _Held) -> bool:
        """Whether one of the key's secrets is this one; takes as long whichever it is, and when none is."""
        made = [(pepper.fingerprint, pepper.digest(secret)) for pepper in self._peppers]
        now, found = self._wall_clock(), False
        for pepper, kept, until in held.digests:
            is_good = until is None or now <= until + SKEW_S
            for fingerprint, digest in made:
                found |= hmac.compare_digest(kept, digest) & (pepper == fingerprint) & is_good
        return found

    async def refresh(self) -> None:
        """Hear what is new.

        Raises:
            StoreDown: the store does not answer.
            UsageError: this gateway has not the pepper that the keys were made with.
        """
        async with self._turn:
            asked_at = self._clock()
            version = await self._store.version()
            if version != self._version or asked_at - self._read_at > READ_EVERY_S:
                await self._read_all()
                self._version, self._read_at = version, asked_at
            self._heard_at = asked_at

    async def watch(self) -> None:
        """Stay up to date; never returns."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.refresh()
                self._warned = ""
                self.report_unread()
            # What is in a store may be anything.
            except (StoreDown, UsageError, ValueError, TypeError) as exc:
                self._warn_once(str(exc))

    def _warn_once(self, why: str) -> None:
        if not self._warned:
            self.log.write("keys.stale", why=why)
        self._warned = why

    def report_unread(self) -> None:
        """Log which keys cannot be read, if they are others than before."""
        if self._unread and self._unread != self._unread_told:
            self.log.write("keys.unread", keys=self._unread[:NAMED], count=len(self._unread))
        self._unread_told = self._unread

    async def _read_all(self) -> None:
        texts, held, unread = await self._store.records(), {}, []
        for number, (key_id, text) in enumerate(texts.items()):
            known = self._held.get(key_id)
            try:
                if key := known if known and known.text == text else self._read(text):
                    held[key_id] = key
            except UNREAD:
                unread.append(key_id)
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._unread = sorted(unread)
        await check_peppers(self._store, self._pepper_file, self._needed(held))
        peppers, living = self._pepper_file.read(), len(self._living(held))
        if (held, peppers, living) != (self._held, self._peppers, self._lived):
            self._held, self._peppers, self._nobody, self._lived = held, peppers, _nobody(peppers), living
            self.changed()

    def _needed(self, held: Mapping[str, _Held]) -> Mapping[str, str]:
        """The pepper of each key that can still call."""
        return {key_id: one.digests[0][0] for key_id, one in self._living(held).items()}

    def _living(self, held: Mapping[str, _Held]) -> Mapping[str, _Held]:
        ended_by = self._wall_clock() - SKEW_S
        return {key_id: one for key_id, one in held.items() if (one.key.expires_at or math.inf) >= ended_by}

    def _read(self, text: str) -> _Held | None:
        """What is held of a record; None for one that was revoked.

        Raises:
            UNREAD: a later release wrote it. It may know limits of which nothing is known here, so it is nobody's key.
        """
        record = Record.of(text)
        if record.revoked_at:
            return None
        return _Held(text, self._read_key(record.id, record.grant), _two(record.digests))


class AllKeys:
    """The keys of the configuration, and those that were generated."""

    def __init__(self, static: Keys, ring: Keys) -> None:
        self._static, self._ring = static, ring

    def find(self, secret: str) -> Key | None:
        return self._static.find(secret) or self._ring.find(secret)


def _two(digests: Sequence[Digest]) -> Any:
    kept = [(one.pepper, bytes.fromhex(one.digest), one.until) for one in digests]
    return (*kept, _NONE)[:2]


def _unknowable() -> Overloaded:
    return Overloaded("the gateway cannot look this key up at the moment; try again in a few seconds", retry_after_s=5)
