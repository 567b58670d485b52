"""What is kept of requests when they are over: one record each, and where it goes.

A record is a JSON object: what was known before the request was sent (`app.store.journal.rows`), and under `end` what
became of it. Each is applied exactly once, together with what it cost: a store remembers how far it has come with each
spool, and changes that in the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import orjson

INTERRUPTED = "interrupted"
"""How a request ended whose process died."""
FEEDBACK_FIELDS = ("score", "thumbs", "time")
DAY_S = 86_400
_EPOCH = date(1970, 1, 1).toordinal()


class Ended(NamedTuple):
    """A request that is over."""

    seq: int
    """The number of the row that said so."""
    of: int
    """The number of the row that began it; with the spool's name that is the record's own."""
    at: float
    """When it was admitted, by wall clock: the day and the month in which it counts."""
    key_id: str
    decision_id: str | None
    usd: float
    """What it cost; 0 where that is not known."""
    record: bytes
    held_in: str | None = None
    """The day or month of the hard budget of which it was held, so that what was lent for it is lent no more."""

    @property
    def periods(self) -> tuple[str, str]:
        """The day and the month, in UTC."""
        return periods_of(self.at)


class Feedback(NamedTuple):
    """What a caller thinks of an answer."""

    seq: int
    at: float
    key_id: str
    decision_id: str
    payload: bytes


@dataclass(slots=True)
class Batch:
    """What is applied in one step."""

    spool: str
    until: int = 0
    """The number of the last row of the spool that is in it."""
    ended: list[Ended] = field(default_factory=list)
    feedback: list[Feedback] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.ended or self.feedback)


class Keep(NamedTuple):
    """How much of the journal is kept; the stricter one counts."""

    days: float = 30.0
    records: int | None = None
    """None is what suits the store."""


KEEP = Keep()


class Kept(NamedTuple):
    """A record as it was found again."""

    key_id: str
    record: dict[str, Any]
    feedback: dict[str, Any] | None = None


class JournalStore(Protocol):
    """Where records are kept. All of it may raise `StoreDown`."""

    batch_rows: int
    """How many rows it takes in one step, at most."""

    async def applied(self, spool: str) -> int:
        """The number of the last row of a spool that was applied; 0 where none was."""
        ...

    async def apply(self, batch: Batch) -> None:
        """Keep these, and add what they cost; rows that were applied before are left out."""
        ...

    async def forget(self, spool: str) -> None:
        """A spool is no more."""
        ...

    async def find(self, decision_id: str) -> Kept | None:
        """The record of a decision."""
        ...

    async def feedback(self, decision_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What callers think, by decision, where they said something."""
        ...

    async def after(self, place: str | None, most: int) -> list[tuple[str, bytes]]:
        """Records in the order in which they were applied, each with its place; None is before the first."""
        ...

    async def place_before(self, latest: int) -> str | None:
        """The place before so many of the latest records."""
        ...

    async def trim(self, now: float) -> None:
        """Drop what is older, or more, than is to be kept."""
        ...

    async def aclose(self) -> None: ...


def periods_of(at: float) -> tuple[str, str]:
    """The day and the month of a time, in UTC: `2026-11-27` and `2026-11`."""
    return _periods(int(at // DAY_S))


@lru_cache(maxsize=64)
def _periods(days: int) -> tuple[str, str]:
    day = date.fromordinal(_EPOCH + days).isoformat()
    return day, day[:7]


def told_feedback(payload: bytes) -> dict[str, Any]:
    """The part of feedback that its caller sees again."""
    found = orjson.loads(payload)
    return {name: found[name] for name in FEEDBACK_FIELDS if found.get(name) is not None}
