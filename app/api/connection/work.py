"""What a connection does for a call: it collects the body of a call for a model, or feeds a control route with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast
from urllib.parse import unquote

from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from app.api.call import Call, too_large
from app.api.connection.answering import answer
from app.api.connection.doors import NOBODY, Doors
from app.api.connection.guard import Head
from app.api.connection.line import Line
from app.api.connection.uploads import Upload
from app.api.operations import Operation
from app.errors import GatewayError

_NO_LOG = logging.getLogger("uvicorn.error")


class Work(Protocol):
    """One call under way."""

    @property
    def answered(self) -> bool:
        """Whether all of its answer was written."""
        ...

    @property
    def is_known(self) -> bool:
        """Whether it came with a valid key."""
        ...

    def take(self, piece: bytes) -> None:
        """A piece of the body came.

        Raises:
            TooLarge: there is more than may be.
            Overloaded: there is no room for it.
        """

    def wait(self) -> None:
        """More of the body is to come than came with the head.

        Raises:
            RateLimited, Overloaded: it may not.
        """

    def refused(self, error: GatewayError) -> str | None:
        """Nothing more of the body is read, for this reason; returns the id of the request where it has one."""

    def begin(self) -> None:
        """The body is whole."""

    def close_after(self) -> None:
        """Take no other call after this one."""

    def abandon(self) -> None:
        """The caller has left."""


class ModelCall:
    """A call for a model: answered in a task of its own once its body is there."""

    is_known = True
    __slots__ = ("_call", "_done", "_doors", "_line", "_operation", "_pieces", "_server", "_size", "_task", "_upload")

    def __init__(
        self, doors: Doors, call: Call, operation: Operation, line: Line, server: ServerState, done: Callable[[], None]
    ) -> None:
        """`done` is called when the answer is complete and what it held is given back."""
        self._doors, self._call, self._operation = doors, call, operation
        self._line, self._server, self._done = line, server, done
        self._pieces: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._upload: Upload | None = None

    @property
    def answered(self) -> bool:
        return self._line.ended

    def take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._call.body_limit_bytes:
            raise too_large(self._call.body_limit_bytes)
        if self._upload is not None:
            self._upload.take(len(piece))
        self._pieces.append(piece)

    def wait(self) -> None:
        self._upload = self._doors.uploads.begin(self._call.key)
        self._upload.take(self._size)

    def refused(self, error: GatewayError) -> str | None:
        self._doors.count(error, self._call, self._call.request_id)
        return self._call.request_id

    def begin(self) -> None:
        self._has_arrived()
        self._task = asyncio.get_running_loop().create_task(self._answer())
        # The server waits for these when it stops.
        self._server.tasks.add(self._task)
        self._task.add_done_callback(self._server.tasks.discard)

    def close_after(self) -> None:
        self._line.keep_alive = False

    def abandon(self) -> None:
        self._has_arrived()
        if self._task is not None:
            # A task keeps what ended it, and that refers to this.
            task, self._task = self._task, None
            task.cancel()

    def _has_arrived(self) -> None:
        if self._upload is not None:
            upload, self._upload = self._upload, None
            upload.end()

    async def _answer(self) -> None:
        body = b"".join(self._pieces)
        self._pieces.clear()
        await answer(self._doors, self._call, self._operation, body, self._line)
        self._done()


class ControlCall:
    """A call of a control route: an ASGI application answers it, and may do so before the body is there."""

    __slots__ = ("_cycle", "_flow", "_scope")

    def __init__(
        self,
        app: ASGIApp,
        scope: dict[str, Any],
        transport: asyncio.Transport,
        flow: FlowControl,
        server: ServerState,
        done: Callable[[], None],
        ended: Callable[[], None],
        *,
        keep_alive: bool,
        expect_continue: bool,
    ) -> None:
        """`done` is called when its answer is whole, `ended` when nothing works on it any more, in either case."""
        self._flow, self._scope = flow, scope
        self._cycle = RequestResponseCycle(
            scope=cast("Any", scope),
            transport=transport,
            flow=flow,
            logger=_NO_LOG,
            access_logger=_NO_LOG,
            access_log=False,
            default_headers=server.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expect_continue,
            keep_alive=keep_alive,
            on_response=done,
        )
        task = asyncio.get_running_loop().create_task(self._cycle.run_asgi(cast("Any", app)))
        server.tasks.add(task)
        task.add_done_callback(server.tasks.discard)
        task.add_done_callback(lambda _: ended())

    @property
    def answered(self) -> bool:
        return bool(self._cycle.response_complete)

    @property
    def is_known(self) -> bool:
        call: Call | None = self._scope["state"].get("call")
        return call is not None and call.key is not NOBODY

    def take(self, piece: bytes) -> None:
        if self._cycle.response_complete:
            return
        self._cycle.body += piece
        if len(self._cycle.body) > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        self._cycle.message_event.set()

    def wait(self) -> None:
        """Its route counts what it reads."""

    def refused(self, error: GatewayError) -> str | None:  # noqa: ARG002 - the route counts its own errors
        return None

    def begin(self) -> None:
        self._cycle.more_body = False
        self._cycle.message_event.set()

    def close_after(self) -> None:
        self._cycle.keep_alive = False

    def abandon(self) -> None:
        self._cycle.disconnected = True
        self._cycle.message_event.set()


def asgi_scope(found: Head, app_state: dict[str, Any], transport: asyncio.Transport) -> dict[str, Any]:
    """What ASGI says of a call before its body."""
    raw_path, _, query = found.target.partition("?")
    peer = transport.get_extra_info("peername")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": found.version,
        "server": None,
        "client": peer[:2] if isinstance(peer, tuple) else None,
        "scheme": "http",
        "root_path": "",
        "method": found.method,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in found.headers.items()],
        "state": app_state.copy(),
    }
