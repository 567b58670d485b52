"""A stream of events on its way through: when it is committed, when it is given up, and how it ends.

What an event says is for the classes that derive from this one; here is what all streams have in common.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.errors import AnswerTooLarge, UpstreamBroken, UpstreamDisconnected, UpstreamError, unraised
from app.upstream.answers.base_answer import Answer, Form, Sink
from app.upstream.answers.sse import MAX_EVENT_BYTES, EventSplitter, EventTooLong
from app.upstream.http.exchange import Exchange, Pace, Watch, read_rest
from app.upstream.http.faults import unreadable

EVENT_STREAM = "text/event-stream"


class StreamAnswer(Answer):
    """Server-sent events, passed on as they come: one item is the events that arrived together."""

    content_type = EVENT_STREAM
    max_event_bytes = MAX_EVENT_BYTES

    def __init__(self, form: Form, exchange: Exchange, pace: Pace) -> None:
        super().__init__(form)
        self._exchange = exchange
        self._splitter = EventSplitter(self.max_event_bytes)
        self._watch, self._call_later = Watch(exchange, pace), pace.call_later
        self._ready: list[bytes] = []
        self._unread: Sequence[bytes] = ()
        """Events that came with the first output, and are read when the caller is there: by then it is known what is
        attached to the last of them."""
        self._held_bytes = 0
        self._real = False
        """Whether there was any output, or the end of it."""
        self._ended = False
        self._between = False
        """Whether the next byte begins an event."""

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
            self._begin(self._split(piece))
            self._held_bytes += len(piece)
            if self._held_bytes > 2 * self.max_event_bytes and not self._real:
                raise UpstreamBroken("the backend sent very much before it said anything")

    def _begin(self, events: Sequence[bytes]) -> None:
        for number, data in enumerate(events, 1):
            sendable = self._event(data)
            if self._real and self._ended:
                # All of the answer is in this event, to which something may be attached.
                self._unread, self._ended, self.complete = events[number - 1 :], False, False
                return
            self._ready.append(sendable)
            if self._real:
                # Once there is something to send, a failure is an event: the same however the network cut the stream.
                self._unread = events[number:]
                return
            if self._ended:
                raise UpstreamBroken("the backend sent an empty stream")

    async def relay(self, sink: Sink) -> None:
        """Write all of it as it comes, at the caller's pace.

        What arrives is passed on where it arrives; nobody is woken before the end, or until the caller is too slow.
        """
        if held := self._held():
            sink.write_piece(held, last=self._ended)
        while not self._ended and not self._closed:
            if sink.is_full and self._exchange.failed is None:
                await self._room(sink)
            await self._flow(sink)
        self.close()

    async def __anext__(self) -> bytes:
        if not self._closed and (held := self._held()):
            return held
        while not self._ended and not self._closed:
            if sendable := await self._next():
                return sendable
        self.close()
        raise StopAsyncIteration

    async def _room(self, sink: Sink) -> None:
        """Wait while the caller is too slow, but not once the exchange has failed: that is written all the same.

        So nothing is held for somebody who may never read on.
        """
        waiting = asyncio.ensure_future(sink.writable())

        def heard() -> None:
            if self._exchange.failed is not None:
                waiting.cancel()

        self._exchange.listen(heard)
        try:
            await asyncio.wait([waiting])
        finally:
            waiting.cancel()
            self._exchange.listen(None)

    async def _flow(self, sink: Sink) -> None:
        """Pass on what arrives until the stream has ended, or the caller is too slow."""
        over = asyncio.get_running_loop().create_future()

        def heard() -> None:
            try:
                if not over.done() and not self._passes_on(sink):
                    over.set_result(None)
            except Exception as exc:  # noqa: BLE001 - it is raised where it can be handled: by who waits for the end
                over.set_exception(exc)

        self._exchange.listen(heard)
        try:
            heard()
            await over
        finally:
            self._exchange.listen(None)

    def _passes_on(self, sink: Sink) -> bool:
        """Pass on all that is there; whether more may come."""
        exchange = self._exchange
        while not self._ended:
            try:
                piece = exchange.ready()
                if piece is None:
                    self._watch.wait()
                    return True
                sendable = self._sendable(piece)
            except UpstreamError as exc:
                sendable = self._fail(exc)
            except Exception as exc:  # noqa: BLE001 - nobody knows what a backend can send
                sendable = self._fail(unreadable(exc))
            if sendable:
                sink.write_piece(sendable, last=self._ended)
            if sink.is_full:
                break
            if not (self._ended or exchange.over):
                self._watch.wait()
                return True
        self._watch.relax()
        return False

    async def _next(self) -> bytes:
        self._watch.wait()
        try:
            return self._sendable(await self._exchange.read())
        except UpstreamError as exc:
            return self._fail(exc)
        except Exception as exc:  # noqa: BLE001 - as above
            return self._fail(unreadable(exc))

    def _sendable(self, piece: bytes) -> bytes:
        """What the caller gets for a piece of the body; an empty one is its end."""
        if not piece:
            return self._end_of_body()
        events = self._split(piece)
        if events:
            self._watch.again()
        return self._events(events)

    def _held(self) -> bytes:
        """What was held back until there was output, and what came with it."""
        ready, unread, self._ready, self._unread = self._ready, self._unread, [], ()
        return b"".join([*ready, self._events(unread)])

    def _split(self, piece: bytes) -> list[bytes]:
        try:
            events = self._splitter.feed(piece)
            self._between = not self._splitter.pending
            return events
        except EventTooLong as exc:
            raise AnswerTooLarge(f"the backend's stream is not passed on: {exc}; ask for less at once") from exc

    def _events(self, events: Sequence[bytes]) -> bytes:
        sendable: list[bytes] = []
        for data in events:
            if self._ended:
                break
            try:
                sendable.append(self._event(data))
            except UpstreamError as exc:
                sendable.append(self._fail(exc))
            except Exception as exc:  # noqa: BLE001 - as above
                sendable.append(self._fail(unreadable(exc)))
        return b"".join(sendable)

    def _event(self, data: bytes) -> bytes:
        """What the caller gets for one event; empty for what is hidden.

        Raises:
            UpstreamError: the event is broken, or says that the backend is.
        """
        raise NotImplementedError

    def _end_of_body(self) -> bytes:
        """What the caller gets when the body ends and nothing has said that the answer does."""
        return self._fail(UpstreamDisconnected("the backend's answer ended before it was complete"))

    def _error_event(self, error: UpstreamError) -> bytes:
        """The one event that ends a begun stream; OpenAI's client raises at it."""
        raise NotImplementedError

    def _fail(self, error: UpstreamError) -> bytes:
        self._ended, self.complete = True, False
        self.error = unraised(error)
        return self._error_event(error)

    def _end_exchange(self) -> None:
        self._watch.stop()
        if self.complete:
            read_rest(self._exchange, self._call_later)
        else:
            self._exchange.close()
