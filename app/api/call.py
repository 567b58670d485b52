"""One HTTP call after it was authenticated and before its body is read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.types import Message, Receive

from app.api.access import Access
from app.api.bodies.strict_json import parse_object
from app.api.connection.disconnect import ClientLeft, Watching
from app.api.connection.uploads import Upload, Uploads
from app.errors import RequestTimeout, TooLarge, UnsupportedMedia
from app.gateway import Gateway
from app.store.keys.key import Key

# 4 MiB at 1 Mbit/s; who is slower keeps a connection from others.
BODY_WITHIN_S = 30.0
# A connection that is closed while its client still sends takes the answer with it. So it stays open for a while, and
# nothing more is read: who is made to wait comes to read why. Of a body that is too large a good part is read and
# dropped: some clients read only after they have written all.
LINGER_BYTES, LINGER_S = 12 << 20, 1.0


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
    """The rest of the body, as ASGI has it."""
    operation: str
    uploads: Uploads
    is_read: bool = False
    """Whether the whole body has arrived."""
    begun: bool = False
    """Whether the gateway has taken over: it records what happens from there on."""

    async def json(self) -> dict[str, Any]:
        """The JSON object in the body.

        Raises:
            CallerError: the body is too large, too slow, or something else than a JSON object.
        """
        check_media(self.headers)
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
        if len(self.headers.get("content-length", "")) > 15:
            raise await self._too_large()
        if int(self.headers.get("content-length", "0")) > self.body_limit_bytes:
            raise await self._too_large()
        first = await self._piece()
        if self.is_read and len(first) <= self.body_limit_bytes:
            return first
        upload = self.uploads.begin(self.key)
        try:
            return await self._received(first, upload)
        finally:
            upload.end()

    async def _received(self, first: bytes, upload: Upload) -> bytes:
        pieces, size = [first], len(first)
        while not self.is_read or size > self.body_limit_bytes:
            if size > self.body_limit_bytes:
                raise await self._too_large()
            upload.take(len(pieces[-1]))
            pieces.append(await self._piece())
            size += len(pieces[-1])
        return b"".join(pieces)

    async def _piece(self) -> bytes:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        self.is_read = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    async def _too_large(self) -> TooLarge:
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self.is_read and dropped < LINGER_BYTES:
                    dropped += len(await self._piece())
        return too_large(self.body_limit_bytes)


async def nothing_more() -> Message:
    """What ASGI would say of a body that has arrived whole."""
    return {"type": "http.request", "body": b"", "more_body": False}


def check_media(headers: Mapping[str, str]) -> None:
    """
    Raises:
        UnsupportedMedia: the body is announced as something else than plain JSON.
    """
    kind = headers.get("content-type", "")
    if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMedia("send the body as JSON, with the header content-type: application/json")
    if "content-encoding" in headers and headers["content-encoding"].lower() != "identity":
        raise UnsupportedMedia("send the body uncompressed, without the header content-encoding")


def too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit_bytes} bytes; shorten it")


def call_of(http_request: HttpRequest) -> Call:
    """The call that the edge has let through."""
    call: Call = http_request.scope["state"]["call"]
    return call
