"""The journal of a gateway that keeps one: memory for the latest decisions, a spool and a store for all of them.

A decision that this process does not remember was made by another one, or long ago. It is looked for where records are
kept, then in the spools of processes on this machine, because what has happened in the last second is only there.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from app.store.journal.journal import Entry, Outcome, RecentDecisions
from app.store.journal.kept import FEEDBACK_FIELDS, JournalStore, Kept
from app.store.journal.rows import Facts, Outline, begun, ended, shortened, unsealed, whole
from app.store.journal.spool import ADMITTED, ENDED, Row, Spool, segments, spools, unpacked


class RecordedJournal(RecentDecisions):
    """A `Journal` that forgets nothing for as long as is set."""

    def __init__(self, spool: Spool, store: JournalStore, outline: Outline, wall_clock: Callable[[], float]) -> None:
        super().__init__()
        self.spool, self._store, self._outline, self._wall_clock = spool, store, outline, wall_clock

    def admitted(self, entry: Entry) -> None:
        entry.at = self._wall_clock()

    def decided(self, entry: Entry) -> None:
        super().decided(entry)
        entry.seq = self.spool.admit(begun(entry))

    def closed(self, entry: Entry) -> None:
        outcome = entry.outcome or Outcome("internal")
        of = entry.seq or self.spool.begin(begun(entry))
        if of:
            row = ended(entry, outcome, self._wall_clock(), self._outline)
            if not self.spool.end(of, row):
                self.spool.end_briefly(of, shortened(row))
        super().closed(entry)

    async def look_up(self, decision_id: str, key_id: str) -> Kept | None:
        found = await self._store.find(decision_id)
        if found is None:
            found = await asyncio.to_thread(in_spools, self.spool.path.parent, decision_id)
        return found if found is not None and found.key_id == key_id else None

    async def feedback(self, decision_id: str) -> dict[str, Any] | None:
        told = await self._store.feedback([decision_id])
        return told.get(decision_id)

    def rated(self, entry: Entry | None, feedback: dict[str, Any]) -> bool:
        feedback = {**feedback, "time": round(self._wall_clock(), 3)}
        if not self.spool.note(orjson.dumps(feedback)):
            return False
        super().rated(entry, {name: feedback[name] for name in FEEDBACK_FIELDS if name in feedback})
        return True


def in_spools(folder: Path, decision_id: str) -> Kept | None:
    """What the spools of all processes on this machine have of a decision."""
    for path in spools(folder):
        found = _Found(None, None)
        for _, segment in reversed(segments(path)):
            # The row that ends a request stands in no older segment than those that begin it.
            begun, end = _in_segment(segment, decision_id)
            found = _Found(begun, found.end or end)
            if begun is not None:
                break
        if kept := _kept(found):
            return kept
    return None


class _Found(NamedTuple):
    """The rows of a decision, as far as there are any."""

    begun: bytes | None
    end: tuple[Facts, bytes] | None


def _in_segment(path: Path, decision_id: str) -> _Found:
    needle = decision_id.encode()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(needle) < 0:
                return _Found(None, None)
            return _found_in((row for row, _ in unpacked(data[:]) if needle in row.payload), decision_id)
    except (OSError, ValueError):
        # It was dropped meanwhile, is empty, or another release wrote it.
        return _Found(None, None)


def _found_in(rows: Iterable[Row], decision_id: str) -> _Found:
    """
    Raises:
        ValueError: another release wrote them.
    """
    begun, end = None, None
    for row in rows:
        if row.kind == ADMITTED and orjson.loads(row.payload)["decision_id"] == decision_id:
            begun = row.payload
        elif row.kind == ENDED and (sealed := unsealed(row.payload))[0].decision_id == decision_id:
            end = sealed
    return _Found(begun, end)


def _kept(found: _Found) -> Kept | None:
    if found.end is not None:
        facts, rest = found.end
        return Kept(facts.key_id, orjson.loads(whole(found.begun or facts.begun(), rest)))
    if found.begun is not None:
        record = orjson.loads(found.begun)
        return Kept(record["key"], record)
    return None
