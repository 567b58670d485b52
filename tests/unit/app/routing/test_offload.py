"""A predictor in a thread: its results, its limit, its breaker, and that waiting is not its fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from app.domain.request import Conversation
from app.routing.offload import FAILURES_TO_OPEN, OPEN_S, OffLoopPredictor, PredictedRow
from app.routing.router import PredictorFailed
from tests.fakes.clock import FakeClock

HELLO: Conversation = (("user", "hello"),)


class Blocking:
    """Predicts when it is let go; may be told to raise."""

    models = ("small", "large")

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.failure: Exception | None = None
        self.calls = 0
        self.threads: set[str] = set()

    def predict(self, conversations: Sequence[Conversation]) -> PredictedRow:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(10)
        if self.failure:
            raise self.failure
        count = len(conversations)
        quality, pair = np.tile([0.5, 0.9], (count, 1)), np.zeros((count, 2, 2))
        return PredictedRow(quality, pair, np.full((count, 2), 80.0), pair)


@pytest.fixture
async def blocking() -> AsyncIterator[Blocking]:
    blocking = Blocking()
    yield blocking
    blocking.go.set()


async def test_the_row_of_the_conversation_is_returned_from_another_thread(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking, limit_s=5)
    prediction = await predictor.predict(HELLO)
    assert prediction.quality.tolist() == [0.5, 0.9]
    assert (prediction.quality_interval.shape, prediction.output_tokens.shape) == ((2, 2), (2,))
    assert blocking.threads == {"predictor_0"}
    predictor.close()


async def test_who_takes_too_long_is_given_up(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking, limit_s=0.01)
    blocking.go.clear()
    with pytest.raises(PredictorFailed, match=r"took longer than 0\.01 s"):
        await predictor.predict(HELLO)
    predictor.close()


async def test_waiting_for_others_is_nobodys_fault(blocking: Blocking) -> None:
    clock = FakeClock()
    predictor = OffLoopPredictor(blocking, limit_s=0.05, clock=clock)
    # The clock stands still, so only the turn of the first has begun, and no turn takes any time.
    blocking.go.clear()
    calls = [asyncio.create_task(predictor.predict(HELLO)) for _ in range(10)]
    await asyncio.sleep(0)
    clock.advance(0.04)
    blocking.go.set()
    results = await asyncio.gather(*calls)
    assert len(results) == 10
    predictor.close()


async def test_errors_are_translated_and_open_the_breaker_for_a_while(blocking: Blocking) -> None:
    clock = FakeClock()
    predictor = OffLoopPredictor(blocking, limit_s=5, clock=clock)
    blocking.failure = RuntimeError("a secret prompt")
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(PredictorFailed, match=r"^RuntimeError while predicting$"):
            await predictor.predict(HELLO)
    with pytest.raises(PredictorFailed, match="several failures"):
        await predictor.predict(HELLO)
    assert blocking.calls == FAILURES_TO_OPEN, "an open breaker asks nobody"

    clock.advance(OPEN_S)
    with pytest.raises(PredictorFailed, match="RuntimeError"):
        await predictor.predict(HELLO)
    with pytest.raises(PredictorFailed, match="several failures"):
        await predictor.predict(HELLO)

    clock.advance(OPEN_S)
    blocking.failure = None
    await predictor.predict(HELLO)
    await predictor.predict(HELLO)
    predictor.close()


async def test_a_success_in_between_keeps_the_breaker_closed(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking, limit_s=5, clock=FakeClock())
    for _ in range(2 * FAILURES_TO_OPEN):
        blocking.failure = ValueError()
        with pytest.raises(PredictorFailed, match="ValueError"):
            await predictor.predict(HELLO)
        blocking.failure = None
        await predictor.predict(HELLO)
    predictor.close()


async def test_nobody_waits_for_a_thread_that_is_stuck(blocking: Blocking) -> None:
    clock = FakeClock()
    predictor = OffLoopPredictor(blocking, limit_s=0.01, clock=clock)
    blocking.go.clear()
    stuck = asyncio.create_task(predictor.predict(HELLO))
    await asyncio.to_thread(_until_called, blocking)
    clock.advance(1.0)
    with pytest.raises(PredictorFailed, match="given up"):
        await predictor.predict(HELLO)
    with pytest.raises(PredictorFailed, match="took longer"):
        await stuck
    blocking.go.set()
    predictor.close()


def _until_called(blocking: Blocking) -> None:
    while not blocking.calls:
        threading.Event().wait(0.001)


async def test_a_caller_who_leaves_takes_nothing_with_him(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking, limit_s=5)
    blocking.go.clear()
    leaving = asyncio.create_task(predictor.predict(HELLO))
    await asyncio.to_thread(_until_called, blocking)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    blocking.go.set()
    assert (await predictor.predict(HELLO)).quality.tolist() == [0.5, 0.9]
    predictor.close()
