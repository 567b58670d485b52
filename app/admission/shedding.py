"""Whom to turn away when it is crowded: three readings from 0 to 1, and for each priority the end of its band in them.

How it works: 1 is where nothing more may be taken, and a priority is turned away from the end of its band on. So what
is low goes first, what is normal leaves room for what is high, and there is no queue for requests to grow old in.
- places: requests in flight, of those that `limits.in_flight` allows.
- memory: 85 % of its limit is where low priority ends, 95 % is 1; the kernel kills at 100 %.
- strain: grows while the event loop is late, by how late it is, and shrinks while it is in time. Its lateness is how
  long whatever arrives waits before anybody reads it; but what is done about it shows only after that wait, so turning
  all of a priority away as soon as the loop is late would swing between nobody and everybody. The strain therefore
  moves slowly, and within its band a priority is turned away in part. One long step, such as reading a large body, is
  too short to matter. Nor do callers matter who each wait for an answer before they ask again: a hundred of them keep a
  loop busy and late, but no later than they are many. So it takes a lateness beyond theirs to begin with, as that of a
  loop that falls behind soon is, and a small one is then enough to go on.

Not looked at: how long workers take. A long answer is no sign of crowding; the router sees the workers' own queues.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from app.admission.memory import memory_share
from app.domain.clock import CallLater, Timer
from app.errors import Overloaded

BANDS: Mapping[str, tuple[float, float]] = {"low": (0.4, 0.6), "normal": (0.6, 0.85), "high": (0.9, 1.0)}

PROBE_EVERY_S = 0.02
# How late a loop is kept that has too much to do. Garbage collection and large bodies make it later, but not all the
# time.
LATE_S = 0.02
# How late a loop may be in which nobody has been turned away of late: with a hundred and fifty callers who take a
# millisecond each, and ask again when they are answered. One that falls behind is there within a quarter of a second.
BUSY_S = 0.15
# The strain per second grows by one with each `LATE_S` that the loop is later than that, up to this. At 3, one pause
# leaves less than the 0.4 at which the first are turned away, and a loop that is asked for four times too much takes
# half a second.
MOST_STRAIN_PER_S = 3.0
# What is urgent is left alone until a loop is so late that nothing else would help either.
MUCH_TOO_LATE_S = 0.2
# A loop that is late and had less of a processor than this share of the time waited for the machine, not for itself:
# something else keeps it busy, and turning callers away would not make it faster.
OWN_SHARE = 0.7
# What a first late step counts for at most. Start-up, and a machine that pauses as a whole, take longer; afterwards
# nobody is to be turned away. Where there is too much to do, the next step is late as well.
FIRST_STEP_S = 0.13
LOW_MEMORY, FULL_MEMORY = 0.85, 0.95
MEMORY_EVERY = 50
"""Probes, which is once in a second."""
# Callers who were turned away together come back over some seconds, not together.
RETRY_WITHIN_S = 4
GOLDEN_RATIO = 0.6180339887498949


class Shedding(AbstractContextManager["Shedding"]):
    """Knows how crowded it is. Used as a context manager it probes; otherwise only places count."""

    def __init__(self, places: Callable[[], float], memory: Callable[[], float] | None = None) -> None:
        """`places` is the share of places that are taken, `memory` that of the memory."""
        self._places, self._memory = places, memory or memory_share()
        self._memory_pressure = self._strain = 0.0
        self._was_late = False
        self._is_turning_away = False
        """By strain: from where the first are, until there is none left."""
        self._draw = 0.0
        self._probes = 0
        self._timer: Timer | None = None

    def watch(self, memory: Callable[[], float]) -> None:
        """Look at another limit of the memory from now on."""
        self._memory = memory

    def sheds(self, priority: str) -> bool:
        """Whether a request of this priority is turned away now. Takes a fraction of a microsecond."""
        begin, end = BANDS[priority]
        if self._places() >= end or self._memory_pressure >= end:
            return True
        return self._strain > begin and self._strain - begin > self._drawn() * (end - begin)

    def readings(self) -> dict[str, float]:
        """The three readings by name."""
        return {"places": self._places(), "memory": self._memory_pressure, "strain": self._strain}

    def __enter__(self) -> Shedding:
        loop = asyncio.get_running_loop()
        self.probe(loop.time, loop.call_later, time.thread_time)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def probe(self, clock: Callable[[], float], call_later: CallLater, cpu_s: Callable[[], float]) -> None:
        """Begin to look, for as long as the timers run; `cpu_s` is what the loop's thread has used of a processor."""
        asked_at, used_s = clock(), cpu_s()

        def look() -> None:
            self._look(clock() - asked_at, cpu_s() - used_s)
            self.probe(clock, call_later, cpu_s)

        self._timer = call_later(PROBE_EVERY_S, look)

    def _look(self, since_s: float, used_s: float) -> None:
        late_by_s = max(0.0, since_s - PROBE_EVERY_S) if used_s >= OWN_SHARE * since_s else 0.0
        bearable_s = LATE_S if self._is_turning_away else BUSY_S
        per_s = max(-1.0, min(MOST_STRAIN_PER_S, (late_by_s - bearable_s) / LATE_S))
        most, _ = BANDS["high"] if late_by_s < MUCH_TOO_LATE_S else (1.0, 1.0)
        step_s = since_s if self._was_late else min(since_s, FIRST_STEP_S)
        self._strain = min(most, max(0.0, self._strain + per_s * step_s))
        self._was_late = late_by_s > LATE_S
        first_refused, _ = BANDS["low"]
        self._is_turning_away = self._strain > (0.0 if self._is_turning_away else first_refused)
        if self._probes % MEMORY_EVERY == 0:
            self._memory_pressure = _memory_pressure(self._memory())
        self._probes += 1

    def _drawn(self) -> float:
        """Numbers in [0, 1) that are spread more evenly than random ones."""
        self._draw = (self._draw + GOLDEN_RATIO) % 1.0
        return self._draw


def refusal() -> Overloaded:
    """What those hear who are turned away."""
    wait_s = 1 + int(random.random() * RETRY_WITHIN_S)
    return Overloaded(f"the gateway is full; try again in {wait_s} s", retry_after_s=wait_s)


def _memory_pressure(used: float) -> float:
    _, low = BANDS["low"]
    above = (used - LOW_MEMORY) / (FULL_MEMORY - LOW_MEMORY)
    return 0.0 if above < 0 else low + above * (1 - low)
