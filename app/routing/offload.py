"""A predictor that computes: its glance on the event loop, its transformer off it, within a limit, behind a breaker.

How it works: a glance takes less time than handing it to a thread would. For the rest, one thread predicts, one
conversation at a time. Each call's limit runs from the moment when its own turn comes: waiting for others is not its
fault. A call that is overdue is given up, though its thread goes on until it is done; those behind it wait. Failures in
a row open the breaker, and for a while nobody asks; then the next call tries. When too many wait, or one waits too
long, there is no prediction either, but nothing is held against the predictor. While the thread is stuck in a call that
was given up long ago, nobody waits for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from app.domain.request import Conversation
from app.routing.estimates import Prediction
from app.routing.reading import PredictorFailed

Clock = Callable[[], float]

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


class _Turn:
    """When one call's turn came; None while it waits."""

    __slots__ = ("began_at",)

    def __init__(self) -> None:
        self.began_at: float | None = None


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
        self._running: _Turn | None = None

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
        loop, turn = asyncio.get_running_loop(), _Turn()
        asked_at = self._clock()
        work = loop.run_in_executor(self._thread, self._predict, conversation, turn)
        try:
            while not work.done():
                left_s = self._left_s(turn, asked_at)
                if left_s <= 0:
                    raise self._overdue(turn)
                await asyncio.wait((work,), timeout=left_s)
        finally:
            work.cancel()
        return self._result(work)

    def _left_s(self, turn: _Turn, asked_at: float) -> float:
        """How long until it is worth looking again; 0 or less when time is over."""
        now = self._clock()
        if turn.began_at is not None:
            return turn.began_at + self._limit_s - now
        return 0.0 if self._is_stuck() else min(self._limit_s, asked_at + MOST_WAIT_S - now)

    def _overdue(self, turn: _Turn) -> PredictorFailed:
        if turn.began_at is None:
            return PredictorFailed("its turn did not come in time")
        self._breaker.failed()
        return PredictorFailed(f"took longer than {self._limit_s:g} s")

    def _predict(self, conversation: Conversation, turn: _Turn) -> Prediction:
        turn.began_at = self._clock()
        self._running = turn
        try:
            return self._predictor.predict(conversation)
        finally:
            self._running = None

    def _is_stuck(self) -> bool:
        running = self._running
        if running is None or running.began_at is None:
            return False
        return self._clock() > running.began_at + self._limit_s * STUCK_AFTER_LIMITS

    def _result(self, work: asyncio.Future[Prediction]) -> Prediction:
        try:
            prediction = work.result()
        except Exception as exc:  # whatever a model's runtime raises, there is no prediction
            self._breaker.failed()
            raise PredictorFailed(f"{type(exc).__name__} while predicting") from exc
        self._breaker.succeeded()
        return prediction
