"""What may go wrong with the events of a streamed answer, applied to HTTP/1.1 responses as they pass.

Responses are followed by their framing, so that connections can be kept alive; only the bodies of event streams are
ever touched, and only when a fault was chosen for that answer. Everything else is passed on byte for byte.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

Send = Callable[[bytes], Awaitable[None]]
_PIECE_BYTES = 1 << 16
_TEXT = re.compile(rb'"(?:content|text)":\s*"')


@dataclass(frozen=True, slots=True)
class EventFaults:
    """What happens to the events of one answer. They count from 1, the one that brings the role included."""

    cut_after: int | None = None
    cut_with: Literal["FIN", "RST", "end"] = "FIN"
    """`end` is a body that ends as HTTP wants it, with its last events missing."""
    duplicate: int | None = None
    corrupt: int | None = None
    corrupt_as: Literal["json", "utf8", "truncated"] = "json"
    """An event that breaks off in its JSON, or within a character; or half an event, and then the connection's end."""
    share: float = 1.0
    """Of the answers that it happens to."""


class Cut(Exception):
    """The connection is to be closed, or reset, as soon as what was sent before has gone out."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


async def relay_responses(reader: asyncio.StreamReader, send: Send, choose: Callable[[], EventFaults | None]) -> None:
    """Pass on one response after another until the connection ends; `choose` is asked once for each event stream.

    Raises:
        Cut: a fault says so.
    """
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await send(head)
            await _relay_body(reader, send, head.lower(), choose)
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            await send(exc.partial)


async def _relay_body(
    reader: asyncio.StreamReader, send: Send, head: bytes, choose: Callable[[], EventFaults | None]
) -> None:
    length = re.search(rb"\r\ncontent-length: *(\d+)", head)
    if length:
        await _relay_bytes(reader, send, int(length[1]))
    elif b"\r\ntransfer-encoding: chunked" not in head:
        while piece := await reader.read(_PIECE_BYTES):
            await send(piece)
    elif b"\r\ncontent-type: text/event-stream" in head and (faults := choose()):
        await _Edited(send, faults).relay(reader)
    else:
        await _relay_chunks(reader, send)


async def _relay_bytes(reader: asyncio.StreamReader, send: Send, left: int) -> None:
    while left:
        piece = await reader.read(min(left, _PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        await send(piece)


async def _relay_chunks(reader: asyncio.StreamReader, send: Send) -> None:
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        await send(line)
        await _relay_bytes(reader, send, size + 2)


class _Edited:
    """One event stream on its way, each event in a chunk of its own."""

    def __init__(self, send: Send, faults: EventFaults) -> None:
        self._send, self._faults = send, faults
        self._number = 0
        self._silent = False
        """Whether the rest is kept back; the body ends when the backend's does, or its next answer would be early."""

    async def relay(self, reader: asyncio.StreamReader) -> None:
        pending = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            pending += (await reader.readexactly(size + 2))[:-2]
            *events, pending = pending.split(b"\n\n")
            for event in events:
                await self._event(event + b"\n\n")
        await reader.readexactly(2)
        if pending:
            await self._chunk(pending)
        await self._send(b"0\r\n\r\n")

    async def _event(self, event: bytes) -> None:
        faults = self._faults
        self._number += 1
        if self._number == faults.corrupt:
            await self._chunk(_corrupted(event, faults.corrupt_as))
            if faults.corrupt_as == "truncated":
                raise Cut
        else:
            await self._chunk(event)
        if self._number == faults.duplicate:
            await self._chunk(event)
        if self._number == faults.cut_after:
            if faults.cut_with != "end":
                raise Cut(reset=faults.cut_with == "RST")
            self._silent = True

    async def _chunk(self, data: bytes) -> None:
        if not self._silent:
            await self._send(b"%x\r\n%b\r\n" % (len(data), data))


def _corrupted(event: bytes, how: str) -> bytes:
    if how == "utf8":
        return _TEXT.sub(lambda found: found[0] + b"\xe2\x82", event, count=1)
    half = event[: len(event) // 2]
    return half if how == "truncated" else half + b"\n\n"
