"""What is counted, kept and logged of requests: for several of them together, and soon after it happens.

The same work takes a third of the time when it is done for many requests in a row, because the processor has it at
hand; and no answer waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.domain.clock import CallLater, Timer

# So long so much work may wait, and so much is done with no request in between: about a millisecond.
WITHIN_S = 0.01
MOST = 64

Work = Callable[[], None]


class Afterwards:
    """Does work when enough of it has come together, or after a while; for one event loop."""

    def __init__(
        self, failed: Callable[[Exception], None], most: int = MOST, call_later: CallLater | None = None
    ) -> None:
        """`failed` hears of work that raises; the rest is done all the same. With `most` of 1 nothing waits.

        `call_later` is the event loop's if absent.
        """
        self._failed, self._most, self._call_later = failed, most, call_later
        self._waiting: list[Work] = []
        self._timer: Timer | None = None

    def do(self, work: Work) -> None:
        """Have this done, in its turn."""
        self._waiting.append(work)
        if len(self._waiting) >= self._most:
            self.finish()
        elif self._timer is None:
            call_later = self._call_later or asyncio.get_running_loop().call_later
            self._timer = call_later(WITHIN_S, self.finish)

    def finish(self) -> None:
        """Do all of it now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            try:
                work()
            except Exception as exc:  # noqa: BLE001 - a bug in telling of one request must not lose the others
                self._failed(exc)
