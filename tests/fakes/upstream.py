"""An upstream in memory that answers as told, and exchanges made of pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from app.errors import UpstreamError
from app.upstream.client import Message

Piece = bytes | Exception


class FakeExchange:
    """Gives its pieces one by one; an error among them is raised; after the last one the body has ended, or hangs."""

    def __init__(
        self,
        pieces: Iterable[Piece] = (),
        *,
        status: int = 200,
        content_type: str = "text/event-stream",
        retry_after_s: float | None = None,
        used_up_s: float | None = None,
        hangs: bool = False,
    ) -> None:
        self.status, self.content_type, self.retry_after_s = status, content_type, retry_after_s
        self.used_up_s = used_up_s
        self._pieces = list(pieces)
        self._hangs = hangs
        self.failed: UpstreamError | None = None
        self._heard: Callable[[], None] | None = None
        self._wake = asyncio.Event()
        self.closed = 0

    @property
    def unread(self) -> int:
        return len(self._pieces)

    async def read(self) -> bytes:
        if (piece := self.ready()) is not None:
            return piece
        await self._wake.wait()
        assert self.failed
        raise self.failed

    @property
    def over(self) -> bool:
        return not self._pieces and not self._hangs

    def ready(self) -> bytes | None:
        if self.failed:
            raise self.failed
        if not self._pieces:
            return None if self._hangs else b""
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def listen(self, heard: Callable[[], None] | None) -> None:
        self._heard = heard
        if heard:
            asyncio.get_running_loop().call_soon(self._tell)

    def fail(self, error: UpstreamError) -> None:
        self.failed = error
        self._wake.set()
        if self._heard:
            self._heard()

    def _tell(self) -> None:
        """As one piece after the other would arrive."""
        if self._heard and (self._pieces or not self._hangs):
            self._heard()
            asyncio.get_running_loop().call_soon(self._tell)

    def close(self) -> None:
        self.closed += 1


Does = UpstreamError | FakeExchange | bytes


class FakeUpstream:
    """`FakeUpstream(small=UpstreamTimeout("..."), large=b"hello")`: what each model does when asked.

    Bytes are the text of an answer, in the form that was asked for; an exchange is used as it is. Of a list each time
    the next one is what it does.
    """

    def __init__(self, **answers: Does | list[Does]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.messages: list[Message] = []

    async def send(self, backend: str, url: str, message: Message) -> FakeExchange:
        model = json.loads(message.body)["model"]
        self.asked.append(model)
        self.messages.append(message)
        does = self.answers[model]
        answer = does.pop(0) if isinstance(does, list) else does
        if isinstance(answer, UpstreamError):
            raise answer
        if isinstance(answer, FakeExchange):
            return answer
        return stream_of(answer.decode(), model) if message.stream else plain_of(answer.decode(), model)


def event(value: Any) -> bytes:
    return b"data: %b\n\n" % (value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode())


def chunk(text: str, finish_reason: str | None = None, model: str = "small", index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}


def stream_of(text: str, model: str = "small") -> FakeExchange:
    """A whole stream: one event with the text, the end, usage, [DONE]."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    last = {**chunk("", model=model), "choices": [], "usage": usage}
    return FakeExchange(
        [event(chunk(text, model=model)), event(chunk("", "stop", model)), event(last), event(b"[DONE]")]
    )


def plain_of(text: str, model: str = "small") -> FakeExchange:
    message = {"role": "assistant", "content": text}
    body = {
        "id": "1",
        "object": "chat.completion",
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    return FakeExchange([json.dumps(body).encode()], content_type="application/json")


def texts(sent: bytes) -> str:
    """What a caller reads out of a stream, up to its end or its error."""
    said = ""
    for line in sent.split(b"\n\n"):
        data = line.removeprefix(b"data: ")
        if data and data != b"[DONE]":
            for choice in json.loads(data).get("choices", ()):
                said += choice.get("delta", {}).get("content") or choice.get("text") or ""
    return said
