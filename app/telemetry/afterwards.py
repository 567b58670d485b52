"""What is counted, kept and logged of requests: for several of them together, and soon after it happens.

The same work takes a third of the time when it is done for many requests in a row, because the processor has it at
hand; and no answer waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# So long so much work may wait, and so much is done with no request in between: about a millisecond.
WITHIN_S = 0.01
MOST = 64

Work = Callable[[], None]


class Afterwards:
    """Does work when enough of it has come together, or after a while; for one event loop."""

    def __init__(self, failed: Callable[[Exception], None], most: int = MOST, within_s: float = WITHIN_S) -> None:
        """`failed` hears of work that raises; the rest is done all the same. With `most` of 1 nothing waits."""
        self._failed, self._most, self._within_s = failed, most, within_s
        self._waiting: list[Work] = []
        self._timer: asyncio.TimerHandle | None = None

    def do(self, work: Work) -> None:
        """Have this done, in its turn."""
        self._waiting.append(work)
        if len(self._waiting) >= self._most:
            self.finish()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._within_s, self.finish)

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
