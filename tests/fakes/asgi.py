"""An ASGI application asked without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from tests.fakes.listener import SECRET


class Reply:
    """What an application answered."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode().lower(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(
    app: ASGIApp, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, **scope: Any
) -> Reply:
    """Send one request into an application; the body comes whole, then nothing more."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    reply = Reply()
    await app({**scope_of(method, path, headers), **scope}, receiving(pending), reply.send)
    return reply


def scope_of(method: str, path: str, headers: Mapping[str, str] | None = None) -> Scope:
    sent = {"content-type": "application/json", "authorization": f"Bearer {SECRET}", **(headers or {})}
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items() if value],
    }


def receiving(pending: list[Message]) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        if pending:
            return pending.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return receive
