"""Callers of a gateway: one who listens to the end and tells what was heard, and one who hangs up."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.fakes.deployment import SECRET
from tests.fakes.upstream import texts

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@dataclass(frozen=True, slots=True)
class Heard:
    """What a caller got."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    whole: bool
    """Whether the answer ended as HTTP wants it."""
    took_s: float

    @property
    def events(self) -> list[bytes]:
        return [event.removeprefix(b"data: ") for event in self.body.split(b"\n\n") if event]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Error objects, in the body or among the events."""
        found = self.events if self.is_stream else [self.body]
        parsed = [json.loads(one) for one in found if one != b"[DONE]"]
        return [one["error"] for one in parsed if one.get("error")]

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def done(self) -> int:
        return self.events.count(b"[DONE]")

    @property
    def text(self) -> str:
        if self.is_stream:
            return texts(self.body)
        choices = json.loads(self.body).get("choices")
        return str(choices[0]["message"]["content"]) if choices else ""

    @property
    def code(self) -> str | None:
        """Of the one error, if there is one."""
        return self.errors[0]["code"] if len(self.errors) == 1 else None


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": MESSAGES, "max_tokens": 10, **fields}


def session_to(url: str) -> aiohttp.ClientSession:
    """A caller with the tester's key, and as many connections as it likes."""
    headers = {"authorization": f"Bearer {SECRET}"}
    timeout = aiohttp.ClientTimeout(total=None)
    return aiohttp.ClientSession(url, headers=headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


async def hear(session: aiohttp.ClientSession, headers: Mapping[str, str] | None = None, **fields: Any) -> Heard:
    """Ask, and listen to the end, whichever it is."""
    began_at, body, whole = time.monotonic(), bytearray(), True
    async with session.post(CHAT, json=chat(**fields), headers=headers) as response:
        try:
            async for piece in response.content.iter_any():
                body += piece
        except aiohttp.ClientPayloadError:
            whole = False
    told = {name.lower(): value for name, value in response.headers.items()}
    return Heard(response.status, told, bytes(body), whole, time.monotonic() - began_at)


async def call(port: int, **fields: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request on a connection of its own, and leave the answer to come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request(**fields))
    await writer.drain()
    return reader, writer


def request(**fields: Any) -> bytes:
    """A request as it is sent."""
    body = json.dumps(chat(**fields)).encode()
    return (
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), SECRET.encode(), len(body), body)
    )


def hang_up(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    """Close the connection, with a FIN or a RST."""
    if reset:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
