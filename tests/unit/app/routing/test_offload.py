"""A predictor in a thread: its results, its limit, its breaker, and that waiting is not its fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from app.routing.offload import FAILURES_TO_OPEN, OPEN_S, OffLoopPredictor
from app.routing.reading import PredictorFailed
from router_models.prediction import PredictionRow
from router_models.reading.conversation import Conversation
from tests.fakes.clock import FakeClock
from tests.fakes.predictor import FakePredictor

HELLO = (("user", "hello"),)


class Blocking(FakePredictor):
    """Predicts when it is let go; may be told to raise."""

    def __init__(self) -> None:
        super().__init__({"small": 0.5, "large": 0.9}, seen={"small": 0.4, "large": 0.8})
        self.go = threading.Event()
        self.go.set()
        self.calls = 0
        self.threads: set[str] = set()

    def predict(self, conversation: Conversation) -> PredictionRow:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(10)
        return super().predict(conversation)


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
    blocking.fails = RuntimeError("a secret prompt")
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
    blocking.fails = None
    await predictor.predict(HELLO)
    await predictor.predict(HELLO)
    predictor.close()


async def test_a_success_in_between_keeps_the_breaker_closed(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking, limit_s=5, clock=FakeClock())
    for _ in range(2 * FAILURES_TO_OPEN):
        blocking.fails = ValueError()
        with pytest.raises(PredictorFailed, match="ValueError"):
            await predictor.predict(HELLO)
        blocking.fails = None
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


async def test_who_waits_when_it_is_closed_gets_no_prediction(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking, limit_s=5)
    blocking.go.clear()
    running, waiting = (asyncio.create_task(predictor.predict(HELLO)) for _ in range(2))
    await asyncio.to_thread(_until_called, blocking)
    predictor.close()
    with pytest.raises(PredictorFailed, match="closed"):
        await waiting
    blocking.go.set()
    assert (await running).quality.tolist() == [0.5, 0.9]


async def test_a_call_that_was_given_up_before_its_turn_is_not_made(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking, limit_s=5)
    blocking.go.clear()
    running, leaving = (asyncio.create_task(predictor.predict(HELLO)) for _ in range(2))
    await asyncio.to_thread(_until_called, blocking)
    leaving.cancel()
    await asyncio.wait((leaving,))
    blocking.go.set()
    await running
    await predictor.predict(HELLO)
    assert blocking.calls == 2
    predictor.close()


async def test_a_glance_is_taken_at_once_and_by_nobody_else(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking)
    blocking.go.clear()
    glanced = predictor.glance(HELLO)
    assert glanced is not None
    assert (glanced.quality.tolist(), glanced.unfamiliar) == ([0.4, 0.8], False)
    assert (blocking.glanced, blocking.calls) == ([HELLO], 0)
    assert predictor.static_error == blocking.static_error
    predictor.close()


async def test_what_goes_wrong_at_a_glance_is_translated(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking)
    blocking.glance_fails = RuntimeError("a secret prompt")
    with pytest.raises(PredictorFailed, match=r"^RuntimeError at a glance$"):
        predictor.glance(HELLO)
    assert (await predictor.predict(HELLO)).quality.tolist() == [0.5, 0.9], "the breaker is the transformer's"
    predictor.close()


async def test_an_encoder_that_is_not_to_be_asked_is_not(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking, speeds=frozenset({"transformer"}))
    assert predictor.speeds == {"transformer"}
    assert predictor.glance(HELLO) is None
    assert blocking.glanced == []
    predictor.close()


async def test_whether_a_prompt_is_unfamiliar_is_passed_on(blocking: Blocking) -> None:
    predictor = OffLoopPredictor(blocking, limit_s=5)
    blocking.unfamiliar = frozenset({"transformer"})
    glanced = predictor.glance(HELLO)
    assert glanced is not None
    assert (glanced.unfamiliar, (await predictor.predict(HELLO)).unfamiliar) == (False, True)
    predictor.close()
