"""One connection to a backend that speaks HTTP/1.1, and the exchanges that happen on it one after the other.

How it works: `Connection` is what the event loop calls; httptools cuts what arrives into head and body. `HttpExchange`
keeps them for its reader. Bytes are read into one buffer that all connections share, so a connection that nobody reads
from costs what is unread and no more: past `PAUSE_ABOVE_BYTES` it is not read from until its reader comes.

A worker is not trusted: a head has a limit, so have trailers and whatever else is no body; two lengths, a coding other
than chunked, a compressed body and a change of protocol are refused. A connection is used again only if the answer
was whole, said so, and nothing came after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from app.errors import UpstreamBroken, UpstreamDisconnected, UpstreamError
from app.upstream.http import pacing
from app.upstream.http.faults import ClosedIdle, NoAnswer

MAX_HEAD_BYTES, MAX_HEADERS = 32 << 10, 100
# Of a stream whose caller is slow no more is kept than what was read at once; who listens has taken that by then.
PAUSE_ABOVE_BYTES = 16 << 10
READ_BYTES = 64 << 10
# A larger body is not copied once more to stand behind its head.
JOIN_BELOW_BYTES = 64 << 10
_WITHOUT_BODY = frozenset((204, 304))


class Home(Protocol):
    """Where connections belong."""

    def take_back(self, connection: Connection, *, reusable: bool) -> None:
        """The exchange on this connection is over."""

    def lost(self, connection: Connection) -> None:
        """The connection is closed."""


class HttpExchange:
    """See `Exchange`. Made by `Connection.ask`."""

    __slots__ = (
        "_broken",
        "_connection",
        "_decoded",
        "_heard",
        "_pieces",
        "_waiter",
        "ended",
        "failed",
        "headers",
        "keep_alive",
        "over",
        "status",
        "unread_bytes",
        "until_close",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self.status = 0
        """0 until the head is there."""
        self.failed: UpstreamError | None = None
        """What `fail` was called with."""
        self.headers: dict[bytes, bytes] = {}
        """Names in lower case; of several with one name, the first."""
        self.keep_alive = False
        self.until_close = False
        """Whether the body has no length, and ends with the connection."""
        self.ended = False
        """Whether all of the body has arrived."""
        self.over = False
        """Whether no more of it will: all has arrived, or it was cut."""
        self.unread_bytes = 0
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._broken: UpstreamError | None = None
        """What ended the answer; what came before it can still be read."""
        self._decoded: dict[str, str] | None = None
        self._heard: Callable[[], None] | None = None

    @property
    def content_type(self) -> str:
        return self.headers.get(b"content-type", b"").decode("latin-1")

    @property
    def location(self) -> str:
        return self.headers.get(b"location", b"").decode("latin-1")

    @property
    def retry_after_s(self) -> float | None:
        return pacing.retry_after_s(self._text_headers(), time.time())

    @property
    def used_up_s(self) -> float | None:
        return pacing.used_up_s(self._text_headers(), time.time())

    def news(self) -> asyncio.Future[None]:
        """Done once something has changed for the reader.

        Raises:
            UpstreamError: nothing will.
        """
        if self._broken is not None:
            raise self._broken
        if self._connection is None:
            raise UpstreamDisconnected("the exchange was closed before its end")
        self._waiter = self._connection.loop.create_future()
        return self._waiter

    async def read(self) -> bytes:
        while (piece := self.ready()) is None:
            await self.news()
        return piece

    def ready(self) -> bytes | None:
        if self.failed is not None:
            raise self.failed
        if self._pieces:
            return self._take()
        if self._broken is not None:
            raise self._broken
        return b"" if self.ended else None

    def listen(self, heard: Callable[[], None] | None) -> None:
        self._heard = heard

    def fail(self, error: UpstreamError) -> None:
        self.failed = error
        if self._connection is not None:
            # Now, not when it is closed: a caller who is slow may keep its reader waiting.
            self._connection.abort()
        self.wake()

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection, self._heard = self._connection, None, None
            connection.leave(reusable=self.ended and self.keep_alive)
            self.wake()
            # Raised errors refer to the frames that they passed, and those to this.
            self._broken = self.failed = None

    def drop(self) -> None:
        """Let go of a connection that is lost, and whose place is still wanted."""
        self._connection = self._heard = self._broken = None

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.unread_bytes += len(piece)

    def end_with(self, error: UpstreamError) -> None:
        """No more of the answer can be had, unless all of it is there already."""
        self.over = True
        if not self.ended and self._broken is None:
            self._broken = error

    def wake(self) -> None:
        """Something has changed for the reader."""
        if self._heard is not None:
            self._heard()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        if self.unread_bytes > PAUSE_ABOVE_BYTES and self._connection is not None:
            self._connection.resume()
        self.unread_bytes = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _text_headers(self) -> Mapping[str, str]:
        if self._decoded is None:
            self._decoded = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers.items()}
        return self._decoded


class Connection(asyncio.BufferedProtocol):
    """Made by the event loop; `ask` and `abort` are for its home, the rest for the loop and the parser."""

    def __init__(self, home: Home, buffer: memoryview, loop: asyncio.AbstractEventLoop) -> None:
        """`buffer` may be shared with other connections of the same loop."""
        self.loop = loop
        self.idle_since = 0.0
        self.is_lost = False
        self._home, self._buffer = home, buffer
        self._transport: asyncio.Transport
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._exchange: HttpExchange | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._bytes_without_body = 0
        """Read since the last piece of body: a head, trailers, or the sizes of chunks."""
        self._paused = False
        self._was_idle = False
        """Whether it has waited for its next request, and was not closed by us."""

    @property
    def usable(self) -> bool:
        """Whether a request may be sent on it: the other side has not closed it, as far as can be known here."""
        return not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes) -> HttpExchange:
        """Send a request; return when the head of its answer is there.

        Raises:
            ClosedIdle: there is none. Home does not get this connection back: its place is for another try.
            UpstreamError: there is none. The connection is given up, as it is when this is cancelled.
        """
        exchange = self._exchange = HttpExchange(self)
        try:
            self._send(head, body)
            while not exchange.status:
                await exchange.news()
        except ClosedIdle:
            self._exchange = None
            exchange.drop()
            raise
        except BaseException:
            exchange.close()
            raise
        return exchange

    def leave(self, *, reusable: bool) -> None:
        """The exchange is closed: its body was read, or nobody wants it."""
        self._exchange = None
        reusable = reusable and self.usable and not self._transport.get_write_buffer_size()
        if reusable:
            self._was_idle = True
            self.resume()
        else:
            self.abort()
        self._home.take_back(self, reusable=reusable)

    def abort(self) -> None:
        """Close at once, without sending what is unsent."""
        self._was_idle = False
        self._transport.abort()

    def resume(self) -> None:
        if self._paused and self.usable:
            self._paused = False
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._parser = None  # it refers to this object
        exchange = self._exchange
        if exchange is not None:
            if exchange.until_close and exc is None:
                exchange.ended = exchange.over = True
            elif exchange.status:
                exchange.end_with(_because(exc, UpstreamDisconnected("the backend's answer was cut")))
            else:
                exchange.end_with(_because(exc, self._unanswered(exc)))
            exchange.wake()
        self._home.lost(self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        exchange, parser = self._exchange, self._parser
        if exchange is None or exchange.ended or parser is None:
            # Nothing was asked for. What it is would be taken for the next answer.
            self.abort()
            return
        self._bytes_without_body += nbytes
        try:
            parser.feed_data(self._buffer[:nbytes])
        except (HttpParserError, HttpParserUpgrade) as exc:
            self._give_up(UpstreamBroken("the backend's answer is not HTTP") if exchange.status else _no_answer(), exc)
        if self._bytes_without_body > MAX_HEAD_BYTES and not exchange.ended:
            self._give_up(UpstreamBroken("the backend's answer has too large a head"))
        exchange.wake()
        if exchange.unread_bytes > PAUSE_ABOVE_BYTES and self._exchange is exchange and not self._paused:
            self._pause()

    def on_message_begin(self) -> None:
        if self._exchange is None or self._exchange.ended:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None and not self._exchange.status:  # else it is a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        exchange, parser = self._exchange, self._parser
        found, self._headers = self._headers, []
        if exchange is None or exchange.ended or parser is None:
            return
        status = parser.get_status_code()
        if status < 200 and status != 101:
            return  # 100 Continue, 103 Early Hints: the answer is yet to come
        headers = {name.lower(): value for name, value in reversed(found)}
        if fault := _fault_in(status, headers, found, self._bytes_without_body):
            self._give_up(UpstreamBroken(fault))
            return
        exchange.status, exchange.headers = status, headers
        exchange.keep_alive = parser.should_keep_alive()
        exchange.until_close = (
            b"content-length" not in headers and b"transfer-encoding" not in headers and status not in _WITHOUT_BODY
        )
        if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            # Its status counts all the same; only its body is of no use.
            exchange.end_with(UpstreamBroken("the backend compressed its answer, which it was not asked to"))
        self._bytes_without_body = 0

    def on_body(self, body: bytes) -> None:
        self._bytes_without_body = 0
        if self._exchange is not None and not self._exchange.ended:
            self._exchange.add(body)

    def on_message_complete(self) -> None:
        if self._exchange is not None and self._exchange.status:
            self._exchange.ended = self._exchange.over = True
            self._bytes_without_body = 0

    def _send(self, head: bytes, body: bytes) -> None:
        if not self.usable:
            raise _no_answer()
        if len(body) < JOIN_BELOW_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def _unanswered(self, reason: Exception | None) -> NoAnswer:
        """The error of a request whose connection was lost, by itself or for this reason."""
        is_closed = reason is None or isinstance(reason, ConnectionError)
        if self._was_idle and is_closed and not self._bytes_without_body:
            return ClosedIdle("the backend closed an idle connection")
        return _no_answer()

    def _pause(self) -> None:
        if self.usable:
            self._paused = True
            self._transport.pause_reading()

    def _give_up(self, error: UpstreamError, cause: Exception | None = None) -> None:
        """An answer that was whole before the fault stands; the connection is of no use in any case."""
        self.abort()
        if self._exchange is not None:
            self._exchange.end_with(_because(cause, error))


def _fault_in(
    status: int, headers: Mapping[bytes, bytes], found: Sequence[tuple[bytes, bytes]], read_bytes: int
) -> str | None:
    """What is wrong with a head that the parser accepts; `read_bytes` came for it, and perhaps for what follows."""
    if len(found) > MAX_HEADERS or (read_bytes > MAX_HEAD_BYTES and _size(found) > MAX_HEAD_BYTES):
        return "the backend's answer has too large a head"
    if status == 101:
        return "the backend wants to speak another protocol"
    coding = headers.get(b"transfer-encoding")
    if coding is not None and (coding.lower() != b"chunked" or _names(found).count(b"transfer-encoding") > 1):
        return "the backend's answer has a transfer coding that was not asked for"
    return None


def _size(found: Sequence[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in found)


def _names(found: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    return [name.lower() for name, _ in found]


def _no_answer() -> NoAnswer:
    return NoAnswer("the backend closed the connection before it answered")


def _because(cause: BaseException | None, error: UpstreamError) -> UpstreamError:
    error.__cause__ = cause
    return error
