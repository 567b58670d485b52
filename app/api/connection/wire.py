"""One connection of a caller: bytes in, calls out, answers back. The strict front of the gateway.

How it works: a head is checked before anything in it counts (`guard`), and who calls is known before a body is read.
Calls for models are answered from here; all others become an ASGI call of the control routes. One call is answered at
a time: what comes early waits in a small buffer. Each phase of a connection has a time at which it is overdue; the
front's timer looks through all of them, so that a call costs no timer of its own. When the connection is lost, what
works for it is cancelled.

    HEAD  a head is awaited, or incomplete     BODY    its body is
    BUSY  the call is being answered           LINGER  refused: the rest is dropped, so that the caller reads why
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import socket
import struct
import termios
from collections.abc import Callable
from enum import Enum
from typing import Any, cast

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from app.api.call import LINGER_BYTES, LINGER_S, Call, check_media, too_large
from app.api.connection.answering import refuse
from app.api.connection.chunked import ChunkedBody
from app.api.connection.doors import priority_of, request_id_of
from app.api.connection.front import SPARED_S, Front
from app.api.connection.guard import Head, Heads, Refused, end_of_head
from app.api.connection.head import CONTINUE
from app.api.connection.line import Line
from app.api.connection.work import ControlCall, ModelCall, Work, asgi_scope
from app.api.operations import Operation
from app.errors import GatewayError, Overloaded, RequestTimeout, TooLarge

# What may come while a call is answered: another call or two. Of who sends more it would not be noticed that he left.
MAX_EARLY_BYTES = 64 << 10
# Our own share of what a slow reader may leave unread is this and one piece. A fast one never leaves as much.
WRITE_BUFFER_BYTES = 16 << 10
# The kernel's share of what a slow reader may leave unread; its own default grows to megabytes.
SEND_BUFFER_BYTES = 128 << 10
# Who takes less than this, while more waits for him than we and the kernel keep, is not reading but holding on.
LEAST_READ_BYTES = 4 << 10


# Where bytes arrive, for all connections one after the other. Left to itself, uvloop reads 250 KiB at once, whoever
# sends them.
_received = memoryview(bytearray(64 << 10))


class Phase(Enum):
    HEAD, BODY, BUSY, LINGER, LOST = range(5)


HEAD, BODY, BUSY, LINGER, LOST = Phase


class Wire(asyncio.BufferedProtocol):
    """See the top of the file."""

    def __init__(self, front: Front, app: ASGIApp, server: ServerState, app_state: dict[str, Any]) -> None:
        self._front, self._app, self._server, self._app_state = front, app, server, app_state
        self._loop = asyncio.get_running_loop()
        self.due_at = self._loop.time() + front.patience.head_s
        self._phase = HEAD
        self._early = b""
        """What came and was not looked at yet."""
        self._searched = 0
        self._heads = Heads()
        self._keep_alive = True
        self._is_known = False
        """Whether a valid key was seen here."""
        self._left = 0
        """Bytes of the body that have not come, where its length was announced; of chunks, 1 until the last came."""
        self._chunks: ChunkedBody | None = None
        self._work: Work | None = None
        self._unread_bytes = 0
        self._linger_bytes = 0

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._flow = FlowControl(self._transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        self._server.connections.add(cast("Any", self))
        self._front.join(self, self._loop)
        now = self._loop.time()
        if not self._front.is_full or self._front.make_room(now):
            self._front.waits(self, now + SPARED_S)
        elif self._front.is_overfull:
            self._transport.abort()
        else:
            self._refuse(Overloaded("the gateway has no connection to spare; try again in a second", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason makes no difference
        self._server.connections.discard(cast("Any", self))
        self._front.leave(self)
        self._phase = LOST
        self._flow.resume_writing()
        if self._work is not None:
            # It refers to this.
            work, self._work = self._work, None
            work.abandon()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - as large as may be read at once
        return _received

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(_received[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase is HEAD:
            self._early += data
            self._look()
        elif phase is BODY:
            self._take(data)
        elif phase is LINGER:
            self._drop(len(data))
        else:
            self._keep(data)

    def pause_writing(self) -> None:
        self._flow.pause_writing()
        self._unread_bytes = self._unsent_bytes()
        self.due_at = self._loop.time() + self._front.patience.unread_s

    def resume_writing(self) -> None:
        self._flow.resume_writing()
        if self._transport.is_closing():
            return  # there is a time by which the rest must be read, too
        self._unread_bytes = 0
        if self._phase is BUSY:
            self.due_at = math.inf
        elif self._phase is HEAD and not self._early:
            self.due_at = self._loop.time() + self._idle_s()

    # What the server and the front call.

    def shutdown(self) -> None:
        """The server stops: close now when idle, else after the answer."""
        self._keep_alive = False
        if self._work is not None:
            self._work.close_after()
        elif self._phase is HEAD:
            self._transport.close()

    def abort(self) -> None:
        """The server ends: whatever was not sent by now is not."""
        self._transport.abort()

    def give_way(self) -> None:
        """Close for somebody else: nothing is answered here."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def overdue(self) -> None:
        """The present phase has taken too long."""
        patience = self._front.patience
        if self._phase is BODY:
            self._refuse(RequestTimeout(f"the body did not arrive within {patience.body_s:g} s; send it faster"))
        elif self._phase is HEAD and self._early:
            self._refuse(RequestTimeout(f"the head did not arrive within {patience.head_s:g} s; send it faster"))
        elif self._phase in (HEAD, BUSY) and self._is_read():
            self.due_at = self._loop.time() + patience.unread_s
        else:
            self._transport.abort()

    def _keep(self, data: bytes) -> None:
        """What comes while a call is answered is early; who has all of the answer may begin with the next."""
        if len(self._early) + len(data) > MAX_EARLY_BYTES:
            if self._work is None or not self._work.answered:
                self._transport.abort()
                return
            self._flow.pause_reading()
        self._early += data

    # A call: its head, its body, its end.

    def _look(self) -> None:
        """Begin with a call if its head is there."""
        try:
            end = end_of_head(self._early, self._searched)
            if end == -1:
                self._wait_for_head()
                return
            found = self._heads.check(self._early[:end])
        except Refused as exc:
            self._refuse(exc)
            return
        rest, self._early = self._early[end:], b""
        self._searched = 0
        self._begin(found, rest)

    def _wait_for_head(self) -> None:
        if not self._searched:
            self.due_at = self._loop.time() + self._front.patience.head_s
        self._searched = len(self._early)

    def _begin(self, found: Head, rest: bytes) -> None:
        if not self._is_known:
            self._front.goes_on(self)
        self._keep_alive = found.keep_alive and self._keep_alive and not self._front.doors.gateway.draining
        path = found.target.partition("?")[0]
        operation = self._front.operations.get(path) if found.method == "POST" else None
        if operation is None:
            self._work = self._control_call(found)
        else:
            self._work = self._model_call(found, operation)
        if self._work is not None:
            self._frame(found, rest)

    def _control_call(self, found: Head) -> Work:
        scope = asgi_scope(found, self._app_state, self._transport)
        return ControlCall(
            self._app,
            scope,
            self._transport,
            self._flow,
            self._server,
            self._answered,
            self._control_ended,
            keep_alive=self._keep_alive,
            expect_continue=found.expect_continue,
        )

    def _model_call(self, found: Head, operation: Operation) -> Work | None:
        """The call, when its body may come; None when not, which is answered."""
        doors, headers = self._front.doors, found.headers
        request_id = request_id_of(headers)
        call: Call | None = None
        try:
            call = doors.let_in(operation.rule, headers, request_id, address=self._address)
            doors.gateway.let_in(priority_of(call))
            check_media(headers)
            if found.content_length is not None and found.content_length > doors.body_limit_bytes:
                raise too_large(doors.body_limit_bytes)
        except GatewayError as exc:
            doors.count(exc, call, request_id)
            self._refuse(exc, request_id)
            return None
        if found.expect_continue:
            self._transport.write(CONTINUE)
        return ModelCall(doors, call, operation, self._line(found.version), self._server, self._answered)

    def _frame(self, found: Head, rest: bytes) -> None:
        """Wait for the body that the head announced, and take what is there of it."""
        self._phase, self.due_at = BODY, self._loop.time() + self._front.patience.body_s
        self._chunks = ChunkedBody() if found.chunked else None
        self._left = 1 if found.chunked else found.content_length or 0
        self._take(rest, is_first=True)

    def _take(self, data: bytes, *, is_first: bool = False) -> None:
        work = self._work
        assert work is not None  # noqa: S101 - a body has a call
        try:
            work.take(self._piece(data))
            if is_first and self._left:
                work.wait()
        except GatewayError as exc:
            self._refuse(exc, work.refused(exc))
            return
        if self._left == 0:
            self._phase, self.due_at = BUSY, math.inf
            work.begin()

    def _piece(self, data: bytes) -> bytes:
        """What of this belongs to the body; what follows it is early. Nothing is left once the body is whole."""
        if self._chunks is not None:
            piece = self._chunks.feed(data)
            if self._chunks.done:
                self._left = 0
                self._early += self._chunks.rest
            return piece
        piece = data[: self._left]
        self._early += data[self._left :]
        self._left -= len(piece)
        return piece

    def _answered(self) -> None:
        """The call is over; the next one may begin."""
        whole, work, self._work = self._phase is BUSY, self._work, None
        self._is_known = self._is_known or (work is not None and work.is_known)
        self._server.total_requests += 1
        if self._transport.is_closing():
            self._close()
            return
        self._flow.resume_reading()
        if not (self._keep_alive and whole):
            self._close()
            return
        now = self._loop.time()
        self._phase, self.due_at = HEAD, now + self._idle_s()
        if not self._is_known:
            self._front.waits(self, now)
        if self._early:
            self._look()

    def _idle_s(self) -> float:
        return self._front.patience.idle_s if self._is_known else self._front.patience.stranger_idle_s

    def _control_ended(self) -> None:
        """What answers a control call is over; where that was in the middle of an answer, the connection closes."""
        if self._transport.is_closing():
            self._close()

    def _close(self) -> None:
        """Close once all is read, or when the caller has had the time for it."""
        if self._phase is not LOST:
            self._phase, self._unread_bytes = BUSY, self._unsent_bytes()
            self.due_at = self._loop.time() + self._front.patience.unread_s
            self._transport.close()

    # Refusals.

    def _refuse(self, error: GatewayError, request_id: str | None = None) -> None:
        """Answer with an error what is not a call, or not one that may be read; then close."""
        if self._work is not None:
            self._work.abandon()
        self._keep_alive = False
        refuse(error, request_id or request_id_of({}), self._line("1.1"))
        self._phase, self.due_at = LINGER, self._loop.time() + LINGER_S
        self._early = b""
        self._transport.write_eof()
        self._linger_bytes = LINGER_BYTES if isinstance(error, TooLarge) else 0
        self._drop(0)

    def _drop(self, size: int) -> None:
        self._linger_bytes -= size
        if self._linger_bytes <= 0:
            self._transport.pause_reading()

    def _line(self, version: str) -> Line:
        return Line(self._transport, self._flow, self._server, modern=version == "1.1", keep_alive=self._keep_alive)

    def _is_read(self) -> bool:
        """Whether the caller has taken a little of what waited for him when this was asked last."""
        before, self._unread_bytes = self._unread_bytes, self._unsent_bytes()
        return before - self._unread_bytes >= LEAST_READ_BYTES

    def _unsent_bytes(self) -> int:
        """What the caller has not taken yet: our share, and the kernel's."""
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4) if sock else b"\0" * 4
        return self._transport.get_write_buffer_size() + int(struct.unpack("i", queued)[0])


def protocol(front: Front) -> type[asyncio.Protocol]:
    """What uvicorn makes connections with."""

    def connection(
        config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Callable[..., Any] | None = None
    ) -> Wire:
        return Wire(front, config.loaded_app, server_state, app_state)

    return cast("type[asyncio.Protocol]", connection)
