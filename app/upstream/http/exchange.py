"""One exchange with a backend from its head on, and the watch over a stream that falls silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from app.domain.clock import CallLater, Clock
from app.domain.frozen import frozen
from app.errors import AnswerTooLarge, UpstreamError, UpstreamTimeout
from app.upstream.http.deadline import HELD_UP_S, Deadline

# The end of a body mostly comes with the last event, or follows at once. A connection that was read to its end can be
# used again; waiting longer for that costs more than a new one.
REST_WITHIN_S = 0.1


class Exchange(Protocol):
    """The head of a backend's answer has arrived, its body has not."""

    @property
    def status(self) -> int: ...
    @property
    def content_type(self) -> str: ...
    @property
    def retry_after_s(self) -> float | None:
        """Seconds that a refused request should wait, where the backend says so."""
        ...

    @property
    def used_up_s(self) -> float | None:
        """Seconds in which this answered request was the last that the backend grants; None where it was not."""
        ...

    @property
    def over(self) -> bool:
        """Whether nothing more arrives: all of the body has, or it was cut. What is there can still be read."""
        ...

    @property
    def failed(self) -> UpstreamError | None:
        """What `fail` was called with."""
        ...

    async def read(self) -> bytes:
        """The next piece of the body; empty at its end.

        Raises:
            UpstreamError: the connection broke, or `fail` was called.
        """
        ...

    def ready(self) -> bytes | None:
        """What `read` would return at once; None where it would wait.

        Raises:
            UpstreamError: as `read` does.
        """
        ...

    def listen(self, heard: Callable[[], None] | None) -> None:
        """Call this whenever `ready` may have something new, instead of waking a reader; None ends that."""

    def fail(self, error: UpstreamError) -> None:
        """Cut the connection, and let the pending or the next `read` raise this."""

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else cut it. May be called twice."""


@frozen
class Pace:
    """How long a stream may be silent and last, and the clock that says so."""

    idle_s: float
    deadline: Deadline
    clock: Clock
    call_later: CallLater


class Watch:
    """Fails an exchange that is silent for too long while we wait for it, or outlives its deadline.

    One timer for the whole stream: a chunk costs two assignments and no timer of its own.
    """

    def __init__(self, exchange: Exchange, pace: Pace) -> None:
        self._exchange, self._pace = exchange, pace
        self._idle_s = pace.idle_s
        self._waiting_since: float | None = None
        self._look_again()

    def wait(self) -> None:
        """We wait for an event from now on, unless we did already."""
        if self._waiting_since is None:
            self._waiting_since = self._pace.clock()

    def again(self) -> None:
        """An event came, and we wait for the next one."""
        self._waiting_since = self._pace.clock()

    def relax(self) -> None:
        """An event came: until the caller asks for the next one, silence is the caller's."""
        self._waiting_since = None

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now, since = self._pace.clock(), self._waiting_since
        if self._pace.deadline.remaining_s() <= 0:
            self._exchange.fail(self._pace.deadline.over("the answer was not complete when its time was over"))
        elif since is not None and now - since >= self._idle_s and now - self._due_at <= HELD_UP_S:
            self._exchange.fail(UpstreamTimeout(f"the backend was silent for {self._idle_s:g} s"))
        else:
            self._look_again()

    def _look_again(self) -> None:
        now, since = self._pace.clock(), self._waiting_since
        idle_left_s = self._idle_s if since is None else since + self._idle_s - now
        # Timers of an event loop are good to a millisecond; asking for less would spin.
        due_s = max(0.001, min(idle_left_s, self._pace.deadline.remaining_s()))
        self._due_at = now + due_s
        self._timer = self._pace.call_later(due_s, self._look)


def read_rest(exchange: Exchange, call_later: CallLater) -> None:
    """Read what is left of a body whose answer was whole, then close the exchange, which is soon in any case.

    Nobody waits for that: the request is over, and its caller may send the next one.
    """
    if _drop_unread(exchange):
        exchange.close()
        return

    def end() -> None:
        timer.cancel()
        exchange.listen(None)
        exchange.close()

    def heard() -> None:
        if _drop_unread(exchange):
            end()

    timer = call_later(REST_WITHIN_S, end)
    exchange.listen(heard)


def _drop_unread(exchange: Exchange) -> bool:
    """Whether that was the last of it."""
    try:
        while piece := exchange.ready():
            pass
    except UpstreamError:
        return True
    return piece is not None


async def read_body(exchange: Exchange, max_bytes: int) -> bytes:
    """All pieces of a body.

    Raises:
        AnswerTooLarge: there is more than `max_bytes`.
        UpstreamBroken: the body was cut.
    """
    pieces: list[bytes] = []
    size = 0
    # What is there need not be waited for.
    while piece := await exchange.read() if (there := exchange.ready()) is None else there:
        size += len(piece)
        if size > max_bytes:
            raise AnswerTooLarge(f"the backend's answer is larger than {max_bytes} bytes; ask for less at once")
        pieces.append(piece)
    return b"".join(pieces)
