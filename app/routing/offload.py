"""A predictor that computes: its glance on the event loop, its transformer off it, within a limit, behind a breaker.

How it works: a glance takes less time than handing it to a thread would. For the rest, one thread predicts, one
conversation at a time; a second one gained nothing on two cores, and took from the event loop. More processes do. Each
call's limit runs from the moment when its own turn comes: waiting for others is not its fault. A call that is overdue
is given up, though its thread goes on until it is done; those behind it wait. Failures in a row open the breaker, and
for a while nobody asks; then the next call tries. When too many wait, or one waits too long, there is no prediction
either, but nothing is held against the predictor. While the thread is stuck in a call that was given up long ago,
nobody waits for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from app.domain.clock import Clock
from app.domain.request import Conversation
from app.routing.estimates import Prediction
from app.routing.reading import PredictorFailed

# Three times what the encoder takes at its longest window on one slow core.
LIMIT_S = 0.02
# An answer is decided by default rather than after this wait: at 200 predictions a second, 200 wait at most.
MOST_WAIT_S = 1.0
MOST_WAITING = 200
FAILURES_TO_OPEN = 5
OPEN_S = 5.0
# A call that takes so many times its limit is not just slow.
STUCK_AFTER_LIMITS = 5


class BlockingPredictor(Protocol):
    """Predicts for one conversation, at either speed; a number per model in the order of `models`."""

    @property
    def models(self) -> Sequence[str]: ...

    @property
    def speeds(self) -> frozenset[str]: ...

    @property
    def static_error(self) -> float: ...

    def glance(self, conversation: Conversation) -> Prediction: ...

    def predict(self, conversation: Conversation) -> Prediction: ...


class Breaker:
    """Stops asking who fails again and again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until = -math.inf

    @property
    def is_open(self) -> bool:
        return self._clock() < self._open_until

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= FAILURES_TO_OPEN:
            self._open_until = self._clock() + OPEN_S


class _Call:
    """One conversation on its way through the thread; everything but `begun_at` belongs to the event loop."""

    __slots__ = ("asked_at", "begun_at", "conversation", "is_given_up", "loop", "result", "timer")

    def __init__(self, conversation: Conversation, asked_at: float) -> None:
        self.conversation, self.asked_at = conversation, asked_at
        self.begun_at: float | None = None
        """When its turn came; None while it waits."""
        self.is_given_up = False
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Prediction] = self.loop.create_future()
        self.timer: asyncio.TimerHandle | None = None

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self.is_given_up = True
        if self.timer is not None:
            self.timer.cancel()

    def done(self, work: Future[Prediction | None]) -> None:
        """In the thread: pass on what came out, unless the event loop is closed."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, work)

    def _settle(self, work: Future[Prediction | None]) -> None:
        if self.result.done():
            return
        if work.cancelled():
            self.result.set_exception(PredictorFailed("closed before its turn came"))
        elif (failure := work.exception()) is not None:
            self.result.set_exception(failure)
        elif (prediction := work.result()) is not None:
            self.result.set_result(prediction)


class OffLoopPredictor:
    """Implements `QualityPredictor` with one that blocks."""

    def __init__(
        self,
        predictor: BlockingPredictor,
        limit_s: float = LIMIT_S,
        clock: Clock = time.monotonic,
        speeds: frozenset[str] | None = None,
    ) -> None:
        """`speeds` are the encoders to ask, of those there are; all unless given. The limit is the transformer's."""
        self.models = tuple(predictor.models)
        self.speeds = predictor.speeds if speeds is None else speeds
        self.static_error = predictor.static_error
        self._predictor, self._limit_s, self._clock = predictor, limit_s, clock
        self._breaker = Breaker(clock)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predictor")
        self._waiting = 0
        self._running: _Call | None = None

    def close(self) -> None:
        """Stop the thread; a call that still runs is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def glance(self, conversation: Conversation) -> Prediction | None:
        """
        Raises:
            PredictorFailed: it raised.
        """
        if "static" not in self.speeds:
            return None
        try:
            return self._predictor.glance(conversation)
        except Exception as exc:  # whatever it raises, there is no prediction
            raise PredictorFailed(f"{type(exc).__name__} at a glance") from exc

    async def predict(self, conversation: Conversation) -> Prediction:
        """
        Raises:
            PredictorFailed: it raised, was overdue, is not asked for now, or too many wait.
        """
        if self._breaker.is_open:
            raise PredictorFailed("not asked after several failures in a row")
        if self._is_stuck():
            raise PredictorFailed("still busy with a call that was given up")
        if self._waiting >= MOST_WAITING:
            raise PredictorFailed("too many wait for a prediction")
        self._waiting += 1
        try:
            return await self._within_limit(conversation)
        finally:
            self._waiting -= 1

    async def _within_limit(self, conversation: Conversation) -> Prediction:
        call = _Call(conversation, self._clock())
        self._thread.submit(self._predict, call).add_done_callback(call.done)
        self._look_after(call)
        try:
            prediction = await call.result
        except PredictorFailed:
            raise
        except Exception as exc:  # whatever a model's runtime raises, there is no prediction
            self._breaker.failed()
            raise PredictorFailed(f"{type(exc).__name__} while predicting") from exc
        finally:
            call.give_up()
        self._breaker.succeeded()
        return prediction

    def _look_after(self, call: _Call) -> None:
        """End a call that takes too long, as often as it is worth looking."""
        if call.result.done():
            return
        left_s = self._left_s(call)
        if left_s > 0:
            call.timer = call.loop.call_later(left_s, self._look_after, call)
        else:
            call.result.set_exception(self._overdue(call))

    def _left_s(self, call: _Call) -> float:
        """How long until it is worth looking again; 0 or less when time is over."""
        now = self._clock()
        if call.begun_at is not None:
            return call.begun_at + self._limit_s - now
        return 0.0 if self._is_stuck() else min(self._limit_s, call.asked_at + MOST_WAIT_S - now)

    def _overdue(self, call: _Call) -> PredictorFailed:
        if call.begun_at is None:
            return PredictorFailed("its turn did not come in time")
        self._breaker.failed()
        return PredictorFailed(f"took longer than {self._limit_s:g} s")

    def _predict(self, call: _Call) -> Prediction | None:
        """In the thread; None where nobody waits any more."""
        if call.is_given_up:
            return None
        call.begun_at = self._clock()
        self._running = call
        try:
            return self._predictor.predict(call.conversation)
        finally:
            self._running = None

    def _is_stuck(self) -> bool:
        running = self._running
        if running is None or running.begun_at is None:
            return False
        return self._clock() > running.begun_at + self._limit_s * STUCK_AFTER_LIMITS
