"""From the quality that a caller is ready to lose on average to a weight on cost.

How it works: which weight keeps a loss follows from an artifact's calibration rows, the models in question and their
prices, so it is worked out once for each set of models, in a thread, and then looked up. The set is that of the models
which a request could use whatever is predicted for it, so that requests which differ in their text share it. Sets are
worked out one at a time, also when who asked has left, and few may wait: a caller that invents a new set with each
request costs one thread, and while too many wait no weight is put on cost. Of the sets that are remembered such a
caller pushes out the others, but not that of all models.

Legend of array suffixes: M models of the catalogue.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.domain.dimensions import Truths
from app.domain.models import Model
from app.routing.candidates import CandidateTable

# Sets that keys, limits and ejected backends make in practice; a set costs some 10 KiB.
REMEMBERED = 256
MOST_WAITING = 16


@dataclass(frozen=True, slots=True)
class OperatingTable:
    """What weights on cost would have done among some models."""

    best_model: str | None
    """The best single one of them, by what was measured; None where nothing was."""
    cost_weight: Callable[[float], float | None]
    """The largest weight that keeps a loss of quality with confidence; None where none does."""
    least_loss: float | None = None
    """The smallest one that a weight keeps; None where none keeps any."""


class OperatingCurve(Protocol):
    """Knows calibration rows and prices."""

    def tabulate(self, models: Sequence[Model]) -> OperatingTable:
        """Work it out for these models, all of them tested. May take a while; is called in a thread."""
        ...


class OperatingPoints:
    """Remembers the tables of the sets of models that were asked about."""

    def __init__(self, table: CandidateTable, curve: OperatingCurve) -> None:
        self._models, self._tested_M, self._curve = table.models, table.tested_M, curve
        self._all = table.tested_M.tobytes()
        self._known: OrderedDict[bytes, OperatingTable] = OrderedDict()
        self._turn = asyncio.Lock()
        self._at_work: asyncio.Task[OperatingTable] | None = None
        self._waiting = 0

    async def of(self, usable_M: Truths) -> OperatingTable | None:
        """The table of the tested ones of these models; None when too many sets are being worked out."""
        tested_M = usable_M & self._tested_M
        key = tested_M.tobytes()
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        if self._waiting >= MOST_WAITING:
            return None
        self._waiting += 1
        try:
            async with self._turn:
                # A thread cannot be stopped, so what somebody left behind goes on, and has the turn.
                if self._at_work is not None:
                    await asyncio.wait({self._at_work})
                return self._known.get(key) or await self._begin(key, tested_M)
        finally:
            self._waiting -= 1

    async def _begin(self, key: bytes, tested_M: Truths) -> OperatingTable:
        self._at_work = asyncio.create_task(self._work_out(key, tested_M))
        return await asyncio.shield(self._at_work)

    async def _work_out(self, key: bytes, tested_M: Truths) -> OperatingTable:
        models = [self._models[number] for number in tested_M.nonzero()[0]]
        try:
            table = await asyncio.to_thread(self._curve.tabulate, models)
        finally:
            self._at_work = None
        self._known[key] = table
        if len(self._known) > REMEMBERED:
            self._forget_one()
        return table

    def _forget_one(self) -> None:
        """The one that was not used for the longest time, but never that of all models."""
        if next(iter(self._known)) == self._all:
            self._known.move_to_end(self._all)
        self._known.popitem(last=False)
