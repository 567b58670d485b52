"""The outermost ring of the control routes: who calls, may they, and what every answer carries.

It is plain ASGI, because FastAPI would read and parse a body before any of its dependencies ran.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.call import Call
from app.api.connection.disconnect import ClientLeft
from app.api.connection.doors import Doors, headers_of, request_id_of
from app.api.errors import ALWAYS, error_response, internal
from app.api.policy import Policy
from app.errors import GatewayError


class Edge:
    """Lets calls in, and turns whatever goes wrong behind it into an answer."""

    def __init__(self, app: ASGIApp, policy: Policy, doors: Doors) -> None:
        self._app, self._policy, self._doors = app, policy, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            # As GET; the server, which has the scope as it came, leaves out the body.
            scope = {**scope, "method": "GET"}
        headers = headers_of(scope["headers"])
        reply = _Reply(send, request_id_of(headers))
        call: Call | None = None
        try:
            call = self._doors.let_in(self._policy.rule(scope), headers, reply.request_id, receive, address_of(scope))
            scope.setdefault("state", {})["call"] = call
            await self._app(scope, receive, reply.send)
        except ClientLeft:
            pass
        except GatewayError as exc:
            self._doors.count(exc, call, reply.request_id)
            await reply.fail(exc, scope, receive, close=not (call and call.is_read))
        except Exception as exc:  # noqa: BLE001 - the last handler of all
            self._doors.crashed(exc, reply.request_id)
            await reply.fail(internal(reply.request_id), scope, receive)


def address_of(scope: Scope) -> str:
    """Where a call comes from, as far as that is known."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class _Reply:
    """Sends an answer with the headers that all answers have."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self.request_id = send, request_id
        self._begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            message["headers"] = [*message["headers"], *ALWAYS, (b"x-request-id", self.request_id.encode())]
        await self._send(message)

    async def fail(self, error: GatewayError, scope: Scope, receive: Receive, *, close: bool = False) -> None:
        """Answer with an error. A begun answer cannot be mended: the server cuts its connection."""
        if self._begun:
            return
        response = error_response(error)
        if close and scope["method"] == "POST":
            # There is a body that nobody is going to read.
            response.headers["connection"] = "close"
        await response(scope, receive, self.send)
