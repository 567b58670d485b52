"""The answer's way to a caller: its head, its pieces and its end, as HTTP/1 wants them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from app.api.connection.head import head

CLOSE = b"connection: close\r\n"
LAST_CHUNK = b"0\r\n\r\n"


class Line:
    """One answer. What is written reaches the caller in order."""

    __slots__ = ("_chunked", "_flow", "_head", "_server", "_transport", "begun", "ended", "keep_alive", "modern")

    def __init__(
        self, transport: asyncio.Transport, flow: FlowControl, server: ServerState, *, modern: bool, keep_alive: bool
    ) -> None:
        """`modern` callers speak HTTP/1.1."""
        self._transport, self._flow, self._server = transport, flow, server
        self.modern = self._chunked = modern
        self.keep_alive = keep_alive
        """Whether the connection takes another call after this answer."""
        self.begun = False
        """Whether something of the answer was written."""
        self.ended = False
        """Whether all of it was."""
        self._head = b""

    def write_whole(self, status: int, headers: Mapping[str, str], request_id: str, body: bytes) -> None:
        """Write a whole answer."""
        self.begun = self.ended = True
        length = b"content-length: %d\r\n" % len(body)
        self._transport.write(head(status, headers, request_id, length + self._common()) + body)

    def begin(self, headers: Mapping[str, str], request_id: str) -> None:
        """Begin a stream; its head is written with its first piece."""
        if not self._chunked:
            self.keep_alive = False
        coding = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._head = head(200, headers, request_id, coding + self._common())

    def write_piece(self, piece: bytes, *, last: bool) -> None:
        """Write a piece of a stream, and its end with the last one."""
        self.begun, self.ended = True, last
        data = b"%b%x\r\n%b\r\n%b" % (self._head, len(piece), piece, LAST_CHUNK if last else b"")
        self._transport.write(data if self._chunked else self._head + piece)
        self._head = b""

    def end(self) -> None:
        """End a stream, unless its last piece did."""
        if not self.ended:
            self.begun = self.ended = True
            self._transport.write(self._head + (LAST_CHUNK if self._chunked else b""))

    @property
    def is_full(self) -> bool:
        return self._flow.write_paused

    async def writable(self) -> None:
        """Wait while the caller reads more slowly than we write."""
        if self._flow.write_paused:
            await self._flow.drain()

    def cut(self) -> None:
        """Close the connection in the middle of an answer."""
        self.keep_alive = False
        self._transport.abort()

    def _common(self) -> bytes:
        date = b"".join([b"%b: %b\r\n" % header for header in self._server.default_headers])
        return date if self.keep_alive else date + CLOSE
