"""The journal's way to the disk: what happens is appended to files of this process before anything else keeps it.

How it works: a spool is a folder with a lock, which its process holds as long as it lives, and with numbered segments.
A row has a number, a check sum and a length, so one that was torn is seen as that. What was written survives the death
of the process; `app.store.journal.recorder` takes it from here to where it is kept, and drops segments that are done
with.

Rows that nobody may miss are written at once, the others with the next one of those, or when the spool is flushed.
A disk that is full, or a spool that is, costs no request: rows wait in memory for a while, then they are dropped and
counted. `is_stopped` says so, for those who must not go on without a record.

Segments are dropped from the oldest on, so a request that runs for long would hold up all that came after it: its first
row is carried on, which is to write it again into the newest segment. Of the rows of a request the one that ends it is
therefore the last in any order of reading, and a segment never begins with a row that was carried there, so that the
last one has the highest number.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ADMITTED, ENDED, FEEDBACK = 1, 2, 3
"""Kinds of rows."""

# At 2 KB a request, an outage of the store of ten minutes at 50 requests per second.
LIMIT_BYTES = 64 << 20
# Some of them are kept for a request that runs for long; all together still less than what an operator is told of.
SEGMENT_BYTES = 2 << 20
# What may wait in memory while nothing can be written: rows that end a request have twice the room of the others,
# because the first row of their request may be on the disk already, and brief ones that stand for them three times.
WAITING_BYTES = 4 << 20

_HEADER = struct.Struct("<IIQQB")
_NEW, _LOCK = ".new-", "lock"


class Row(NamedTuple):
    """One line of the journal."""

    seq: int
    """Its number in the spool, from 1."""
    of: int
    """The number of the row that it goes with; 0 where there is none."""
    kind: int
    payload: bytes
    """A JSON object."""


class Mark(NamedTuple):
    """A place in a spool: all before it can be read."""

    segment: int
    offset: int


class Spool:
    """The spool of this process. One thread writes."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES, segment_bytes: int = SEGMENT_BYTES) -> None:
        """`folder` has the spools of all processes.

        Raises:
            OSError: none can be made there.
        """
        self.id = os.urandom(12).hex()
        """Also the name under which this process holds parts of budgets."""
        self.path = folder / self.id
        self.dropped = 0
        """Rows that were lost."""
        self.is_stopped = False
        """Whether rows cannot be written now."""
        self._limit_bytes, self._segment_bytes = limit_bytes, segment_bytes
        self._kept_bytes = self._size = self._seq = self._waiting_bytes = 0
        self._waiting: list[bytes] = []
        self._open: dict[int, bytes] = {}
        """The first rows of requests that have not ended."""
        self._lock = _make(folder, self.id)
        self._segment, self._descriptor = 1, _open_segment(self.path, 1)

    @property
    def kept_bytes(self) -> int:
        """What is on the disk, and not yet done with."""
        return self._kept_bytes

    @property
    def mark(self) -> Mark:
        """The end of what was written."""
        return Mark(self._segment, self._size)

    def admit(self, payload: bytes) -> int:
        """Write a row now; returns its number, or 0 if it had to be dropped."""
        seq = self._wait(0, ADMITTED, payload, WAITING_BYTES)
        if not seq:
            self.dropped += 1
            return 0
        self._open[seq] = payload
        if not self.is_stopped:
            self.flush()
        return seq

    def begin(self, payload: bytes) -> int:
        """The same for a request that is over already: it is written with the row that ends it."""
        seq = self._wait(0, ADMITTED, payload, WAITING_BYTES)
        self.dropped += not seq
        return seq

    def end(self, of: int, payload: bytes) -> int:
        """The row that ends what another one began; written with the next row, or flush.

        Returns its number, or 0 where there is no room for it: then `end_briefly`.
        """
        seq = self._wait(of, ENDED, payload, 2 * WAITING_BYTES)
        if seq:
            self._open.pop(of, None)
        return seq

    def end_briefly(self, of: int, payload: bytes) -> int:
        """The same with less in it; of what is dropped now, nothing is known but that it began."""
        seq = self._wait(of, ENDED, payload, 3 * WAITING_BYTES)
        if seq:
            self._open.pop(of, None)
        self.dropped += not seq
        return seq

    def note(self, payload: bytes) -> bool:
        """Write feedback now; returns whether that was possible."""
        if self.is_stopped:
            return False
        seq = self._wait(0, FEEDBACK, payload, WAITING_BYTES)
        self.dropped += not seq
        self.flush()
        return seq > 0 and not self.is_stopped

    def carry(self, numbers: Iterable[int]) -> None:
        """Write the first rows of these requests again, of those that have not ended; the limit does not count.

        A disk that is full takes none of them.
        """
        rows = [packed(one, 0, ADMITTED, self._open[one]) for one in numbers if one in self._open]
        if rows and self._size:
            self._write(b"".join(rows), may_begin_segment=False)

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            self.is_stopped = self._kept_bytes >= self._limit_bytes
            return
        data = b"".join(self._waiting)
        self.is_stopped = self._kept_bytes + len(data) > self._limit_bytes or not self._write(data)
        if not self.is_stopped:
            self._waiting.clear()
            self._waiting_bytes = 0

    def sync(self, since: Mark, end: Mark) -> None:
        """See to it that what was written from one place to the other survives the machine. For any thread.

        Raises:
            OSError: it may not.
        """
        for number in range(since.segment, end.segment + 1):
            descriptor = os.open(segment_path(self.path, number), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def freed(self, size_bytes: int) -> None:
        """So much of it was dropped from the disk."""
        self._kept_bytes -= size_bytes

    def close(self, *, is_done: bool) -> None:
        """Let go of it; once all is done with, nothing of it is left."""
        os.close(self._descriptor)
        if is_done:
            remove(self.path)
        os.close(self._lock)

    def _wait(self, of: int, kind: int, payload: bytes, room_bytes: int) -> int:
        if self._waiting_bytes + len(payload) > room_bytes:
            return 0
        self._seq += 1
        self._waiting.append(packed(self._seq, of, kind, payload))
        self._waiting_bytes += len(payload)
        return self._seq

    def _write(self, data: bytes, *, may_begin_segment: bool = True) -> bool:
        try:
            if self._size >= self._segment_bytes and may_begin_segment:
                self._next_segment()
            written = os.write(self._descriptor, data)
        except OSError:
            written = -1
        if written == len(data):
            self._size += written
            self._kept_bytes += written
            return True
        if written > 0:
            # Half a row in the middle would hide those that come after it.
            os.ftruncate(self._descriptor, self._size)
        return False

    def _next_segment(self) -> None:
        descriptor = _open_segment(self.path, self._segment + 1)
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._segment, self._size = self._segment + 1, 0


def packed(seq: int, of: int, kind: int, payload: bytes) -> bytes:
    """A row as it is written."""
    return _HEADER.pack(len(payload), zlib.crc32(payload, seq & 0xFFFFFFFF), seq, of, kind) + payload


def unpacked(data: bytes) -> Iterator[tuple[Row, int]]:
    """The rows at the beginning of these bytes, each with where it ends; nothing from the first that is torn on."""
    start, size = 0, len(data)
    while start + _HEADER.size <= size:
        length, check, seq, of, kind = _HEADER.unpack_from(data, start)
        end = start + _HEADER.size + length
        payload = data[start + _HEADER.size : end]
        if end > size or check != zlib.crc32(payload, seq & 0xFFFFFFFF):
            return
        yield Row(seq, of, kind, payload), end
        start = end


def segments(path: Path) -> list[tuple[int, Path]]:
    """The segments of a spool with their numbers, the oldest first."""
    found = [(int(one.stem), one) for one in path.glob("*.rows") if one.stem.isdigit()]
    return sorted(found)


def segment_path(path: Path, number: int) -> Path:
    return path / f"{number:08d}.rows"


def remove(path: Path) -> None:
    """Drop a spool that is done with: its oldest segments first, so that no row outlives the one it goes with."""
    for _, segment in segments(path):
        segment.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def spools(folder: Path) -> list[Path]:
    """All spools in a folder, living and dead."""
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(_NEW))


def adopt(path: Path) -> int | None:
    """Take over a spool whose process is dead: a descriptor to close in the end; None while somebody has it."""
    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _make(folder: Path, name: str) -> int:
    """A new spool, which nobody sees before it is locked; the descriptor of its lock."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = folder / (_NEW + name)
    new.mkdir(mode=0o700)
    descriptor = os.open(new / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    new.rename(folder / name)
    return descriptor


def _open_segment(path: Path, number: int) -> int:
    return os.open(segment_path(path, number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
