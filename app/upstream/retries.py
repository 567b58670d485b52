"""How many retries the gateway may add to the load of a fleet that already fails.

Each request pays a tenth of a retry in, each second one; what is saved is bounded, and full at the start. So a fleet
that fails now and then is retried always, and one that fails all the time is asked 1.1 times per request.
"""

from __future__ import annotations

from app.upstream.deadline import Clock

PER_REQUEST = 0.1
PER_S = 1.0
# One worker that dies with a hundred requests on it: all of them may be asked again elsewhere.
SAVED_AT_MOST = 128.0


class RetryBudget:
    """Shared by all requests of a process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._saved, self._filled_at = SAVED_AT_MOST, clock()

    def request_began(self) -> None:
        self._saved = min(SAVED_AT_MOST, self._saved + PER_REQUEST)

    def take(self) -> bool:
        """Whether one more retry may be made; it is paid for if so."""
        now = self._clock()
        self._saved = min(SAVED_AT_MOST, self._saved + (now - self._filled_at) * PER_S)
        self._filled_at = now
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
