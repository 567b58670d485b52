"""Reads a spool from its oldest segment on, and puts the rows of each request together.

It knows which requests have begun and not ended, and so which segments are done with: those of which every row was
applied, and whose requests are all over, or were carried on into a later one. After a restart everything that is left
is read again; what had been applied is told by its number.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from app.store.journal.kept import INTERRUPTED, Batch, Ended, Feedback
from app.store.journal.rows import Facts, sealed, unsealed, whole
from app.store.journal.spool import ADMITTED, ENDED, Mark, Row, segment_path, segments, unpacked

READ_BYTES = 256 << 10


class _Open(NamedTuple):
    segment: int
    payload: bytes


class Follower:
    """Reads one spool."""

    def __init__(self, path: Path, batch_rows: int, applied: int = 0) -> None:
        """`applied` is the number of the last row that a store has; those up to it are read, but in no batch."""
        self._batch_rows = batch_rows
        self.path, self.spool, self.applied = path, path.name, applied
        self.read_to = 0
        """The number of the last row that was read. What follows it may be applied already: see `interrupted`."""
        self._open: dict[int, _Open] = {}
        self._open_in: Counter[int] = Counter()
        self._numbers = [number for number, _ in segments(path)]
        self._at = Mark(self._numbers[0] if self._numbers else 1, 0)
        self._rows: list[Row] = []
        self._batch, self._next = Batch(self.spool), Batch(self.spool)
        """The one that was handed out last, and the one that is put together."""

    @property
    def open(self) -> int:
        """Requests that have begun, and not ended as far as was read."""
        return len(self._open)

    def batch(self, end: Mark | None = None) -> Batch:
        """The next rows to apply, up to `end`, or to the end of what can be read; empty when there are none.

        The same ones again until they are applied, because whoever asked may not have heard the answer.

        Raises:
            OSError: they cannot be read; what was read is in the next answer.
        """
        if self._batch.until > self.applied:
            return self._batch
        batch = self._next
        while len(batch.ended) + len(batch.feedback) < self._batch_rows:
            if not self._rows and not self._read(end):
                break
            self._take(batch)
        self._batch, self._next = batch, Batch(self.spool, self.read_to)
        return batch

    def interrupted(self, now: float) -> Iterator[Batch]:
        """What is left of a dead process's requests once all its rows were read, with the numbers that follow theirs.

        Whoever does this again gets the same numbers.
        """
        batch = Batch(self.spool, self.read_to)
        for of, left in sorted(self._open.items()):
            self.read_to = batch.until = self.read_to + 1
            if self.read_to > self.applied:
                batch.ended.append(_ended(self.read_to, of, left.payload, _broken_off(left.payload, now)))
            if len(batch.ended) >= self._batch_rows:
                yield batch
                batch = Batch(self.spool, self.read_to)
        self._open.clear()
        if batch:
            yield batch

    def done_with(self) -> list[Path]:
        """Segments that nobody needs any more, once what was read is applied; forget them when they are dropped."""
        done: list[Path] = []
        while self._numbers and self._numbers[0] < self._at.segment and not self._open_in[self._numbers[0]]:
            done.append(segment_path(self.path, self._numbers.pop(0)))
        return done

    def left_behind(self, segments: int) -> list[int]:
        """Requests that keep more than so many segments from being dropped: all that began before the present one."""
        if not self._numbers or self._at.segment - self._numbers[0] <= segments:
            return []
        return [of for of, one in self._open.items() if one.segment < self._at.segment]

    def _take(self, batch: Batch) -> None:
        room = self._batch_rows - len(batch.ended) - len(batch.feedback)
        rows, self._rows = self._rows[:room], self._rows[room:]
        for row in rows:
            self._note(row, batch)
        batch.until = self.read_to

    def _note(self, row: Row, batch: Batch) -> None:
        seq, of, kind, payload = row
        is_new = seq > self.applied
        self.read_to = max(self.read_to, seq)
        if kind == ADMITTED:
            if carried := self._open.get(seq):
                self._open_in[carried.segment] -= 1
            self._open[seq] = _Open(self._at.segment, payload)
            self._open_in[self._at.segment] += 1
        elif kind == ENDED:
            begun = self._open.pop(of, None)
            if begun is not None:
                self._open_in[begun.segment] -= 1
            if is_new:
                batch.ended.append(_ended(seq, of, begun.payload if begun else None, payload))
        elif is_new:
            told = orjson.loads(payload)
            batch.feedback.append(Feedback(seq, told["time"], told["key"], told["decision_id"], payload))

    def _read(self, end: Mark | None) -> bool:
        """Read some rows; whether there were any."""
        while True:
            size = end.offset - self._at.offset if end and self._at.segment == end.segment else None
            data = _bytes_at(segment_path(self.path, self._at.segment), self._at.offset, size)
            last = self._at.offset
            for row, stop in unpacked(data):
                self._rows.append(row)
                last = self._at.offset + stop
            if self._rows:
                self._at = Mark(self._at.segment, last)
                if self._at.segment not in self._numbers:
                    self._numbers.append(self._at.segment)
                return True
            if not self._next_segment(end):
                return False

    def _next_segment(self, end: Mark | None) -> bool:
        """Go on to the next segment, if there is one that was begun."""
        following = self._at.segment + 1
        if (end and following > end.segment) or not segment_path(self.path, following).exists():
            return False
        self._at = Mark(following, 0)
        return True


def _bytes_at(path: Path, offset: int, size: int | None) -> bytes:
    """Whole rows from there on, as far as they are on the disk; a row may be larger than what is usually read."""
    if size is not None and size <= 0:
        return b""
    most = READ_BYTES if size is None else min(size, READ_BYTES)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        data = os.pread(descriptor, most, offset)
        while len(data) == most and next(unpacked(data), None) is None and (size is None or most < size):
            most = 4 * most if size is None else min(4 * most, size)
            data = os.pread(descriptor, most, offset)
        return data
    finally:
        os.close(descriptor)


def _ended(seq: int, of: int, begun: bytes | None, end: bytes) -> Ended:
    facts, rest = unsealed(end)
    record = whole(begun or facts.begun(), rest)
    return Ended(seq, of, facts.at, facts.key_id, facts.decision_id, facts.usd, record, facts.held_in)


def _broken_off(begun: bytes, now: float) -> bytes:
    """The end of a request whose process died: it is taken to have used what was expected, or held back for it."""
    row: dict[str, Any] = orjson.loads(begun)
    held, expected = row.get("reserved_usd"), row.get("expected_usd")
    usd = expected if held is None else held
    end = {
        "time": now,
        "outcome": INTERRUPTED,
        "model": row.get("chosen"),
        "reason": row.get("reason"),
        "cost_usd": usd,
        "reconstructed": True,
    }
    facts = Facts(row["time"], usd or 0.0, row["key"], row.get("decision_id"), row.get("held_in"))
    return sealed(facts, orjson.dumps({"end": end}))
