"""What a backend answers, checked and rewritten: a plain answer read whole, or a stream committed at its first output.

How it works: `read_answer` returns once the caller can be sent something. A plain answer is read to its end first; a
stream is read to its first output. Until then every failure is an exception, and another backend may be tried. After
that a failure is exactly one error event, which ends the stream without `[DONE]`: what the caller got is a prefix of
one backend's answer.

An answer is an object with `aclose()`, so that what a request holds is given back even if nobody ever reads it.
What was used is counted here; what it cost is not this file's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.usage import Usage
from app.errors import GatewayError, UpstreamBroken, UpstreamDisconnected, UpstreamError
from app.upstream.exchange import Exchange, Pace, Watch, read_body
from app.upstream.payload import (
    Renamer,
    count_streamed_tokens,
    count_tokens,
    dump,
    error_event,
    parse,
    says_something,
    sound_choices,
)
from app.upstream.sse import EventSplitter, EventTooLong

MAX_ANSWER_BYTES = 16 << 20
EVENT_STREAM = "text/event-stream"
DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Form:
    """What the caller asked for, as far as the form of the answer depends on it."""

    model: str
    """The name that the caller sees in place of the backend's."""
    stream: bool
    choices: int = 1
    wants_usage: bool = False
    """Whether a stream's caller asked for the usage chunk; the backend is always asked for it."""


class Answer:
    """Bytes for the caller, and what became of them. Iterate at most once; close always."""

    status = 200
    content_type = "application/json"

    def __init__(self, form: Form) -> None:
        self.form = form
        self.usage: Usage | None = None
        """As the backend reported it, else None."""
        self.counted_tokens = 0
        """Output tokens as far as the gateway can tell from what passed."""
        self.error: GatewayError | None = None
        """What ended a begun answer."""
        self.complete = False
        """Whether the caller was handed all of it, without an error."""
        self.done_added = False
        """Whether the backend forgot the `[DONE]` of a stream that was whole."""
        self._record: Callable[[], Mapping[str, Any]] | None = None
        self._closers: list[Callable[[Answer], None]] = []
        self._closed = False

    def attach(self, record: Callable[[], Mapping[str, Any]]) -> None:
        """Add this object to the answer as `thalamus`: in a plain body, or on the last chunk of a stream."""
        self._record = record

    def on_close(self, closer: Callable[[Answer], None]) -> None:
        """Call this when the answer is closed; the latest first, as with nested blocks."""
        self._closers.append(closer)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        raise NotImplementedError

    def cut(self, error: UpstreamError) -> None:
        """End it before its time; what is left of a stream is this error. An answer that is whole is not touched."""

    async def aclose(self) -> None:
        """Cut the exchange if it still runs, and give back what the answer held. Does not wait for anything."""
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end_exchange()
        for closer in reversed(self._closers):
            closer(self)

    def _end_exchange(self) -> None:
        """Give the connection back."""


class PlainAnswer(Answer):
    """One JSON object, read whole before the caller sees anything."""

    def __init__(self, form: Form, body: bytes) -> None:
        super().__init__(form)
        self._parsed = parse(body)
        sound_choices(self._parsed)
        if not isinstance(self._parsed.get("choices"), list):
            raise UpstreamBroken("the backend's answer has no choices")
        self._body = Renamer(form.model).rename(body, self._parsed)
        self.usage = Usage.parse(self._parsed.get("usage"))
        self.counted_tokens = count_tokens(self._parsed)
        self._handed_over = False

    @property
    def body(self) -> bytes:
        if self._record is None:
            return self._body
        return dump({**self._parsed, "model": self.form.model, "thalamus": self._record()})

    async def __anext__(self) -> bytes:
        if self._handed_over or self._closed:
            self.close()
            raise StopAsyncIteration
        self._handed_over = True
        self.complete = True
        return self.body


class StreamAnswer(Answer):
    """Server-sent events, passed on as they come: one item is the events that arrived together."""

    content_type = EVENT_STREAM

    def __init__(self, form: Form, exchange: Exchange, pace: Pace) -> None:
        super().__init__(form)
        self._exchange = exchange
        self._splitter = EventSplitter()
        self._watch = Watch(exchange, pace)
        self._names = Renamer(form.model)
        self._last: dict[str, Any] = {}
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._ready = b""
        self._real = False
        """Whether there was any output, or a finish reason."""
        self._ended = False

    def cut(self, error: UpstreamError) -> None:
        if not self._ended:
            self._exchange.fail(error)

    async def open(self) -> None:
        """Read until there is output for the caller; what comes before it, such as the role, is held back.

        Raises:
            UpstreamError: the stream fails or ends before that.
        """
        while not self._real:
            piece = await self._exchange.read()
            if not piece:
                raise UpstreamBroken("the backend ended its stream before it said anything")
            for item in self._split(piece):
                # Once there is something to send, a failure is an event: the same however the network cut the stream.
                self._ready += self._events([item]) if self._real else self._event(item)
                if self._ended and not self._real:
                    raise UpstreamBroken("the backend sent an empty stream")

    async def __anext__(self) -> bytes:
        if self._ready and not self._closed:
            ready, self._ready = self._ready, b""
            return ready
        while not self._ended and not self._closed:
            if sendable := await self._next():
                return sendable
        if not self._closed and self.complete:
            await self._read_to_end()
        self.close()
        raise StopAsyncIteration

    async def _next(self) -> bytes:
        self._watch.wait()
        try:
            piece = await self._exchange.read()
            data = self._split(piece)
        except UpstreamError as exc:
            return self._fail(exc)
        if not piece:
            return self._end_without_done()
        if data:
            self._watch.relax()
        return self._events(data)

    def _split(self, piece: bytes) -> list[bytes]:
        try:
            return self._splitter.feed(piece)
        except EventTooLong as exc:
            raise UpstreamBroken(f"the backend's stream is broken: {exc}") from exc

    def _events(self, data: Sequence[bytes]) -> bytes:
        sendable = b""
        for item in data:
            if self._ended:
                break
            try:
                sendable += self._event(item)
            except UpstreamError as exc:
                sendable += self._fail(exc)
        return sendable

    def _event(self, data: bytes) -> bytes:
        """What the caller gets for one event; empty for what is hidden."""
        if data == DONE:
            return self._done()
        chunk = parse(data)
        choices = sound_choices(chunk)
        self._last = chunk
        self._note(choices)
        if chunk.get("usage"):
            self.usage = Usage.parse(chunk["usage"]) or self.usage
            if not choices and not self.form.wants_usage:
                return b""
        return b"data: %b\n\n" % self._names.rename(data, chunk)

    def _note(self, choices: Sequence[Mapping[str, Any]]) -> None:
        for choice in choices:
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            self._begun.add(index)
            if choice.get("finish_reason"):
                self._finished.add(index)
                self._real = True
            if says_something(choice):
                self.counted_tokens += count_streamed_tokens(choice)
                self._real = True

    def _done(self) -> bytes:
        self._ended = self.complete = True
        return self._epilogue() + b"data: [DONE]\n\n"

    def _end_without_done(self) -> bytes:
        whole = len(self._finished) >= self.form.choices and self._begun <= self._finished
        if whole and not self._splitter.pending:
            self.done_added = True
            return self._done()
        return self._fail(UpstreamDisconnected("the backend's answer ended before it was complete"))

    def _fail(self, error: UpstreamError) -> bytes:
        self._ended = True
        self.error = error
        return error_event(error)

    def _epilogue(self) -> bytes:
        if self._record is None:
            return b""
        kept: dict[str, Any] = {name: self._last[name] for name in ("id", "object", "created") if name in self._last}
        chunk = {**kept, "model": self.form.model, "choices": [], "thalamus": self._record()}
        return b"data: %b\n\n" % dump(chunk)

    async def _read_to_end(self) -> None:
        """The end of the body usually follows `[DONE]` at once; a connection read to its end can be used again."""
        self._watch.hurry()
        try:
            while await self._exchange.read():
                pass
        except UpstreamError:
            return

    def _end_exchange(self) -> None:
        self._watch.stop()
        self._exchange.close()


async def read_answer(exchange: Exchange, form: Form, pace: Pace) -> Answer:
    """The answer, as soon as the caller can be sent something of it. Closes the exchange on any failure.

    Raises:
        UpstreamError: nothing of it can be sent; another backend may be asked.
    """
    try:
        if not form.stream:
            return PlainAnswer(form, await _read_whole(exchange))
        if not exchange.content_type.startswith(EVENT_STREAM):
            raise UpstreamBroken("the backend did not answer with a stream")
        return await _opened(StreamAnswer(form, exchange, pace))
    except BaseException:
        exchange.close()
        raise


async def _opened(answer: StreamAnswer) -> StreamAnswer:
    try:
        await answer.open()
    except BaseException:
        answer.close()
        raise
    return answer


async def _read_whole(exchange: Exchange) -> bytes:
    body = await read_body(exchange, MAX_ANSWER_BYTES)
    exchange.close()
    return body
