"""The limits of a gateway of several processes on one machine: a table in memory that all of them see.

How it works: each key has a record with its two buckets, and with the number of requests that each process has in
flight for it. Each step is taken under a lock of the kernel, which a process that dies gives back; what it had in
flight its parent gives back. Clocks are the machine's, so that all processes read the same time.

    process 1 .. W: requests in flight | key: digest, 3 numbers for requests, 3 for tokens, process 1 .. W: in flight
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.domain.clock import Clock
from app.errors import Overloaded, RateLimited
from app.store.limits.limits import Allowance, Bucket, KeyState, check

MOST_KEYS = 4_096
DIGEST_BYTES = 16
_NOBODY = bytes(DIGEST_BYTES)
_NUMBER = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Table:
    """The shared memory, and how many processes share it."""

    descriptor: int
    workers: int

    @classmethod
    def create(cls, workers: int) -> Table:
        """An empty one; whoever inherits the descriptor sees the same."""
        descriptor = os.memfd_create("thalamus-limits", 0)
        table = cls(descriptor, workers)
        os.ftruncate(descriptor, table.size_bytes)
        return table

    @property
    def counts(self) -> struct.Struct:
        return struct.Struct(f"={self.workers}i")

    @property
    def record_bytes(self) -> int:
        return DIGEST_BYTES + 6 * 8 + self.counts.size

    @property
    def size_bytes(self) -> int:
        return self.counts.size + MOST_KEYS * self.record_bytes


@dataclass(slots=True)
class _SharedSlot:
    limits: SharedLimits
    place: int
    digest: bytes
    state: KeyState
    taken_tokens: int
    held: bool = True

    def release(self, used_tokens: int) -> None:
        if self.held:
            self.held = False
            self.limits.give_back(self.place, self.digest, used_tokens - self.taken_tokens)

    def headers(self) -> dict[str, str]:
        return self.state.headers()


class SharedLimits:
    """Limits as one of several processes sees them."""

    def __init__(self, table: Table, worker: int, max_in_flight: int, clock: Clock) -> None:
        """`worker` is this process's number, from 0."""
        self._memory = mmap.mmap(table.descriptor, table.size_bytes)
        self._descriptor, self._worker = table.descriptor, worker
        self._counts, self._record_bytes = table.counts, table.record_bytes
        self._numbers = struct.Struct("=6d")
        self._max_in_flight, self._clock = max_in_flight, clock
        self._places: dict[str, tuple[int, bytes]] = {}

    @property
    def in_flight(self) -> int:
        """Of all processes."""
        return sum(self._counts.unpack_from(self._memory, 0))

    def fullness(self) -> float:
        return self.in_flight / self._max_in_flight

    async def acquire(self, allowance: Allowance, tokens: int) -> _SharedSlot:
        with self._locked():
            place, digest = self._place(allowance.id)
            state = self._read(place, allowance)
            check(allowance, state, tokens)
            state.take(tokens)
            self._write(place, state)
            self._count(place, 1)
        return _SharedSlot(self, place, digest, state, tokens)

    def count(self, allowance: Allowance) -> None:
        if allowance.requests_per_minute is None:
            return
        with self._locked():
            place, _ = self._place(allowance.id)
            state = self._read(place, allowance)
            state.count()
            self._write(place, state)

    def look(self, allowance: Allowance) -> None:
        """Without the lock, because that is most of the cost; a refusal is looked at again with it."""
        place, digest = self._places.get(allowance.id, (0, b""))
        if not place or self._memory[place : place + DIGEST_BYTES] != digest:
            return
        try:
            check(allowance, self._read(place, allowance), 0)
        except RateLimited:
            with self._locked():
                check(allowance, self._read(place, allowance), 0)

    def give_back(self, place: int, digest: bytes, tokens: int) -> None:
        """A request is over that used so many tokens more than it had taken."""
        with self._locked():
            self._count(place, -1)
            if self._memory[place : place + DIGEST_BYTES] != digest:
                return
            numbers = list(self._numbers.unpack_from(self._memory, place + DIGEST_BYTES))
            numbers[4] = min(numbers[3], numbers[4] - tokens)
            self._numbers.pack_into(self._memory, place + DIGEST_BYTES, *numbers)

    def adopt(self, max_in_flight: int, allowances: Iterable[Allowance]) -> None:
        """Records follow the limits by themselves when they are next asked; here the keys that are gone go."""
        self._max_in_flight = max_in_flight
        kept = {_digest(one.id) for one in allowances}
        with self._locked():
            for place in self._records():
                digest = self._memory[place : place + DIGEST_BYTES]
                if digest not in kept and not any(self._in_flight(place)):
                    self._memory[place : place + self._record_bytes] = bytes(self._record_bytes)

    def forget(self, worker: int) -> None:
        """Give back what a process that has died had in flight."""
        with self._locked():
            offset = worker * _NUMBER.size
            _NUMBER.pack_into(self._memory, offset, 0)
            for place in self._records():
                _NUMBER.pack_into(self._memory, self._counts_of(place) + offset, 0)

    def close(self) -> None:
        self._memory.close()

    def _records(self) -> range:
        return range(self._counts.size, len(self._memory), self._record_bytes)

    def _place(self, key_id: str) -> tuple[int, bytes]:
        """Where the record of a key is; it is made when there is none."""
        known = self._places.get(key_id)
        if known and self._memory[known[0] : known[0] + DIGEST_BYTES] == known[1]:
            return known
        digest = _digest(key_id)
        place = self._search(digest)
        if place is None:
            place = self._search(_NOBODY)
        if place is None:
            raise Overloaded(f"more than {MOST_KEYS} keys call at a time")
        self._memory[place : place + DIGEST_BYTES] = digest
        self._places[key_id] = place, digest
        return place, digest

    def _search(self, digest: bytes) -> int | None:
        """The first record with this digest. All are looked at, once per key and process."""
        return next((p for p in self._records() if self._memory[p : p + DIGEST_BYTES] == digest), None)

    def _read(self, place: int, allowance: Allowance) -> KeyState:
        numbers = self._numbers.unpack_from(self._memory, place + DIGEST_BYTES)
        return KeyState(
            self._bucket(allowance.requests_per_minute, *numbers[:3]),
            self._bucket(allowance.tokens_per_minute, *numbers[3:]),
            sum(self._in_flight(place)),
        )

    def _bucket(self, per_minute: float | None, size: float, level: float, filled_at: float) -> Bucket | None:
        if per_minute is None:
            return None
        if size == 0.0:
            return Bucket(per_minute, self._clock)
        bucket = Bucket.restored(size, self._clock, level, filled_at)
        return bucket if size == per_minute else bucket.rerated(per_minute)

    def _write(self, place: int, state: KeyState) -> None:
        nothing = (0.0, 0.0, 0.0)
        requests = state.requests.kept if state.requests else nothing
        tokens = state.tokens.kept if state.tokens else nothing
        self._numbers.pack_into(self._memory, place + DIGEST_BYTES, *requests, *tokens)

    def _in_flight(self, place: int) -> tuple[int, ...]:
        return self._counts.unpack_from(self._memory, self._counts_of(place))

    def _count(self, place: int, change: int) -> None:
        offset = self._worker * _NUMBER.size
        for start in (offset, self._counts_of(place) + offset):
            (count,) = _NUMBER.unpack_from(self._memory, start)
            _NUMBER.pack_into(self._memory, start, count + change)

    def _counts_of(self, place: int) -> int:
        return place + DIGEST_BYTES + self._numbers.size

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def _digest(key_id: str) -> bytes:
    return hashlib.sha256(key_id.encode()).digest()[:DIGEST_BYTES]
