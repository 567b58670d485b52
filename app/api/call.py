"""One HTTP call after it was authenticated and before its body is read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.types import Receive

from app.api.access import Access
from app.api.disconnect import ClientLeft, Watching
from app.api.strict_json import parse_object
from app.errors import InvalidRequest, RequestTimeout, TooLarge, UnsupportedMedia
from app.gateway import Gateway
from app.store.keys import Key
from app.upstream.dispatcher import Served

# 4 MiB at 1 Mbit/s; who is slower keeps a connection from others.
BODY_WITHIN_S = 30.0


@dataclass(slots=True)
class Call:
    """Who calls, and all that an endpoint needs to answer."""

    gateway: Gateway
    access: Access
    key: Key
    request_id: str
    headers: Mapping[str, str]
    """Names in lower case; of a name that occurs twice, the values joined by a comma."""
    body_limit_bytes: int
    receive: Receive
    operation: str
    is_read: bool = False
    """Whether the whole body has arrived."""
    begun: bool = False
    """Whether the gateway has taken over: it records what happens from there on."""
    served: Served | None = None
    """What is to be closed at the end, whatever happens on the way."""

    async def json(self) -> dict[str, Any]:
        """The JSON object in the body.

        Raises:
            CallerError: the body is too large, too slow, or something else than a JSON object.
        """
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMedia("send the body as JSON, with the header content-type: application/json")
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMedia("send the body uncompressed, without the header content-encoding")
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                return parse_object(await self._body())
        except TimeoutError as exc:
            raise RequestTimeout(f"the body did not arrive within {BODY_WITHIN_S:g} s; send it faster") from exc

    def while_there(self) -> Watching:
        """A block in which the gateway works for the caller, and which ends when the caller leaves."""
        self.begun = True
        return Watching(self.receive)

    async def _body(self) -> bytes:
        limit = self.body_limit_bytes
        self._check_length(self.headers.get("content-length", "0"))
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
            size += len(pieces[-1])
            if size > limit:
                raise _too_large(limit)
        self.is_read = True
        return b"".join(pieces)

    def _check_length(self, length: str) -> None:
        if not (length.isascii() and length.isdigit()):
            raise InvalidRequest("the header content-length must be a number of bytes")
        if len(length) > 15 or int(length) > self.body_limit_bytes:
            raise _too_large(self.body_limit_bytes)


def call_of(http_request: HttpRequest) -> Call:
    """The call that the edge has let through."""
    call: Call = http_request.scope["state"]["call"]
    return call


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit_bytes} bytes; shorten the conversation")
