"""What stands in for time: whoever waits or measures is handed it, and tests hand in their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Clock = Callable[[], float]
"""Seconds, monotonic unless a name says `wall_clock`: a jump of that one must not open or close a limiter."""


class Timer(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]
"""Run something after so many seconds, as an event loop does."""
