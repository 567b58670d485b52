"""A chat endpoint on loopback that answers as its script says, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Scripted:
    """One answer: what is sent, and after how long."""

    status: int = 200
    body: bytes | None = None
    """None: a good completion that says `text`."""
    text: str = "ok"
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    usage: bool = True
    finish_reason: str = "stop"
    output_tokens: int = 4
    cut: bool = False
    """Close the connection instead of answering."""


Script = Callable[[str, int, dict[str, Any]], Scripted]
"""(last user message, how often it was asked before, whole body) → answer."""


class ChatServer:
    """`async with ChatServer(script) as server: ... server.url`."""

    def __init__(self, script: Script, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._script = script
        self._tls = tls
        self._port = port
        self._in_flight = 0
        self.most_in_flight = 0
        self.asked: Counter[tuple[str, str]] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> ChatServer:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._tls).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = body["messages"][-1]["content"]
        key = (body["model"], text)
        scripted = self._script(text, self.asked[key], body)
        self.asked[key] += 1
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await asyncio.sleep(scripted.delay_s)
        finally:
            self._in_flight -= 1
        if scripted.cut:
            assert request.transport is not None
            request.transport.close()
        content = scripted.body if scripted.body is not None else completion(scripted, body)
        return web.Response(
            body=content, status=scripted.status, headers=scripted.headers, content_type="application/json"
        )


def completion(scripted: Scripted, body: dict[str, Any]) -> bytes:
    """A completion as vLLM writes it."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": scripted.text},
        "finish_reason": scripted.finish_reason,
    }
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]}
    answer: dict[str, Any] = {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice]}
    if scripted.usage:
        answer["usage"] = {
            "prompt_tokens": 10,
            "completion_tokens": scripted.output_tokens,
            "total_tokens": 10 + scripted.output_tokens,
        }
    return json.dumps(answer).encode()
