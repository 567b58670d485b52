"""A TCP proxy on loopback that does to connections what networks do: the faults of a fault matrix, on demand.

How it works: each direction of a connection is read by one task and written by another, with a short queue of pieces
between them, so that delays do not add up and a reader that stalls stalls the other end too. What happens to the bytes
is looked up at each piece, so it can be changed while connections are open. Faults of events (`EventFaults`) need
plain HTTP/1.1; with `http=False` nothing is looked into, and anything can pass, such as TLS.

The words are the gateway's: its connection to us is the client's, ours is to the backend. `down` is from the backend to
the client.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from tests.fakes.event_faults import Cut, EventFaults, Send, relay_responses

Direction = Literal["up", "down"]
Read = Callable[[Send], Awaitable[None]]
"""Reads one side to its end, and sends what is to be passed on."""

_PIECE_BYTES = 1 << 16
_QUEUED_PIECES = 8
# How often a limited rate writes: short enough to look steady, long enough to be a rate.
_TICK_S = 0.02
# A reset overtakes what was written just before it; so much later it does not.
_BEFORE_RESET_S = 0.01


@dataclass(frozen=True, slots=True)
class Toxics:
    """What happens to the bytes of one direction."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    """Latency varies evenly by so much to either side; pieces keep their order."""
    bandwidth_bytes_per_s: float | None = None
    slow_close_s: float = 0.0
    """So much later than it happened the end of the connection is passed on."""
    timeout_s: float | None = None
    """Nothing arrives any more; after so long both sides are closed, with 0 never: half open, without a FIN."""
    reset_after_s: float | None = None
    """So long after the first byte in this direction both sides are reset; nothing of it arrives."""
    slicer: bool = False
    """Pieces of 1 to 3 bytes."""
    limit_bytes: int | None = None
    """Both sides are closed after so many bytes."""
    share: float = 1.0
    """Of the connections that it happens to."""


_NOTHING = Toxics()


@dataclass(slots=True, eq=False)
class Link:
    """One connection through the proxy, and when each side closed its end of it (monotonic)."""

    opened_at: float
    bytes_up: int = 0
    bytes_down: int = 0
    """Bytes taken from either side; a side that is held up by the other stands still."""
    client_left_at: float | None = None
    backend_left_at: float | None = None
    luck: float = 0.0
    """In [0, 1): toxics with a larger share happen to it."""
    closed_at: float | None = None

    def count(self, direction: Direction, size: int) -> None:
        if direction == "up":
            self.bytes_up += size
        else:
            self.bytes_down += size

    def left(self, direction: Direction) -> None:
        """The side that this direction comes from has closed its end."""
        if direction == "up":
            self.client_left_at = time.monotonic()
        else:
            self.backend_left_at = time.monotonic()


@dataclass(slots=True, eq=False)
class _End:
    """One side of a link."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self, *, reset: bool) -> None:
        if reset:
            sock: socket.socket = self.writer.get_extra_info("socket")
            with suppress(OSError, AttributeError):  # one that is closed already may have no socket
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()


class FaultProxy:
    """Use it as `async with FaultProxy(backend.url) as proxy`; set `up`, `down` and `events` at any time."""

    def __init__(self, upstream_url: str, seed: int = 0, *, http: bool = True) -> None:
        parts = urlsplit(upstream_url)
        self._backend = (parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80))
        self._scheme, self.http = parts.scheme, http
        self.rng = random.Random(seed)
        self.up = Toxics()
        self.down = Toxics()
        self.events: EventFaults | None = None
        self.links: list[Link] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """All that were made so far."""
        return len(self.links)

    @property
    def open(self) -> int:
        return sum(link.closed_at is None for link in self.links)

    @property
    def bytes_up(self) -> int:
        return sum(link.bytes_up for link in self.links)

    @property
    def bytes_down(self) -> int:
        return sum(link.bytes_down for link in self.links)

    async def __aenter__(self) -> FaultProxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Take connections; on the port of last time when there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections from now on, and cut those that are open."""
        if self._server:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server:
            await self._server.wait_closed()
        self._server = None

    def choose(self) -> EventFaults | None:
        """The fault of the next event stream, if any."""
        hit = self.events is not None and self.rng.random() < self.events.share
        return self.events if hit else None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        link = Link(time.monotonic(), luck=self.rng.random())
        self.links.append(link)
        client = _End(reader, writer)
        try:
            backend = _End(*await asyncio.open_connection(*self._backend))
        except (OSError, asyncio.CancelledError):
            client.close(reset=True)
        else:
            await _Joined(self, link, client, backend).run()
        finally:
            link.closed_at = time.monotonic()
            self._tasks.discard(task)


class _Joined:
    """A client and a backend that talk through us."""

    def __init__(self, proxy: FaultProxy, link: Link, client: _End, backend: _End) -> None:
        self._proxy, self._client, self._backend = proxy, client, backend
        self._up = _Flow(proxy, link, "up", backend.writer)
        self._down = _Flow(proxy, link, "down", client.writer)

    async def run(self) -> None:
        """Until either side has left, or a fault ends it; then both sides are closed, or reset."""
        up = asyncio.ensure_future(self._up.run(_raw(self._client.reader)))
        down = asyncio.ensure_future(self._down.run(self._answers()))
        reset = True
        try:
            ended, _ = await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            reset = any(flow.result() for flow in ended)
        except (asyncio.CancelledError, ConnectionError):
            pass  # the proxy stops, or a side was reset: so is the other
        finally:
            for flow in (up, down):
                flow.cancel()
            self._client.close(reset=reset)
            self._backend.close(reset=reset)
            with suppress(asyncio.CancelledError):
                await asyncio.gather(up, down, return_exceptions=True)

    def _answers(self) -> Read:
        reader = self._backend.reader
        if not self._proxy.http:
            return _raw(reader)
        return lambda send: relay_responses(reader, send, self._proxy.choose)


def _raw(reader: asyncio.StreamReader) -> Read:
    async def read(send: Send) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            await send(piece)

    return read


class _Flow:
    """One direction of a link: what is read waits in a short queue until it is due, and is written."""

    def __init__(self, proxy: FaultProxy, link: Link, direction: Direction, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._link, self._direction, self._writer = proxy, link, direction, writer
        self._queue: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue(_QUEUED_PIECES)
        self._passed = 0
        self._reset = False

    async def run(self, read: Read) -> bool:
        """Until one end is over and all that came before has gone out; return whether it is to be a reset.

        Raises:
            ConnectionError: there is nobody to write to.
        """
        tasks = [asyncio.ensure_future(self._read(read)), asyncio.ensure_future(self._write())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        # A reset overtakes what was written just before it.
        await asyncio.sleep(_BEFORE_RESET_S if self._reset else self._toxics.slow_close_s)
        return self._reset

    @property
    def _toxics(self) -> Toxics:
        toxics = self._proxy.up if self._direction == "up" else self._proxy.down
        return toxics if self._link.luck < toxics.share else _NOTHING

    async def _read(self, read: Read) -> None:
        try:
            await read(self._send)
            self._link.left(self._direction)
        except ConnectionError:
            self._link.left(self._direction)
            self._reset = True
        except Cut as cut:
            self._reset = cut.reset
        if self._toxics.timeout_s == 0:
            await asyncio.Event().wait()
        await self._queue.put(None)

    async def _send(self, data: bytes) -> None:
        toxics = self._toxics
        self._link.count(self._direction, len(data))
        if toxics.reset_after_s is not None:
            await asyncio.sleep(toxics.reset_after_s)
            raise Cut(reset=True)
        if toxics.timeout_s is not None:
            if toxics.timeout_s:
                await asyncio.sleep(toxics.timeout_s)
                raise Cut
            return
        room = len(data) if toxics.limit_bytes is None else max(0, toxics.limit_bytes - self._passed)
        jitter_s = self._proxy.rng.uniform(-toxics.jitter_s, toxics.jitter_s)
        due_at = time.monotonic() + max(0.0, toxics.latency_s + jitter_s)
        for piece in self._pieces(data[:room]):
            await self._queue.put((due_at, piece))
        self._passed += min(room, len(data))
        if room < len(data):
            raise Cut

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        toxics, start = self._toxics, 0
        while start < len(data):
            size = len(data)
            if toxics.slicer:
                size = self._proxy.rng.randint(1, 3)
            elif toxics.bandwidth_bytes_per_s:
                size = max(1, int(toxics.bandwidth_bytes_per_s * _TICK_S))
            yield data[start : start + size]
            start += size

    async def _write(self) -> None:
        while item := await self._queue.get():
            due_at, piece = item
            if (wait_s := due_at - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            self._writer.write(piece)
            await self._writer.drain()
            if rate := self._toxics.bandwidth_bytes_per_s:
                await asyncio.sleep(len(piece) / rate)
            elif self._toxics.slicer:
                await asyncio.sleep(0)
