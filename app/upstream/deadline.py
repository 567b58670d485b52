"""When a request must be over, and how long each part of an exchange may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.errors import UpstreamTimeout

Clock = Callable[[], float]
"""Monotonic seconds."""


class Timer(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]
"""Run something after so many seconds, as an event loop does."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that an exchange may take, by its parts."""

    connect_s: float = 2.0
    pool_wait_s: float = 1.0
    """A caller who waits longer than this for a connection is better served elsewhere."""
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


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time that covers all attempts and the waiting between them."""

    ends_at: float
    clock: Clock

    @classmethod
    def after(cls, seconds: float, clock: Clock) -> Deadline:
        return cls(clock() + seconds, clock)

    def remaining_s(self) -> float:
        """Seconds left; 0 or less when it has passed."""
        return self.ends_at - self.clock()
