"""A connection without a socket: what is written to it is kept, and what it reads is handed to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from app.upstream.http.http1 import READ_BYTES, Connection, HttpExchange


class FakeTransport(asyncio.Transport):
    """Remembers what was done to it; closes when told, and says so later, as the real ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.closing = self.paused = False
        self.pauses = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        self.paused = True
        self.pauses += 1

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent


@dataclass
class FakeHome:
    """Where a connection belongs."""

    given_back: list[bool] = field(default_factory=list)
    """Whether the connection could be used again, for each exchange."""
    lost_count: int = 0

    def take_back(self, _connection: Connection, *, reusable: bool) -> None:
        self.given_back.append(reusable)

    def lost(self, _connection: Connection) -> None:
        self.lost_count += 1


class Wire:
    """A connection, and the hands that move its bytes. Make it inside a running loop."""

    def __init__(self) -> None:
        self.home, self.transport = FakeHome(), FakeTransport()
        self._buffer = bytearray(READ_BYTES)
        self.connection = Connection(self.home, memoryview(self._buffer), asyncio.get_running_loop())
        self.connection.connection_made(self.transport)

    def arrive(self, *pieces: bytes) -> None:
        """These bytes are read, each piece by itself."""
        for piece in pieces:
            buffer = self.connection.get_buffer(-1)
            buffer[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))

    def end(self, error: Exception | None = None) -> None:
        """The other side closes, or the connection breaks."""
        self.transport.closing = True
        self.connection.connection_lost(error)

    async def ask(self, *pieces: bytes) -> HttpExchange:
        """Send a request which is answered by these bytes."""
        asking = asyncio.ensure_future(self.connection.ask(b"POST / HTTP/1.1\r\n\r\n", b"{}"))
        await asyncio.sleep(0)
        self.arrive(*pieces)
        return await asking
