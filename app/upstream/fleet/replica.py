"""One running server of a backend: how busy, how healthy and how slow it is.

How it works: a replica that is taken out stays out for 10 s, and 10 s longer each time that it has to go again, until
it was well for some minutes. Whoever comes back gets a tenth of its share for 10 s, and then more from second to
second: a server whose caches are cold, or that is not as well as it seems, meets few requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from app.domain.models import Backend
from app.upstream.http.addresses import root

# Scraped gauges say nothing about now after so long.
SCRAPE_IS_FRESH_S = 5.0
# Failures are remembered for twice as long as it takes to see 100 requests at 10 a second.
SLICE_S, SLICES = 2.0, 10
# Out for this long, times the number of the ejection: short enough to notice a restart, long enough that a replica
# that comes and goes costs little.
EJECTED_FOR_S, EJECTED_AT_MOST_S = 10.0, 300.0
# So long without trouble takes one off the number of the next ejection.
CALM_S = 60.0
# A replica that is back gets a little less than a tenth of its share, and after that more each second.
WARMS_FOR_S, WARM_AFTER_S, COLD = 10.0, 20.0, 0.09
# What was slow is tried again as if it were not, once nothing was heard of it for a while.
DRAG_FADES_S, LITTLE_DRAG = 10.0, 1.5
MANY_BEGINNINGS, NEWEST_BEGINNING_WEIGHS, SHORTEST_S = 10, 0.1, 1e-4


def name_of(url: str) -> str:
    """Where a replica is, without scheme and version: what metrics and operators call it."""
    return root(url).partition("://")[2]


class Outcomes:
    """How a replica's requests ended of late, counted in slices of time."""

    __slots__ = ("_bad", "_good", "_slice")

    def __init__(self) -> None:
        self._slice = 0
        self.clear()

    def clear(self) -> None:
        self._good, self._bad = [0] * SLICES, [0] * SLICES

    def begun(self, now: float) -> None:
        if (number := int(now / SLICE_S)) != self._slice:
            self._go_on(now)
        self._good[number % SLICES] += 1

    def failed(self, now: float, *, begun: bool) -> None:
        """One failed, which had been counted as begun or not."""
        self._go_on(now)
        self._bad[self._slice % SLICES] += 1
        self._good[self._slice % SLICES] -= begun

    def counts(self, now: float) -> tuple[int, int]:
        """Failures, and all requests."""
        self._go_on(now)
        failures = sum(self._bad)
        return failures, failures + max(0, sum(self._good))

    def _go_on(self, now: float) -> None:
        number = int(now / SLICE_S)
        if number == self._slice:
            return
        for old in range(max(self._slice + 1, number - SLICES + 1), number + 1):
            self._good[old % SLICES] = self._bad[old % SLICES] = 0
        self._slice = number


@dataclass(slots=True)
class Beginnings:
    """How long answers of one kind took to begin of late."""

    count: int = 0
    mean_log_s: float = 0.0
    """Moving average of the logarithm, which one odd answer does not move far."""

    def note(self, seconds: float) -> None:
        self.count += 1
        weighs = NEWEST_BEGINNING_WEIGHS if self.count >= MANY_BEGINNINGS else 1.0 / self.count
        self.mean_log_s += weighs * (math.log(max(seconds, SHORTEST_S)) - self.mean_log_s)

    @property
    def usual_s(self) -> float:
        return math.exp(self.mean_log_s)


@dataclass(slots=True, eq=False)
class Replica:
    """One running server of a backend."""

    backend: Backend
    url: str
    place: int = 0
    """A number of its own, the same in every process."""
    is_ready: bool = True
    """It is in, does not rest, and has not just come back: nothing else has to be looked at to choose it."""
    is_set_aside: bool = False
    """An operator has it out: whatever it answers, nobody is sent there until an operator wants it back."""
    in_flight: int = 0
    """Our own requests on it."""
    failures: int = 0
    """In a row."""
    outcomes: Outcomes = field(default_factory=Outcomes)
    ejected_until: float | None = None
    """None when it is in; it may be probed after that."""
    ejected_at: float = -math.inf
    ejections: int = 0
    """Of late."""
    is_dead: bool = False
    """Of one that is out: whether every request failed, so that it is no last resort either."""
    is_away: bool = False
    """Its metrics page was silent when it was asked last: once it answers again, it is perhaps another process."""
    is_unread: bool = False
    """Its metrics page was refused, too large to read or not vLLM's, of which the log has been told."""
    probing: bool = False
    """One request is finding out whether an ejected replica is back."""
    probed_at: float = -math.inf
    back_at: float = -math.inf
    credit: float = 0.0
    """Requests that one that is back may get now."""
    rests_until: float = -math.inf
    limited_until: float = -math.inf
    """Until then it rests because its backend grants us no more requests."""
    running: int = 0
    waiting: int = 0
    """As the worker said, for all its clients."""
    scraped_at: float = -math.inf
    in_flight_when_scraped: int = 0
    beginnings: tuple[Beginnings, Beginnings] = field(default_factory=lambda: (Beginnings(), Beginnings()))
    """Of plain answers, which begin when they are whole, and of streams."""
    begun_at: float = -math.inf
    drag: float = 1.0
    """How many times slower than its peers it is; 1 where that is not much."""

    @property
    def name(self) -> str:
        return name_of(self.url)

    def load(self, now: float) -> int:
        """Requests on it, as far as is known."""
        if now - self.scraped_at > SCRAPE_IS_FRESH_S:
            return self.in_flight
        return max(self.in_flight, self.running + self.waiting + self.in_flight - self.in_flight_when_scraped)

    def queued(self, now: float) -> int:
        """Requests that wait on it; 0 when nothing is known."""
        if now - self.scraped_at > SCRAPE_IS_FRESH_S or not self.waiting:
            return 0
        return max(0, self.waiting + self.in_flight - self.in_flight_when_scraped)

    def price(self, now: float) -> float:
        """What one more request would wait for: its load with that request, times as much as the replica is slow."""
        price = self.load(now) + 1.0
        if self.drag == 1.0:
            return price
        drag = self.drag ** math.exp((self.begun_at - now) / DRAG_FADES_S)
        return price * drag if drag > LITTLE_DRAG else price

    def warmth(self, now: float) -> float:
        """The part of its share that it should get."""
        back_s = now - self.back_at
        if back_s >= WARM_AFTER_S:
            return 1.0
        return COLD + (1.0 - COLD) * max(0.0, back_s - WARMS_FOR_S) / (WARM_AFTER_S - WARMS_FOR_S)

    def began(self, seconds: float, now: float, *, stream: bool) -> None:
        """An answer took so long to begin."""
        self.beginnings[stream].note(seconds)
        self.begun_at = now

    def rest(self, until: float, *, limited: bool) -> None:
        """Let it be for a while; `limited` where it is a matter of what its backend grants."""
        self.is_ready = False
        self.rests_until = max(self.rests_until, until)
        if limited:
            self.limited_until = max(self.limited_until, until)

    def eject(self, now: float, *, dead: bool) -> None:
        forgiven = int((now - self.back_at) / CALM_S) if self.ejections else 0
        self.ejections = max(0, self.ejections - forgiven) + 1
        self.ejected_at, self.is_dead = now, dead
        self.ejected_until = now + self.ejected_for_s

    @property
    def ejected_for_s(self) -> float:
        return min(EJECTED_FOR_S * self.ejections, EJECTED_AT_MOST_S)

    def come_back(self, now: float) -> None:
        self.ejected_until, self.back_at, self.credit = None, now, 0.0
        self.failures, self.drag = 0, 1.0
        self.beginnings = (Beginnings(), Beginnings())
        self.outcomes.clear()
