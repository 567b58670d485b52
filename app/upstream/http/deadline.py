"""When a request must be over, and how long each part of an exchange may take."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from types import TracebackType

from app.domain.clock import Clock
from app.domain.frozen import frozen
from app.errors import UpstreamTimeout

HELD_UP_S = 0.05
"""A timer that is this late says that the process stood still. An event loop looks at its timers before its sockets, so
what came meanwhile is to be read before anybody is told that nothing came."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that an exchange may take, by its parts."""

    connect_s: float = 2.0
    pool_wait_s: float = 0.8
    """A caller who waits longer than this for a connection is better served elsewhere; he hears so within a second."""
    first_byte_s: float = 30.0
    """Until the first event of a stream; a 70B model with a full queue answers its first token in 8 to 20 s."""
    idle_s: float = 30.0
    """Between two events of a stream."""
    total_s: float = 600.0
    """The whole request with all its attempts, as in OpenAI's client."""


class OutOfTime(UpstreamTimeout):
    """The caller's time was over. Says nothing against the replica, or callers could eject it with short deadlines."""


class CutShort(OutOfTime):
    """The gateway itself ends the answer: it stops, or the backend was taken out of its configuration."""

    status = 503
    code = "draining"


class TooLong(OutOfTime):
    """It took as long as any request may. Of a long answer that says nothing against the replica either."""


def out_of_time(error: BaseException | None) -> bool:
    """Whether a request ended with this because its time was over, its caller's or the gateway's."""
    return isinstance(error, OutOfTime) and not isinstance(error, CutShort)


def missed(error: BaseException | None) -> bool:
    """Whether a request ended with this because its caller's own deadline was over."""
    return isinstance(error, OutOfTime) and not isinstance(error, CutShort | TooLong)


@frozen
class Deadline:
    """A point in time that covers all attempts and the waiting between them."""

    ends_at: float
    clock: Clock
    is_callers: bool = True
    """False where the caller would wait longer: then it is the gateway's limit for all requests."""

    @classmethod
    def after(cls, seconds: float, clock: Clock) -> Deadline:
        return cls(clock() + seconds, clock)

    def remaining_s(self) -> float:
        """Seconds left; 0 or less when it has passed."""
        return self.ends_at - self.clock()

    def over(self, message: str) -> OutOfTime:
        """What a request ends with when it has passed."""
        return OutOfTime(message) if self.is_callers else TooLong(message)


class Within:
    """`with Within(seconds):` cancels what the block awaits when time is over, and then raises a TimeoutError.

    As `asyncio.timeout`, for a third of its cost. Who cancels the task meanwhile is obeyed, not taken for the clock.
    Where the process stood still when time was over, what had come by then counts.
    """

    __slots__ = ("_cancels", "_due_at", "_expired", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a limit needs a task that can be cancelled")
        self._task, self._cancels = task, task.cancelling()
        self._due_at = loop.time() + self._seconds
        self._timer = loop.call_at(self._due_at, self._expire)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._timer.cancel()
        if not self._expired:
            return
        only_ours = self._task.uncancel() <= self._cancels
        if only_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def _expire(self) -> None:
        loop = self._task.get_loop()
        if loop.time() - self._due_at > HELD_UP_S:
            self._due_at = math.inf  # it is late once, whatever happens next
            self._timer = loop.call_later(HELD_UP_S, self._expire)
            return
        self._expired = True
        self._task.cancel()
