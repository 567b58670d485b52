"""One request between its admission and its end, and the one record of how it ended.

How it works: `Admitted` is a context. On entering it takes a place within the caller's limits and opens the journal's
entry; on leaving with an error, or with nothing to hand over, it gives everything back and writes the terminal record.
`hand_over` passes all of that to the answer, whose closing does the same. So each admitted request ends exactly once,
however it ends: answered, failed, cut in the middle, or left by its caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Protocol

from app.admission.abandoned import usage_by
from app.admission.affording import afford
from app.admission.ledger import Ledger
from app.domain.clock import Clock
from app.domain.decision import Candidate, Decision
from app.domain.request import Request
from app.domain.usage import Usage
from app.errors import BudgetSpent, BudgetUnavailable, Draining, GatewayError, Internal
from app.store.journal.journal import CANCELLED, OK, Entry, Outcome
from app.store.keys.key import Budget
from app.store.limits.limits import Allowance, Slot
from app.store.money.accounts import Hold
from app.telemetry.names import BUDGET
from app.upstream.answers.base_answer import Answer
from app.upstream.http.deadline import CutShort, Deadline, missed, out_of_time
from app.upstream.served import Served, decision_headers, reason_of


class Caller(Allowance, Protocol):
    """The key that a request came with."""

    @property
    def scopes(self) -> Collection[str]: ...
    @property
    def budget(self) -> Budget | None: ...
    @property
    def tenant(self) -> str | None: ...
    @property
    def keeps_bodies(self) -> bool:
        """Whether the text of its prompts may be kept."""
        ...


class Door(Protocol):
    """What lets requests in."""

    ledger: Ledger
    clock: Clock

    def sheds(self, priority: str) -> bool:
        """Whether it is too crowded for this one."""
        ...

    def turn_away(self, priority: str) -> NoReturn:
        """
        Raises:
            Overloaded: always.
        """
        ...

    def deadline(self, request: Request, now: float) -> Deadline: ...


class Admitted:
    """One request between its admission and its end."""

    __slots__ = (
        "_asked",
        "_asked_at",
        "_attempts",
        "_began_s",
        "_caller",
        "_clock",
        "_decision",
        "_door",
        "_entry",
        "_failures",
        "_hold",
        "_is_cut",
        "_ledger",
        "_operation",
        "_request",
        "_served",
        "_slot",
        "_started_at",
        "_task",
        "deadline",
    )

    def __init__(self, door: Door, request: Request, caller: Caller, operation: str) -> None:
        self._clock = door.clock
        self._started_at = started_at = self._clock()
        self.deadline = door.deadline(request, started_at)
        self._door, self._ledger = door, door.ledger
        self._request, self._caller, self._operation = request, caller, operation
        self._entry = Entry(
            request.request_id,
            caller.id,
            request=request,
            operation=operation,
            config=self._ledger.config,
            tenant=caller.tenant,
            keeps_text=caller.keeps_bodies,
        )
        self._slot: Slot | None = None
        self._hold: Hold | None = None
        self._decision: Decision | None = None
        """The one that callers can look up."""
        self._attempts = self._failures = 0
        self._asked: Candidate | None = None
        self._asked_at = 0.0
        self._began_s = 0.0
        self._task: asyncio.Task[Any] | None = None
        self._served: Served | None = None
        self._is_cut = False

    @property
    def backend(self) -> str | None:
        """Whose answer it is; None before one has begun."""
        return self._served.candidate.model.backend if self._served else None

    def cut(self) -> None:
        """End it now, whatever it waits for."""
        if self._served:
            self._served.answer.cut(CutShort("the gateway ended this answer before it was complete; ask again"))
        elif self._task and not self._is_cut:
            self._is_cut = True
            self._task.cancel()

    async def __aenter__(self) -> Admitted:
        request, telemetry = self._request, self._ledger.telemetry
        try:
            if self._door.sheds(request.priority):
                self._door.turn_away(request.priority)
            expected_tokens = request.input_tokens + (request.max_tokens or 0) * request.choices
            self._slot = await self._ledger.limits.acquire(self._caller, expected_tokens)
        except GatewayError as exc:
            telemetry.metrics.rejected(self._operation, exc.code)
            telemetry.metrics.kept.ended(self._caller.id, exc.code)
            telemetry.log.write("request.rejected", request_id=request.request_id, key=self._caller.id, code=exc.code)
            raise
        telemetry.metrics.in_flight.inc()
        telemetry.metrics.let_in(self._elapsed_s())
        self._ledger.journal.admitted(self._entry)
        self._task = asyncio.current_task(asyncio.get_running_loop())
        self._ledger.open.add(self)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._served:
            return
        if self._decision is not None:
            asked = self._asked or self._decision.chosen
            self._ledger.telemetry.afterwards.do(partial(self._count_decision, self._decision, asked))
        if self._is_cut and isinstance(error, asyncio.CancelledError) and self._task and self._task.uncancel() == 0:
            self._end(self._unanswered(Draining.code), self._request.input_tokens)
            raise self._with_decision(draining()) from error
        if isinstance(error, GatewayError):
            self._with_decision(error)
            self._entry.refusal = error.evidence
        if error is not None:
            self._ledger.promises.failed(self._request, error)
            if missed(error):
                self._ledger.telemetry.metrics.deadline_missed("before_answer")
        result = OK if error is None else _name(error)
        is_left = result == CANCELLED or out_of_time(error)
        if is_left and self._asked and self._attempts > self._failures:
            self._end_abandoned(result, self._asked)
        else:
            self._end(self._unanswered(result), self._request.input_tokens if result == CANCELLED else 0)

    async def afford(self, request: Request, decision: Decision) -> tuple[Request, Decision]:
        """Hold back what the request may cost; returns what the key's budget pays for of both.

        Raises:
            BudgetSpent: it pays for nothing of use.
            BudgetUnavailable: it cannot be told whether it does.
        """
        budget, budgets = self._caller.budget, self._ledger.budgets
        if budget is None:
            return request, decision
        entry = self._entry
        entry.decision = decision
        afforded = await afford(budgets, budgets.account(entry.key_id, budget, entry.at or None), request, decision)
        self._request, self._hold = afforded.request, afforded.hold
        if budget.hard:
            entry.reserved_usd, entry.held_in = afforded.hold.usd, afforded.hold.period
        if afforded.unpaid:
            self._ledger.telemetry.metrics.excluded(BUDGET, afforded.unpaid)
        return afforded.request, afforded.decision

    async def would_afford(self, request: Request, decision: Decision) -> tuple[Request, Decision]:
        """What `afford` returns, with nothing held back; both as they are where the budget pays for nothing of use."""
        budget, budgets = self._caller.budget, self._ledger.budgets
        if budget is None:
            return request, decision
        account = budgets.account(self._entry.key_id, budget, self._entry.at or None)
        try:
            afforded = await afford(budgets, account, request, decision)
        except (BudgetSpent, BudgetUnavailable):
            return request, decision
        afforded.hold.settle(0.0)
        return afforded.request, afforded.decision

    def decided(self, decision: Decision) -> None:
        self._entry.decision = self._decision = decision
        self._ledger.journal.decided(self._entry)

    def attempted(self, candidate: Candidate, since: float) -> None:
        self._attempts += 1
        self._asked, self._asked_at = candidate, since

    def failed(self) -> None:
        self._failures += 1

    def hand_over(self, served: Served) -> Served:
        """From here on the answer holds what this request took; its closing ends the request."""
        self._began_s = began_s = self._clock() - self._started_at
        served.overhead_s = max(0.0, began_s - served.upstream_s)
        if self._slot:
            served.left = self._slot.headers()
        if self._hold and (over_usd := self._hold.over_usd):
            served.left = {**served.left, "x-thalamus-over-budget-usd": f"{over_usd:.6f}"}
        self._served = served
        served.answer.on_close(partial(self._answer_closed, served))
        self._ledger.telemetry.afterwards.do(partial(self._count_begun, served, began_s))
        return served

    def so_far(self, served: Served) -> Outcome:
        """What has happened by now, for the record that travels with the answer."""
        return self._outcome(served)

    def _answer_closed(self, served: Served, _: Answer) -> None:
        outcome = self._outcome(served)
        usage = outcome.usage
        self._end(outcome, usage.input_tokens + usage.output_tokens if usage else 0)

    def _count_begun(self, served: Served, began_s: float) -> None:
        self._ledger.telemetry.metrics.served(served.candidate.model.name, began_s, served.overhead_s)
        self._count_decision(served.decision, served.candidate)

    def _count_decision(self, decision: Decision, candidate: Candidate) -> None:
        """Once, by who answered; where nobody did, by who was asked last, if anybody was: as the headers tell it."""
        metrics, model = self._ledger.telemetry.metrics, candidate.model.name
        metrics.decided(model, self._request.counted_profile, reason_of(decision, candidate))
        metrics.promises.chose(model, candidate.quality)

    def _with_decision(self, error: GatewayError) -> GatewayError:
        if self._decision is not None:
            error.decided = decision_headers(self._decision, self._asked, self._attempts)
        return error

    def _unanswered(self, result: str) -> Outcome:
        return Outcome(result, attempts=self._attempts, duration_s=self._elapsed_s())

    def _end_abandoned(self, result: str, asked: Candidate) -> None:
        """Who leaves, or has no time left, while a backend works for him pays for that, or answers could be had
        made for nothing."""
        usage = usage_by(asked, self._request, self._clock() - self._asked_at)
        cost_usd, held_usd, decision = usage.cost_usd(asked.model.price), self._entry.reserved_usd, self._entry.decision
        if cost_usd is not None and held_usd is not None:
            cost_usd = min(cost_usd, held_usd)
        reason = None if decision is None else reason_of(decision, asked)
        outcome = replace(
            self._unanswered(result), model=asked.model.name, reason=reason, usage=usage, cost_usd=cost_usd
        )
        self._end(outcome, usage.input_tokens + usage.output_tokens)

    def _outcome(self, served: Served) -> Outcome:
        answer, model = served.answer, served.candidate.model
        usage = answer.usage
        if usage is None:
            usage = Usage(self._request.input_tokens, answer.counted_tokens, counted=True)
        elif not answer.complete:
            usage = usage.at_least(answer.counted_tokens)
        return Outcome(
            result=answer.error.outcome if answer.error else OK if answer.complete else CANCELLED,
            model=model.name,
            replica=served.replica,
            reason=served.reason,
            attempts=served.attempts,
            usage=usage,
            cost_usd=usage.cost_usd(model.price),
            ttft_s=self._began_s,
            duration_s=self._clock() - self._started_at,
            overhead_s=served.overhead_s,
            mean_logprob=answer.mean_logprob,
            served_as=model.served_as,
            predicted_as=model.predicted_as,
        )

    def _end(self, outcome: Outcome, used_tokens: int) -> None:
        """Give back what it held; what became of it is told a little later."""
        self._entry.outcome = outcome
        self._ledger.open.discard(self)
        self._task = None
        if self._slot:
            self._slot.release(used_tokens)
        if self._hold:
            self._hold.settle(outcome.cost_usd or 0.0)
        telemetry, over_usd = self._ledger.telemetry, self._hold.over_usd if self._hold else 0.0
        telemetry.metrics.in_flight.dec()
        telemetry.afterwards.do(partial(self._ledger.endings.record, self._entry, outcome, self._served, over_usd))

    def _elapsed_s(self) -> float:
        return self._clock() - self._started_at


def draining() -> Draining:
    """The refusal of what comes too late, or is ended."""
    return Draining("the gateway is about to stop; send the request again", retry_after_s=1)


def _name(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    return error.outcome if isinstance(error, GatewayError) else Internal.code
