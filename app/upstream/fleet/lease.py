"""A place on a replica, for as long as one attempt and its answer take."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from app.domain.clock import Clock
from app.errors import UpstreamError
from app.upstream.answers.answer import Answer
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.speeds import Attempted


class Keeper(Protocol):
    """Who looks after replicas, and hears how each attempt went."""

    @property
    def clock(self) -> Clock: ...

    def keeper(self, replica: Replica) -> Keeper:
        """Who looks after it now."""

    def failed(
        self, replica: Replica, error: UpstreamError, attempted: Attempted | None = None, *, begun: bool = False
    ) -> None:
        """An attempt failed."""

    def succeeded(self, replica: Replica, started_at: float, now: float | None = None) -> None:
        """It answered a request that started then."""

    def began(self, replica: Replica, seconds: float, now: float, *, stream: bool) -> None:
        """An answer took so long to begin."""

    def left(self, replica: Replica, seconds: float, *, stream: bool) -> None:
        """Somebody gave up waiting for it to begin."""

    def closed(self, lease: Lease, answer: Answer, first_at: float) -> None:
        """An answer is over."""


@dataclass(slots=True)
class Lease:
    """A place on a replica: given back when the attempt fails, or handed to its answer and given back with it."""

    replicas: Keeper
    replica: Replica
    attempted: Attempted
    first_at: float | None = None

    def __enter__(self) -> Lease:
        self.replica.in_flight += 1
        out_until = self.replica.ejected_until
        if out_until is not None and out_until <= self.attempted.started_at and self.replica.backend.kind == "openai":
            self.replica.probing = True
        return self

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.first_at is not None:
            return
        self._give_back()
        keeper = self.replicas.keeper(self.replica)
        if isinstance(error, UpstreamError):
            keeper.failed(self.replica, error, self.attempted)
        elif isinstance(error, asyncio.CancelledError):
            waited_s = self.replicas.clock() - self.attempted.started_at
            keeper.left(self.replica, waited_s, stream=self.attempted.stream)

    def hand_to(self, answer: Answer) -> None:
        """The answer has begun; from here on its closing gives the place back."""
        attempted, keeper = self.attempted, self.replicas.keeper(self.replica)
        self.first_at = self.replicas.clock()
        keeper.succeeded(self.replica, attempted.started_at, self.first_at)
        keeper.began(self.replica, self.first_at - attempted.started_at, self.first_at, stream=attempted.stream)
        answer.on_close(self._answer_closed)

    def _answer_closed(self, answer: Answer) -> None:
        self._give_back()
        if self.first_at is not None:
            self.replicas.keeper(self.replica).closed(self, answer, self.first_at)

    def _give_back(self) -> None:
        self.replica.in_flight -= 1
        if self.first_at is None and self.replica.backend.kind == "openai":
            self.replica.probing = False
