"""Bodies that have not arrived whole: nothing else counts them, because what they will ask for is not known yet.

How it works: a body that comes with its head is none of these. Any other one takes a place among those of its key when
it begins, as many as the key may have requests in flight, and counts with every byte that came until it is whole or
given up. When all together fill their room, new ones are turned away; when those that began before fill it twice, as
many senders can agree to do, those that still grow are.
"""

from __future__ import annotations

from app.admission.shedding import refusal
from app.errors import RateLimited
from app.store.limits.limits import Allowance

# Of what the process may use of memory at most. What else it holds, an artifact above all, takes a good part of it.
SHARE_OF_MEMORY = 0.25
ROOM_BYTES = 512 << 20
"""Where the memory has no limit."""
MOST_OVER = 2
MOST_OF_A_KEY = 256
"""Where the key has no limit of its own: half of the requests that a gateway takes at a time."""
# What a piece takes beside its bytes, so that very small ones are no way round this.
PIECE_BYTES = 48


class Upload:
    """One body that comes."""

    __slots__ = ("_bytes", "_key_id", "_uploads")

    def __init__(self, uploads: Uploads, key_id: str) -> None:
        self._uploads, self._key_id, self._bytes = uploads, key_id, 0

    def take(self, size: int) -> None:
        """So many bytes of it came in one piece.

        Raises:
            Overloaded: there is no room for them.
        """
        self._bytes += size + PIECE_BYTES
        self._uploads.bytes += size + PIECE_BYTES
        if self._uploads.bytes > MOST_OVER * self._uploads.room_bytes:
            raise refusal()

    def end(self) -> None:
        """It is whole, or given up; once."""
        self._uploads.bytes -= self._bytes
        self._uploads.leave(self._key_id)


class Uploads:
    """All of a process."""

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self.room_bytes, self.bytes = room_bytes, 0
        self._of_key: dict[str, int] = {}

    @classmethod
    def within(cls, memory_bytes: int | None) -> Uploads:
        """For a process that may use so much of memory."""
        return cls(ROOM_BYTES if memory_bytes is None else int(memory_bytes * SHARE_OF_MEMORY))

    def begin(self, key: Allowance) -> Upload:
        """A body of this key is to come.

        Raises:
            RateLimited: as many as may be do already.
            Overloaded: there is no room for another.
        """
        under_way = self._of_key.get(key.id, 0)
        most = MOST_OF_A_KEY if key.concurrency is None else key.concurrency
        if under_way >= most:
            message = f"this key may send {most} requests at a time; wait until one of them has arrived"
            raise RateLimited(message, retry_after_s=1)
        if self.bytes >= self.room_bytes:
            raise refusal()
        self._of_key[key.id] = under_way + 1
        return Upload(self, key.id)

    def leave(self, key_id: str) -> None:
        left = self._of_key.pop(key_id) - 1
        if left:
            self._of_key[key_id] = left
