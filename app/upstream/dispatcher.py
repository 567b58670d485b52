"""From a decision to an answer: attempts, in the decision's order, until one begins to answer.

How it works: each candidate's replicas are tried, none of them twice, then the next candidate's. Which replicas are
worth trying is for `Replicas` to say, which hears of every failure: a backend or a model that is over its rate limit
rests, so the next attempt goes to another. When no other is left, the last one is asked again after a moment, if what
went wrong is of that kind. An attempt fails only while nothing of its answer was sent.

Not tried: anything after a refusal that is about the request itself; a third worker after two broke over the same
request; an attempt that the deadline, the number of attempts, or the retry budget leaves no room for; a retry while all
replicas are out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from app.domain.clock import CallLater, Clock
from app.domain.decision import Candidate, Decision
from app.domain.models import Model
from app.domain.request import Request
from app.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamSpent,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.telemetry import Telemetry
from app.upstream.answers.answer import Answer, read_answer
from app.upstream.answers.refusals import RefusedKey, refusal, told_refusal
from app.upstream.answers.told import ToldFailure
from app.upstream.attempts import NOBODY, Call, Target, Witness
from app.upstream.client import Message
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.replicas import Replicas
from app.upstream.forwarding import PATHS, body_for, form_of
from app.upstream.hedging import Hedging
from app.upstream.http.deadline import Deadline, OutOfTime, Timeouts, Within
from app.upstream.http.exchange import Exchange, Pace
from app.upstream.http.faults import NoAnswer
from app.upstream.retries import Backoff, RetryBudget
from app.upstream.served import Served

# An attempt that begins with less cannot bring a first token over a network.
MIN_ATTEMPT_S = 0.05


class Upstream(Protocol):
    """Sends a message to a replica."""

    async def send(self, backend: str, url: str, message: Message) -> Exchange:
        """Return when the head of the answer is there.

        Raises:
            UpstreamError: there is none.
        """
        ...


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """How much is tried for one request."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    max_attempts: int = 3
    hedge: bool = False
    """Whether another replica is asked as well when one is unusually long in beginning its answer."""
    backoff: Backoff = field(default_factory=Backoff)


class Dispatcher:
    """Gets an answer for a decision."""

    def __init__(
        self, upstream: Upstream, replicas: Replicas, limits: DispatchLimits, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._upstream, self._replicas, self._limits, self._clock = upstream, replicas, limits, clock
        self._metrics, self._log = telemetry.metrics, telemetry.log
        self._retries = RetryBudget(clock)
        self._hedging = Hedging(self._retries, clock, telemetry.metrics)
        self._begin = self._race if limits.hedge else self._attempt

    @cached_property
    def _call_later(self) -> CallLater:
        return asyncio.get_running_loop().call_later

    async def dispatch(
        self,
        request: Request,
        decision: Decision,
        deadline: Deadline,
        caller: str = "",
        witness: Witness = NOBODY,
    ) -> Served:
        """Return the first answer that begins. Sessions are told apart by `caller`, too.

        Raises:
            UpstreamError: the last failure, when no attempt began to answer.
        """
        session = f"{caller}\n{request.session_id}" if request.session_id else None
        call = Call(request, decision, deadline, session, self._clock(), witness)
        self._retries.request_began()
        try:
            while (target := self._next(call)) is not None:
                self._check_room(call)
                if call.tried and target is call.tried[-1]:
                    await self._pause(call)
                try:
                    return await self._begin(call, target)
                except UpstreamRejected:
                    raise
                except UpstreamError as exc:
                    call.failures.append(exc)
            raise self._nothing_left(call)
        finally:
            # They refer to the frames that they passed, and those to the call: such a circle would outlive it.
            call.failures.clear()

    def _next(self, call: Call) -> Target | None:
        """What to try next, given how the earlier attempts went."""
        if (target := self._find(call)) is not None:
            return target
        if (target := self._find(call, last_resort=True)) is not None:
            return target
        return call.tried[-1] if call.failures and _is_momentary(call.failures[-1]) else None

    def _find(self, call: Call, *, last_resort: bool = False) -> Target | None:
        for candidate in call.decision.candidates:
            model = candidate.model
            replica = self._replicas.pick(model, call.tried_for(model), call.session, last_resort=last_resort)
            if replica is not None:
                return Target(candidate, replica)
        return None

    def _check_room(self, call: Call) -> None:
        """Raise the last failure, or that time is over, unless one more attempt may be made."""
        if call.deadline.remaining_s() < MIN_ATTEMPT_S:
            raise call.deadline.over("the request's time was over before a backend answered")
        if call.failures and not self._may_retry(call):
            raise self._final(call)

    def _may_retry(self, call: Call) -> bool:
        # Where all replicas are out, one attempt may find one that is back; a second would only add to their load.
        if call.counted >= self._limits.max_attempts or call.is_poison or self._replicas.ejections.all_out:
            return False
        return self._retries.take()

    async def _pause(self, call: Call) -> None:
        """Wait before the same replica is asked again, unless time would be over by then."""
        backoff = self._limits.backoff
        wait_s = backoff.draw_s(len(call.failures))
        if call.deadline.remaining_s() - wait_s < MIN_ATTEMPT_S:
            raise self._final(call)
        await backoff.sleep(wait_s)

    async def _race(self, call: Call, target: Target) -> Served:
        kind = (target.candidate.model.name, call.request.stream)
        return await self._hedging.race(kind, self._attempt(call, target), lambda: self._spare(call, target.candidate))

    def _spare(self, call: Call, candidate: Candidate) -> Coroutine[Any, Any, Served] | None:
        """A second attempt beside one that takes long, where another replica has the model."""
        replica = self._replicas.pick(candidate.model, call.tried_for(candidate.model), call.session)
        if replica is None or call.deadline.remaining_s() < MIN_ATTEMPT_S:
            return None
        return self._attempt(call, Target(candidate, replica))

    async def _attempt(self, call: Call, target: Target) -> Served:
        candidate, replica = target.candidate, target.replica
        model = candidate.model
        call.tried.append(target)
        call.witness.attempted(candidate, self._clock() if call.failures else call.began_at)
        try:
            with self._replicas.lease(replica, model, call.request) as lease:
                answer = await self._answer(call, model, replica)
                lease.hand_to(answer)
        except UpstreamError as exc:
            self._note(exc, model, replica)
            if not isinstance(exc, OutOfTime):
                call.witness.failed()
            call.failed(target, exc)
            raise
        self._metrics.attempted(model.name, "ok")
        return Served(call.decision, candidate, len(call.tried), answer, replica.url, self._clock() - call.began_at)

    async def _answer(self, call: Call, model: Model, replica: Replica) -> Answer:
        limit_s = begins_within_s(self._limits.timeouts, call.request, model, self._replicas.seen_s_per_output_token)
        left_s = call.deadline.remaining_s()
        try:
            with Within(min(limit_s, left_s)):
                return await self._exchange(call, model, replica, left_s)
        except TimeoutError as exc:
            # Which limit it was, not what the clock says: a timer may be early by more than a millisecond.
            if left_s <= limit_s or call.deadline.remaining_s() <= 0:
                raise call.deadline.over("the request's time was over before the backend answered") from exc
            raise UpstreamTimeout(f"the backend did not begin to answer within {limit_s:g} s") from exc

    async def _exchange(self, call: Call, model: Model, replica: Replica, left_s: float) -> Answer:
        request = call.request
        message = Message(
            PATHS[request.operation],
            body_for(request, replica, model),
            request.stream,
            request.request_id,
            request.hops,
            request.traceparent,
            deadline_s=left_s,
        )
        exchange = await self._upstream.send(model.backend, replica.url, message)
        if exchange.status != 200:
            try:
                raise await refusal(exchange, model)
            finally:
                exchange.close()
        # vLLM has no quotas, so its headers are not looked at.
        if replica.backend.kind == "openai" and (wait_s := exchange.used_up_s):
            self._replicas.used_up(replica, model, wait_s)
        pace = Pace(self._limits.timeouts.idle_s, call.deadline, self._clock, self._call_later)
        try:
            return await read_answer(exchange, form_of(request, model), pace)
        except ToldFailure as exc:
            raise told_refusal(exc, model) from exc

    def _note(self, error: UpstreamError, model: Model, replica: Replica) -> None:
        backend = replica.backend.name
        self._metrics.attempted(model.name, error.code)
        self._metrics.upstream_failed(backend, error.code)
        if isinstance(error, RefusedKey):
            self._log.write("replica.refused_key", backend=backend, replica=replica.url)
        elif isinstance(error, UpstreamSpent):
            self._log.write("quota.spent", backend=backend, model=model.name)

    def _nothing_left(self, call: Call) -> UpstreamError:
        if call.failures:
            return self._final(call)
        return self._unavailable([candidate.model for candidate in call.decision.candidates])

    def _unavailable(self, models: Collection[Model]) -> UpstreamError:
        """The error where none of these models may be asked for now."""
        wait_s = self._replicas.rests.retry_after_s(models)
        if all(self._replicas.rests.limited_for_s(model) is not None for model in models):
            return UpstreamRateLimited(UpstreamRateLimited.everywhere, retry_after_s=wait_s)
        return UpstreamUnreachable("no backend that could answer is reachable", retry_after_s=wait_s)

    def _final(self, call: Call) -> UpstreamError:
        """The last failure, with the shortest wait that any backend named; every 429 and 503 names one."""
        last = call.failures[-1]
        if last.status in (429, 503):
            waits = [failure.retry_after_s for failure in call.failures if failure.retry_after_s]
            last.retry_after_s = min(waits, default=1)
        if last.status == 429:
            # An account that refused a second model keeps the first one from being asked as well.
            models = [target.candidate.model for target in call.tried]
            last.retry_after_s = max(last.retry_after_s or 1, self._replicas.rests.retry_after_s(models))
        last.may_retry = last.may_retry and not call.is_poison and not self._retries.is_empty
        return last


def _is_momentary(failure: UpstreamError) -> bool:
    """Whether the same replica may do what it just failed to do: its connection was being closed, or it was full.

    One that says when to come back is not asked before, so the caller is told instead of kept waiting.
    """
    if isinstance(failure, UpstreamRateLimited) or failure.retry_after_s is not None:
        return False
    return isinstance(failure, NoAnswer | UpstreamBusy)


def begins_within_s(
    timeouts: Timeouts, request: Request, model: Model, seen_s: Callable[[Model], float | None] = lambda _: None
) -> float:
    """How long an attempt may take to begin its answer.

    A plain answer shows nothing before it is whole: the time to read the prompt and to write as much as the caller
    allows is added, doubled, at the model's own speed, or at the seconds for each token that were seen of late where
    these are more: a busy replica is none that hangs. Where one is unknown only the total limit can tell a hang.
    """
    if request.stream:
        return timeouts.first_byte_s
    if request.max_tokens is None or model.speed is None:
        return timeouts.total_s
    writing_s = request.max_tokens * max(model.speed.s_per_output_token, seen_s(model) or 0.0)
    working_s = request.input_tokens / model.speed.prefill_tokens_per_s + writing_s
    return min(timeouts.total_s, timeouts.first_byte_s + 2 * working_s)
