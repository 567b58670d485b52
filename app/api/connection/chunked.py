"""A body in chunks, taken apart as RFC 9112 section 7.1 writes it and no other way.

How it works: a line says how many bytes follow, then come these and CR LF; after a line that says 0, CR LF must follow
at once. Extensions are ignored, as the RFC asks, while the line is short; trailers are refused, for nobody here reads
them and others merge them into the head.
"""

from __future__ import annotations

import re

from app.api.connection.guard import NAME, Refused

# Eight digits are 4 GiB: more than any body may have, less than what overflows a number anywhere.
_EXTENSION = f";{NAME}++(?:=(?:{NAME}++|" + r'"[\t\x20\x21\x23-\x5b\x5d-\x7e]*+"))?'
_SIZE_LINE = re.compile(rf"([0-9A-Fa-f]{{1,8}})(?:{_EXTENSION})*\r\n".encode())
MAX_LINE_BYTES = 256
# Lines may be this much more than the body itself. Who sends thousands of chunks of a byte each makes us work for
# nothing; with five bytes in each one it never comes to this.
MAX_OVERHEAD_BYTES = 64 << 10


class ChunkedBody:
    """The body's own bytes, from pieces as they arrive."""

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        """What came after the body, once it is done."""
        self._pending = b""
        self._size: int | None = None
        """Of the current chunk; None where a line is due."""
        self._owed = 0
        """Bytes of the current chunk that have not come."""
        self._credit = MAX_OVERHEAD_BYTES

    def feed(self, data: bytes) -> bytes:
        """The bytes of the body in this piece.

        Raises:
            Refused: it is not chunked as it must be.
        """
        data = self._pending + data
        pieces: list[bytes] = []
        position, end = 0, -1
        while not self.done and position != end:
            end = position
            if self._size is None:
                position = self._begin(data, position)
            elif self._owed:
                piece = data[position : position + self._owed]
                pieces.append(piece)
                self._owed -= len(piece)
                position += len(piece)
            else:
                position = self._finish(data, position)
        self._pending, self.rest = (b"", data[position:]) if self.done else (data[position:], b"")
        return b"".join(pieces)

    def _begin(self, data: bytes, position: int) -> int:
        """Read the line before a chunk; returns where it ends, or `position` while it is not complete."""
        line = _SIZE_LINE.match(data, position)
        if line is None:
            if len(data) - position > MAX_LINE_BYTES or b"\n" in data[position:]:
                raise Refused("the size before a chunk must be a number in hexadecimal and CR LF")
            return position
        length = line.end() - position
        self._size = self._owed = int(line[1], 16)
        self._credit += self._size - length - 2
        if length > MAX_LINE_BYTES or self._credit < 0:
            raise Refused("the chunks are mostly sizes and extensions; send fewer and larger ones")
        return line.end()

    def _finish(self, data: bytes, position: int) -> int:
        """Read the CR LF after a chunk, which after the last one is the end of the body."""
        ending = data[position : position + 2]
        if not b"\r\n".startswith(ending):
            expected = "nothing may follow the last chunk" if self._size == 0 else "CR LF must follow a chunk"
            raise Refused(f"the body is not chunked as it says: {expected}")
        if len(ending) < 2:
            return position
        self.done, self._size = self._size == 0, None
        return position + 2
