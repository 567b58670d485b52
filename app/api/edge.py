"""The outermost ring: who calls, may they, and what every answer carries. Nothing costly happens before that.

It is plain ASGI, because FastAPI would read and parse a body before any of its dependencies ran.
"""

from __future__ import annotations

import re
import secrets
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access import Access
from app.api.call import Call
from app.api.disconnect import ClientLeft
from app.api.errors import error_response, internal
from app.api.policy import PUBLIC, Policy
from app.errors import GatewayError, NotAllowed, Unauthorized
from app.gateway import Gateway
from app.store.keys import Key, Keys
from app.telemetry import Telemetry

_REQUEST_ID = re.compile("[A-Za-z0-9_-]{1,64}")
_ALWAYS = [(b"cache-control", b"private, no-store"), (b"x-content-type-options", b"nosniff")]
_NOBODY = Key("nobody", scopes=frozenset())
"""Who calls a public route."""


@dataclass(slots=True)
class Doors:
    """What the edge decides by, and what it lets calls through to.

    A reload changes all of it at once. So a call takes what it needs in one step, and keeps that to its end.
    """

    keys: Keys
    access: Access
    gateway: Gateway
    telemetry: Telemetry
    body_limit_bytes: int

    def become(self, other: Doors) -> None:
        """Lead to where the others lead, for all calls from now on."""
        self.keys, self.access, self.gateway = other.keys, other.access, other.gateway
        self.telemetry, self.body_limit_bytes = other.telemetry, other.body_limit_bytes


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
        headers = _headers(scope)
        reply = _Reply(send, _request_id(headers))
        call: Call | None = None
        try:
            call = self._let_in(scope, headers, receive, reply.request_id)
            scope.setdefault("state", {})["call"] = call
            await self._app(scope, receive, reply.send)
        except ClientLeft:
            pass
        except GatewayError as exc:
            self._count(exc, call, reply.request_id)
            await reply.fail(exc, scope, receive, close=not (call and call.is_read))
        except Exception as exc:  # noqa: BLE001 - the last handler of all
            self._doors.telemetry.log.write("request.crashed", request_id=reply.request_id, where=_where(exc))
            await reply.fail(internal(reply.request_id), scope, receive)
        finally:
            if call and call.served:
                await call.served.answer.aclose()

    def _let_in(self, scope: Scope, headers: Mapping[str, str], receive: Receive, request_id: str) -> Call:
        rule = self._policy.rule(scope)
        key = _NOBODY if rule.scope == PUBLIC else self._authenticated(headers)
        if rule.scope != PUBLIC and rule.scope not in key.scopes:
            raise NotAllowed(f"this key may not do that; it needs the scope {rule.scope}")
        doors = self._doors
        return Call(
            doors.gateway, doors.access, key, request_id, headers, doors.body_limit_bytes, receive, rule.operation
        )

    def _authenticated(self, headers: Mapping[str, str]) -> Key:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        key = self._doors.keys.find(secret.strip() if scheme.lower() == "bearer" else "")
        if key is None:
            raise Unauthorized("send a valid key in the header authorization: Bearer KEY")
        return key

    def _count(self, error: GatewayError, call: Call | None, request_id: str) -> None:
        """Count a call that never came as far as the gateway, which records all others itself."""
        if call and call.begun:
            return
        operation = call.operation if call else "none"
        self._doors.telemetry.metrics.rejected(operation, error.code)
        self._doors.telemetry.log.write(
            "request.rejected",
            request_id=request_id,
            key=call.key.id if call else None,
            operation=operation,
            code=error.code,
            param=error.param,
        )


class _Reply:
    """Sends an answer with the headers that all answers have."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self.request_id = send, request_id
        self._begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            message["headers"] = [*message["headers"], *_ALWAYS, (b"x-request-id", self.request_id.encode())]
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


def _headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _request_id(headers: Mapping[str, str]) -> str:
    asked = headers.get("x-request-id", "")
    return asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(16)


def _where(error: Exception) -> str:
    """Kind and places of a crash; no values, which may be somebody's."""
    places = [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    return f"{type(error).__name__} at {' > '.join(places[-6:])}"
