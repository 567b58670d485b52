"""How many retries the gateway may add to the load of a fleet that already fails, and when it makes them.

Each request pays a tenth of a retry in, and where that is less than one each second, each second does; what is saved is
bounded, and full at the start. So a fleet that fails now and then is retried always, and one that fails all the time is
asked 1.1 times per request.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.domain.clock import Clock

PER_REQUEST = 0.1
PER_S = 1.0
# One worker that dies with a hundred requests on it: all of them may be asked again elsewhere.
SAVED_AT_MOST = 128.0
# Requests that come in bursts pay for the time between them, up to this.
AHEAD_S = 1.0
# What fails for a moment, such as a connection that was just being closed, is over within a few of these.
BASE_S, CAP_S = 0.025, 0.25


class RetryBudget:
    """Shared by all requests of a process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._saved, self._filled_at = SAVED_AT_MOST, clock()

    @property
    def is_empty(self) -> bool:
        self._fill()
        return self._saved < 1.0

    @property
    def is_low(self) -> bool:
        """Half of it or less is left: what is not needed should not be tried."""
        self._fill()
        return self._saved <= SAVED_AT_MOST / 2

    def request_began(self) -> None:
        """Pay in for a request; the time in which as much would have come by itself does not pay again."""
        self._saved = min(SAVED_AT_MOST, self._saved + PER_REQUEST)
        self._filled_at = min(self._filled_at + PER_REQUEST / PER_S, self._clock() + AHEAD_S)

    def take(self) -> bool:
        """Whether one more retry may be made; it is paid for if so."""
        self._fill()
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

    def _fill(self) -> None:
        now = self._clock()
        if now > self._filled_at:
            self._saved = min(SAVED_AT_MOST, self._saved + (now - self._filled_at) * PER_S)
            self._filled_at = now


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits before a retry that stays on one replica, fully jittered: callers that failed together come back apart."""

    chance: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def draw_s(self, retry: int) -> float:
        """Seconds to wait before this retry, counted from 1; every time up to the bound is as likely."""
        return self.chance() * min(CAP_S, BASE_S * 2.0 ** (retry - 1))
