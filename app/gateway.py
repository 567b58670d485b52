"""The use case in one screen: admit, decide, dispatch, record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from app.admission.admitted import Caller
from app.admission.gate import Admission
from app.decisions import Decisions, Describe
from app.domain.decision import Decision, Fleet
from app.domain.request import Request
from app.domain.sessions import Session
from app.errors import NotAllowed, RateLimited
from app.routing.tally import NOBODY, Tally
from app.store.journal.journal import Journal
from app.store.sessions import MemorySessions, Sessions
from app.telemetry import Telemetry
from app.telemetry.logging import where
from app.upstream.dispatcher import Dispatcher
from app.upstream.fleet.replicas import Replicas
from app.upstream.served import Served

EXPLAIN = "route:explain"


class Router(Protocol):
    """Decides which models are tried, in which order."""

    async def route(
        self, request: Request, fleet: Fleet, session: Session | None = None, tally: Tally = NOBODY
    ) -> Decision:
        """Rank the eligible models; `session` is what is remembered of the request's own one.

        `tally` hears what the decision is made from.

        Raises:
            GatewayError: there is none; the message says why.
        """
        ...


@dataclass(frozen=True, slots=True)
class Desk:
    """Where decisions are made, kept and told."""

    router: Router
    journal: Journal
    describe: Describe
    sessions: Sessions = field(default_factory=MemorySessions)
    is_shared: bool = False
    """Whether other gateways write to the same journal."""


Afford = Callable[[Request, Decision], Awaitable[tuple[Request, Decision]]]
"""What a key's budget pays for of both."""


class Gateway:
    """Answers requests with the model that suits them best."""

    def __init__(
        self, admission: Admission, desk: Desk, dispatcher: Dispatcher, replicas: Replicas, telemetry: Telemetry
    ) -> None:
        self._admission, self._desk, self._dispatcher, self._replicas = admission, desk, dispatcher, replicas
        self._metrics, self._log, self._afterwards = telemetry.metrics, telemetry.log, telemetry.afterwards
        self.decisions = Decisions(desk.journal, desk.describe, admission.clock, telemetry.metrics, desk.is_shared)

    def let_in(self, priority: str) -> None:
        """Ask this before reading a body that may come with this priority at most.

        Raises:
            Overloaded: the gateway is full, or draining.
        """
        if self._admission.sheds(priority):
            self._admission.turn_away(priority)

    def look(self, key: Caller) -> None:
        """Ask this before reading what a body says, and say `refused` where that is refused. Nothing is taken.

        Raises:
            RateLimited: the key is over one of its limits, whatever the body says.
        """
        try:
            self._admission.ledger.limits.look(key)
        except RateLimited as exc:
            self._metrics.kept.ended(key.id, exc.code)
            raise

    def refused(self, key: Caller) -> None:
        """What a body of this key says was read and refused; that counts as a request, or it would cost nothing."""
        self._admission.ledger.limits.count(key)

    async def complete(self, request: Request, key: Caller) -> Served:
        """Return an answer that has begun. Whoever gets it closes it, read or not.

        Raises:
            GatewayError: nobody answers; the message says what to change.
        """
        self._permit_explanation(request, key)
        async with self._admission.admit(request, key) as admitted:
            request, decision = await self._decide(request, admitted.afford, self._metrics)
            admitted.decided(decision)
            served = await self._dispatcher.dispatch(request, decision, admitted.deadline, key.id, admitted)
            admitted.hand_over(served)
            if has_session(request):
                self._desk.sessions.remember(request, served.candidate.model.name)
            if request.explain:
                unrecorded = partial(self._unrecorded, request.request_id)
                served.answer.attach(lambda: self.decisions.described(decision, admitted.so_far(served)), unrecorded)
            return served

    async def explain(self, request: Request, key: Caller) -> Mapping[str, Any]:
        """The record of the decision that this request would get, without the completion.

        It is explained in full, as with `explain`. A key whose budget is spent is shown what it would get with money.
        """
        request = replace(request, explain=True)
        async with self._admission.admit(request, key, "explain") as admitted:
            _, decision = await self._decide(request, admitted.would_afford, NOBODY)
            return self.decisions.described(decision, None)

    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return not self._admission.gate.leaving and self._replicas.ejections.any_healthy()

    @property
    def draining(self) -> bool:
        """Whether the gateway is about to stop, so that connections close with their answers."""
        return self._admission.gate.leaving

    def _permit_explanation(self, request: Request, key: Caller) -> None:
        if request.explain and EXPLAIN not in key.scopes:
            self.refused(key)
            raise NotAllowed(f"routing.explain needs a key with the scope {EXPLAIN}", param="routing.explain")

    async def _decide(self, request: Request, afford: Afford, tally: Tally) -> tuple[Request, Decision]:
        session = await self._desk.sessions.find(request) if has_session(request) else None
        began_at = self._replicas.clock()
        decision = await self._desk.router.route(request, self._replicas.fleet(), session, tally)
        self._afterwards.do(partial(tally.decision_took, self._replicas.clock() - began_at))
        if failure := decision.details.get("predictor_failure"):
            tally.predictor_failed()
            self._log.write("predictor.failed", request_id=request.request_id, cause=str(failure))
        return await afford(request, decision)

    def _unrecorded(self, request_id: str, failure: Exception) -> None:
        self._log.write("record.failed", request_id=request_id, where=where(failure))


def has_session(request: Request) -> bool:
    """Whether it may matter to it what was answered before; no cache holds what embeddings read."""
    return request.session_id is not None and request.operation != "embeddings"
