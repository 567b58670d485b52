"""An answer on its way to the caller: written as it comes, given up when the caller leaves, closed always."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.disconnect import Watching
from app.upstream.dispatcher import Served


class AnswerResponse(Response):
    """Sends what was served, with the headers that say who answered."""

    def __init__(self, served: Served) -> None:
        self._answer = served.answer
        self.background = None
        self.status_code = served.answer.status
        self.init_headers({"content-type": served.answer.content_type, **served.headers()})

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with Watching(receive):
                if self._answer.form.stream:
                    await self._stream(send)
                else:
                    await self._whole(send)
        finally:
            await self._answer.aclose()

    async def _whole(self, send: Send) -> None:
        body = b"".join([piece async for piece in self._answer])
        self.raw_headers.append((b"content-length", str(len(body)).encode()))
        await self._start(send)
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, send: Send) -> None:
        await self._start(send)
        async for piece in self._answer:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
