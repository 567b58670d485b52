"""A clock that goes on only when told, with timers, as an event loop has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class FakeTimer:
    due_at: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass(slots=True)
class FakeClock:
    """Call it for the time."""

    now: float = 1000.0
    timers: list[FakeTimer] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.now + delay_s, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Go on, and run the timers that fall due on the way, in their order."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if not timer.cancelled and timer.due_at <= end]:
            timer = min(due, key=lambda one: one.due_at)
            self.timers.remove(timer)
            self.now = max(self.now, timer.due_at)
            timer.callback()
        self.now = end
