"""Keys given out, taken back and exchanged; each of it leaves one line in the audit."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from app.domain.clock import Clock
from app.errors import CallerError, UsageError
from app.store.keys.credentials import Credential, Pepper, PepperFile, issue, reissued
from app.store.keys.key import Secret
from app.store.keys.key_store import KeyStore
from app.store.redis_client import StoreDown

# What is read, changed and written again is tried so often when somebody else was quicker.
TRIES = 5
# Keys that a message has room for.
NAMED = 5
UNREAD = (ValueError, TypeError, KeyError)
"""What is raised by the text of a record that another release wrote."""


class UnknownKey(CallerError):
    status = 404
    code = "key_not_found"


@dataclass(frozen=True, slots=True)
class Digest:
    """What is kept of a secret."""

    pepper: str
    """Fingerprint of the one it was made with."""
    digest: str
    until: float | None = None
    """Of the wall clock; None is without end."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a key."""

    id: str
    name: str
    """For people."""
    environment: str
    grant: Mapping[str, Any]
    """What it may use, as `app.forms.grants` writes it."""
    digests: tuple[Digest, ...]
    """Of its secret, and of the one before that while it is still good."""
    created_at: float
    created_by: str
    revoked_at: float | None = None

    @property
    def expires_at(self) -> float | None:
        """When its time is over, by the wall clock; None is never."""
        end = self.grant.get("expires_at")
        return None if end is None else dt.datetime.fromisoformat(end).timestamp()

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def of(cls, text: str) -> Record:
        """
        Raises:
            UNREAD: it is not the text of a record of this release.
        """
        fields = json.loads(text)
        return cls(**fields | {"digests": tuple(Digest(**one) for one in fields["digests"])})

    def told(self) -> dict[str, Any]:
        """All of it that may be shown."""
        fields = {name: value for name, value in asdict(self).items() if name != "digests"}
        return fields | {"peppers": [one.pepper for one in self.digests]}


@dataclass(frozen=True, slots=True)
class Issued:
    """A key, and its secret for the one time that anybody sees it."""

    secret: Secret
    record: Record
    cut_short: bool = False
    """Whether a secret before the last one, which was still good, ended by this."""

    def told(self) -> dict[str, Any]:
        """The secret, and all of the record that may be shown."""
        return {"key": self.secret.reveal(), **self.record.told(), "older_secret_ended": self.cut_short}


async def _nobody() -> None:
    """Nobody wants to hear of changes."""


class Log(Protocol):
    def write(self, event: str, **fields: Any) -> None:
        """Write one line."""


class NoLog:
    def write(self, event: str, **fields: Any) -> None:
        """Nothing."""


class Issuer:
    """Writes keys. All of it raises StoreDown when the store does not answer."""

    def __init__(self, store: KeyStore, peppers: PepperFile, wall_clock: Clock = time.time) -> None:
        self._store, self._peppers, self._wall_clock = store, peppers, wall_clock
        self.changed: Callable[[], Awaitable[object]] = _nobody
        """Called after each write."""
        self.log: Log = NoLog()

    async def create(self, name: str, grant: Mapping[str, Any], by: str, environment: str = "live") -> Issued:
        """A new key with this grant."""
        pepper = await self._pepper()
        text, made = issue(environment)
        digests = (_digest(pepper, made),)
        record = Record(made.public, name, environment, grant, digests, round(self._wall_clock(), 3), by)
        entry = await self._write("created", None, record, by)
        assert entry, "an id of 71 random bits exists already"  # noqa: S101 - it does not
        self.log.write("key.created", **entry)
        return Issued(Secret(text), record)

    async def list(self) -> Sequence[Record]:
        """All keys that there ever were, oldest first; without those that only a later release can read."""
        found: list[Record] = []
        for text in (await self._store.records()).values():
            with suppress(*UNREAD):
                found.append(Record.of(text))
        return sorted(found, key=lambda record: (record.created_at, record.id))

    async def count(self) -> int:
        """How many keys there ever were, with those that only a later release can read."""
        return len(await self._store.records())

    async def find(self, key_id: str) -> Record:
        """A key, which may have ended.

        Raises:
            UnknownKey: there is no such key.
            UsageError: a later release wrote it.
        """
        text = (await self._store.records()).get(key_id)
        if text is None:
            raise UnknownKey(f"there is no key {key_id[:40]!r}; list those that there are")
        try:
            return Record.of(text)
        except UNREAD as exc:
            raise UsageError(f"the key {key_id} was written by a later release; change it with that one") from exc

    async def revoke(self, key_id: str, by: str) -> Record:
        """End a key now. One that has ended stays as it is.

        Raises:
            UnknownKey: there is no such key.
        """

        def ended(before: Record) -> Record:
            return before if before.revoked_at else replace(before, revoked_at=round(self._wall_clock(), 3))

        record, entry = await self._change("revoked", key_id, by, ended)
        if entry:
            self.log.write("key.revoked", **entry)
        return record

    async def rotate(self, key_id: str, by: str, grace_s: float) -> Issued:
        """A new secret for a key; the old one is good for so long, and for no moment where that is zero.

        The one before that, if an earlier rotation left it good, ends now.

        Raises:
            UnknownKey: there is no such key, it was revoked, or its time is over.
        """
        pepper = await self._pepper()
        _, made = issue("live")
        made = Credential(key_id, made.secret)
        cut_short = False

        def exchanged(before: Record) -> Record:
            nonlocal cut_short
            if before.revoked_at:
                raise UnknownKey(f"the key {key_id} was revoked; create another one")
            if before.expires_at is not None and before.expires_at <= self._wall_clock():
                raise UnknownKey(f"the key {key_id} has expired, and another secret would be, too; create another key")
            cut_short = any((one.until or 0) > self._wall_clock() for one in before.digests[1:])
            if not grace_s:
                # Not even for as long as clocks may differ: who asks for this may have lost the secret to somebody.
                return replace(before, digests=(_digest(pepper, made),))
            old = replace(before.digests[0], until=round(self._wall_clock() + grace_s, 3))
            return replace(before, digests=(_digest(pepper, made), old))

        record, entry = await self._change("rotated", key_id, by, exchanged)
        self.log.write("key.rotated", **entry)
        return Issued(Secret(reissued(record.environment, made)), record, cut_short)

    async def audit(self, count: int = 100) -> Sequence[Mapping[str, Any]]:
        """Who did what to which key, oldest first; `before` and `after` are digests of the record."""
        return [json.loads(line) for line in await self._store.audits(count)]

    async def _change(
        self, what: str, key_id: str, by: str, change: Callable[[Record], Record]
    ) -> tuple[Record, Mapping[str, Any]]:
        """The record as it is then, and what the log is to say; nothing where nothing changed."""
        for _ in range(TRIES):
            before = await self.find(key_id)
            after = change(before)
            if after == before:
                return after, {}
            if entry := await self._write(what, before, after, by):
                return after, entry
        raise UsageError(f"somebody else keeps changing the key {key_id}; try again")

    async def _write(self, what: str, before: Record | None, after: Record, by: str) -> Mapping[str, Any]:
        """What the log is to say; nothing when somebody else was quicker."""
        text, text_before = after.text(), before.text() if before else ""
        entry = {"by": by, "key": after.id, "before": _fingerprint(text_before), "after": _fingerprint(text)}
        line = json.dumps({"at": round(self._wall_clock(), 3), "what": what, **entry})
        if not await self._store.put(after.id, text, text_before, line):
            return {}
        with suppress(StoreDown, UsageError):  # it is written; who mirrors the keys asks again anyway
            await self.changed()
        return entry

    async def _pepper(self) -> Pepper:
        """The newest one; made when no key was ever created.

        Raises:
            UsageError: the other gateways on this store have another one.
        """
        own = self._peppers.read()
        if not own and await self._store.peppers():
            raise UsageError(_strange(self._peppers))
        pepper = own[0] if own else self._peppers.create()
        if not await self._store.admit_pepper(pepper.fingerprint, [one.fingerprint for one in own]):
            raise UsageError(_strange(self._peppers))
        return pepper


def _strange(peppers: PepperFile) -> str:
    what = "is another pepper than" if peppers.path.exists() else "is missing; it must be"
    return f"{peppers.path}: {what} the one that the keys in the store were made with; copy it from the other gateways"


async def check_peppers(store: KeyStore, peppers: PepperFile, needed: Mapping[str, str]) -> None:
    """See that this gateway can check the keys of the store: `needed` has the pepper of each that lives, by its id.

    Raises:
        UsageError: it cannot.
        StoreDown: nobody knows.
    """
    own, noted = {one.fingerprint for one in peppers.read()}, await store.peppers()
    if noted and not own & noted:
        raise UsageError(_strange(peppers))
    if without := sorted(key_id for key_id, pepper in needed.items() if pepper not in own):
        more = len(without) - NAMED
        raise UsageError(
            f"{peppers.path}: lacks the pepper of keys that live: {', '.join(without[:NAMED])}"
            f"{f' and {more} more' if more > 0 else ''}; put its line back, or copy the file from a gateway that has "
            "it, until they are rotated or revoked"
        )


def _digest(pepper: Pepper, made: Credential) -> Digest:
    return Digest(pepper.fingerprint, pepper.digest(made.secret).hex())


def _fingerprint(text: str) -> str | None:
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else None
