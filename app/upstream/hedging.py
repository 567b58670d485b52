"""A second attempt beside one that is unusually long in beginning: whoever begins first answers, the other is cut.

How it works: the 95th percentile of the last beginnings of a model, or twice the usual one, is when its answers are
late. Then a second replica is asked, unless that would be more than 5 % of all calls, or half of the retry budget is
gone: a fleet in trouble needs no more load. The loser is cancelled before the caller sees anything, so an answer is
always one replica's, and paid once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from app.domain.clock import Clock
from app.errors import UpstreamRejected
from app.telemetry.metrics import Metrics
from app.upstream.retries import RetryBudget
from app.upstream.served import Served

Attempt = Coroutine[Any, Any, Served]
Kind = tuple[str, bool]
"""A model, and whether its answer is a stream: plain answers begin when they are whole."""

SHARE, SAVED_AT_MOST = 0.05, 10.0
REMEMBERED, MIN_REMEMBERED, LATE = 200, 20, 0.95
# Sorting the last beginnings for every request would cost more than it tells.
SORT_EVERY = 20


class _Beginnings:
    """How long one kind of answer took to begin of late."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._noted = 0
        self.late_after_s: float | None = None

    def note(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._noted += 1
        if self._noted % SORT_EVERY == 0 and self._noted >= MIN_REMEMBERED:
            ordered = sorted(self._seconds)
            usual_s, late_s = ordered[len(ordered) // 2], ordered[int(LATE * len(ordered))]
            # Whoever begins before a second replica could is not worth one, however evenly all others begin.
            self.late_after_s = max(late_s, 2 * usual_s)


class Hedging:
    """Shared by all requests of a process."""

    def __init__(self, retries: RetryBudget, clock: Clock, metrics: Metrics) -> None:
        self._retries, self._clock, self._metrics = retries, clock, metrics
        self._saved = 0.0
        self._beginnings: dict[Kind, _Beginnings] = {}

    async def race(self, kind: Kind, attempt: Attempt, spare: Callable[[], Attempt | None]) -> Served:
        """What the attempt returns, or its spare, which is begun only when the attempt is late.

        Raises:
            UpstreamError: neither answered.
        """
        seen, began_at = self._beginnings.setdefault(kind, _Beginnings()), self._clock()
        self._saved = min(SAVED_AT_MOST, self._saved + SHARE)
        if seen.late_after_s is None:
            served = await attempt
        else:
            served = await self._raced(kind[0], asyncio.create_task(attempt), spare, seen.late_after_s)
        seen.note(self._clock() - began_at)
        return served

    async def _raced(
        self, model: str, first: asyncio.Task[Served], spare: Callable[[], Attempt | None], late_after_s: float
    ) -> Served:
        tasks = [first]
        try:
            await asyncio.wait(tasks, timeout=late_after_s)
            if not first.done() and (second := self._second(spare)) is not None:
                tasks.append(second)
            winner = await _first_success(tasks)
        except BaseException:
            _drop(tasks)
            raise
        _drop([task for task in tasks if task is not winner])
        if len(tasks) > 1:
            self._metrics.hedged(model, "lost" if winner is first else "won")
        return winner.result()

    def _second(self, spare: Callable[[], Attempt | None]) -> asyncio.Task[Served] | None:
        if self._saved < 1.0 or self._retries.is_low:
            return None
        attempt = spare()
        if attempt is None:
            return None
        self._saved -= 1.0
        return asyncio.create_task(attempt)


async def _first_success(tasks: Iterable[asyncio.Task[Served]]) -> asyncio.Task[Served]:
    """The first that has an answer. Raises the last failure when none has, or one that would be the same elsewhere."""
    pending = set(tasks)
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        failures: list[BaseException] = []
        for task in done:
            if (failure := task.exception()) is None:
                return task
            failures.append(failure)
        for failure in failures:
            if isinstance(failure, UpstreamRejected) or not pending:
                raise failure


def _drop(tasks: Iterable[asyncio.Task[Served]]) -> None:
    """Cancel them; one that has answered all the same gives back what it holds."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(_close)


def _close(task: asyncio.Task[Served]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().answer.close()
