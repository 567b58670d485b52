"""Whom to turn away when it is crowded: one number for how full the gateway is, and a share of it for each priority.

How it works: the pressure is the largest of three readings, each of which is 1 where nothing more may be taken:
- places: requests in flight, of those that `limits.in_flight` allows;
- lag: how late the event loop is, which is how long whatever arrives waits before anybody reads it. The smallest of the
  last probes counts, so that one long step, such as reading a large body, turns nobody away;
- memory: 85 % of its limit is where low priority ends, 95 % is 1. The kernel kills at 100 %.
A priority is turned away while the pressure is at or above its share. So what is low goes first, what is normal leaves
room for what is high, and there is no queue in which requests would grow old.

Not looked at: how long workers take. A long answer is no sign of crowding; the router sees the workers' own queues.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from app.errors import Overloaded
from app.memory import memory_share

Priority = Literal["low", "normal", "high"]
SHARES: Mapping[str, float] = {"low": 0.6, "normal": 0.85, "high": 1.0}

# Someone who waits so long for the first look at his request is better told to come back.
FULL_LAG_S = 0.1
PROBE_EVERY_S = 0.02
PROBES = 3
# 0.85 of the memory is low priority's share of the pressure, 0.95 is all of it.
LOW_MEMORY, FULL_MEMORY = 0.85, 0.95
MEMORY_EVERY = 50
"""Probes, which is once in a second."""
# Callers who were turned away together come back over some seconds, not together.
RETRY_WITHIN_S = 4


class Timer(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Timer]


class Shedding(AbstractContextManager["Shedding"]):
    """Knows the pressure. Used as a context manager it probes; otherwise only places count."""

    def __init__(self, places: Callable[[], float], memory: Callable[[], float] | None = None) -> None:
        """`places` is the share of places that are taken, `memory` that of the memory."""
        self._places, self._memory = places, memory or memory_share()
        self._lags_s: deque[float] = deque([0.0], maxlen=PROBES)
        self._memory_pressure = 0.0
        self._probed = 0.0
        self._probes = 0
        self._timer: Timer | None = None

    def watch(self, memory: Callable[[], float]) -> None:
        """Look at another limit of the memory from now on."""
        self._memory = memory

    def sheds(self, priority: str) -> bool:
        """Whether a request of this priority is turned away now. Takes a fraction of a microsecond."""
        share = SHARES[priority]
        return self._probed >= share or self._places() >= share

    def refusal(self) -> Overloaded:
        """What those hear who are turned away."""
        wait_s = 1 + int(random.random() * RETRY_WITHIN_S)
        return Overloaded(f"the gateway is full; try again in {wait_s} s", retry_after_s=wait_s)

    def readings(self) -> dict[str, float]:
        """The three readings by name."""
        return {"places": self._places(), "lag": self._lag_pressure(), "memory": self._memory_pressure}

    def __enter__(self) -> Shedding:
        loop = asyncio.get_running_loop()
        self.probe(loop.time, loop.call_later)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def probe(self, clock: Callable[[], float], call_later: CallLater) -> None:
        """Begin to look, for as long as the timers run."""
        due_at = clock() + PROBE_EVERY_S

        def look() -> None:
            self._note(max(0.0, clock() - due_at))
            self.probe(clock, call_later)

        self._timer = call_later(PROBE_EVERY_S, look)

    def _note(self, lag_s: float) -> None:
        self._lags_s.append(lag_s)
        if self._probes % MEMORY_EVERY == 0:
            self._memory_pressure = _memory_pressure(self._memory())
        self._probes += 1
        self._probed = max(self._lag_pressure(), self._memory_pressure)

    def _lag_pressure(self) -> float:
        return min(self._lags_s) / FULL_LAG_S


def _memory_pressure(used: float) -> float:
    above = (used - LOW_MEMORY) / (FULL_MEMORY - LOW_MEMORY)
    return 0.0 if above < 0 else SHARES["low"] + above * (1 - SHARES["low"])
