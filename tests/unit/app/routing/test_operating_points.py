"""Tables of operating curves: bounded in number, worked out one at a time, never waited for by many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np

from app.domain.models import Catalog, Model
from app.routing.candidates import CandidateTable
from app.routing.operating_points import MOST_WAITING, REMEMBERED, OperatingPoints, OperatingTable
from tests.fakes.routing import llm

NAMES = [f"m{number}" for number in range(10)]
TABLE = CandidateTable(Catalog(tuple(llm(name) for name in NAMES), ()), NAMES)


class SlowCurve:
    """Works when it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.sets = 0
        self.at_once = 0

    def tabulate(self, models: Sequence[Model]) -> OperatingTable:
        self.sets += 1
        self.at_once += 1
        assert self.at_once == 1, "one at a time"
        self.begun.set()
        assert self.go.wait(10)
        self.at_once -= 1
        return OperatingTable(models[0].name if models else None, lambda _: None)


def _set(number: int) -> np.ndarray:
    return np.array([bool(number >> bit & 1) for bit in range(len(NAMES))])


async def test_few_wait_and_the_rest_goes_without() -> None:
    curve = SlowCurve()
    points = OperatingPoints(TABLE, curve)
    waiting = [asyncio.create_task(points.of(_set(number))) for number in range(1, MOST_WAITING + 1)]
    await asyncio.sleep(0)
    assert await points.of(_set(500)) is None
    curve.go.set()
    assert all(table is not None for table in await asyncio.gather(*waiting))
    assert await points.of(_set(500)) is not None


async def test_who_hangs_up_starts_no_second_thread_and_what_was_begun_for_him_is_remembered() -> None:
    curve = SlowCurve()
    points = OperatingPoints(TABLE, curve)
    for number in range(1, 2 * MOST_WAITING):
        left = asyncio.create_task(points.of(_set(number)))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait({left})
    assert await asyncio.to_thread(curve.begun.wait, 10)
    assert curve.sets == 1
    last = asyncio.create_task(points.of(_set(500)))
    await asyncio.sleep(0)
    assert curve.sets == 1, "the next one waits for what was left at work"
    curve.go.set()
    assert await last is not None
    assert await points.of(_set(1)) is not None
    assert curve.sets == 2


async def test_what_is_remembered_is_bounded_and_the_latest_used_stay() -> None:
    curve = SlowCurve()
    curve.go.set()
    points = OperatingPoints(TABLE, curve)
    for number in range(1, REMEMBERED + 10):
        await points.of(_set(number))
        await points.of(_set(1))
    before = curve.sets
    assert before == REMEMBERED + 9
    await points.of(_set(1))
    assert curve.sets == before
    await points.of(_set(2))
    assert curve.sets == before + 1


async def test_that_of_all_models_stays_whatever_else_is_asked_for() -> None:
    curve = SlowCurve()
    curve.go.set()
    points, everything = OperatingPoints(TABLE, curve), (1 << len(NAMES)) - 1
    await points.of(_set(everything))
    for number in range(1, 2 * REMEMBERED + 10):
        await points.of(_set(number))
    before = curve.sets
    assert before == 2 * REMEMBERED + 10
    await points.of(_set(everything))
    assert curve.sets == before
    await points.of(_set(2 * REMEMBERED + 10 - REMEMBERED))
    assert curve.sets == before + 1, "as many are remembered as before, that of all models among them"
    await points.of(_set(2 * REMEMBERED))
    assert curve.sets == before + 1
