"""From a decision to an answer: attempts, in the decision's order, until one begins to answer.

How it works: each candidate's replicas are tried least loaded first, none of them twice, then the next candidate's.
Which replicas are worth trying is for `Replicas` to say, which hears of every failure: a backend that is over its rate
limit rests, so the next attempt goes to another. An attempt fails only while nothing of its answer was sent.

Not tried: anything after a refusal that is about the request itself; a third worker after two broke over the same
request; an attempt that the deadline, the number of attempts, or the retry budget leaves no room for; under
`require_parameters`, a backend for which the catalogue leaves out a parameter of the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from app.domain.decision import Candidate, Decision
from app.domain.models import Model
from app.domain.request import Request
from app.errors import (
    GatewayError,
    NoEligibleModel,
    UpstreamBroken,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.telemetry import Telemetry
from app.upstream.answer import Answer, read_answer
from app.upstream.client import Message
from app.upstream.deadline import CallLater, Clock, Deadline, OutOfTime, Timeouts
from app.upstream.exchange import Exchange, Pace
from app.upstream.forwarding import PATHS, body_for, form_of
from app.upstream.refusals import RefusedKey, refusal
from app.upstream.replicas import Replica, Replicas
from app.upstream.retries import RetryBudget

# An attempt that begins with less cannot bring a first token over a network.
MIN_ATTEMPT_S = 0.05
# A request that broke two workers is taken for the cause.
MAX_BROKEN = 2


class Upstream(Protocol):
    """Sends a message to a replica."""

    async def send(self, backend: str, url: str, message: Message) -> Exchange:
        """Return when the head of the answer is there.

        Raises:
            UpstreamError: there is none.
        """
        ...


@dataclass(slots=True)
class Served:
    """What happened: who answered, after how many attempts."""

    decision: Decision
    candidate: Candidate
    attempts: int
    answer: Answer
    replica: str
    upstream_s: float
    """Time spent in attempts, failed ones included."""
    overhead_s: float = 0.0
    """Time that the gateway took besides, before the answer began; known when the answer is handed over."""
    left: Mapping[str, str] = field(default_factory=dict)
    """Headers that say what the caller's key has left; known when the answer is handed over."""

    @property
    def reason(self) -> str:
        return self.decision.reason if self.candidate is self.decision.chosen else "fallback"

    def cost_usd(self) -> float | None:
        """Realised cost as far as the backend reported what was used; None where it did not, or there is no price."""
        usage = self.answer.usage
        return None if usage is None else usage.cost_usd(self.candidate.model.price)

    def headers(self) -> dict[str, str]:
        """The answer's `x-thalamus-*` and `x-ratelimit-*`; the cost only where it is known before the body is sent."""
        headers = {
            **self.left,
            "x-thalamus-decision-id": self.decision.decision_id,
            "x-thalamus-model": self.candidate.model.name,
            "x-thalamus-reason": self.reason,
            "x-thalamus-attempts": str(self.attempts),
            "x-thalamus-overhead-ms": f"{self.overhead_s * 1e3:.2f}",
        }
        cost_usd = None if self.answer.form.stream else self.cost_usd()
        if cost_usd is not None:
            headers["x-thalamus-cost-usd"] = f"{cost_usd:.10f}".rstrip("0").rstrip(".")
        return headers


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """How much is tried for one request."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    max_attempts: int = 3


@dataclass(slots=True)
class _Call:
    """One request on its way: what failed so far, and where."""

    request: Request
    deadline: Deadline
    failures: list[UpstreamError] = field(default_factory=list)
    tried: set[Replica] = field(default_factory=set)

    @property
    def attempts(self) -> int:
        return len(self.failures) + 1

    @property
    def poisonous(self) -> bool:
        return sum(isinstance(failure, UpstreamBroken) for failure in self.failures) >= MAX_BROKEN


class Dispatcher:
    """Gets an answer for a decision."""

    def __init__(
        self, upstream: Upstream, replicas: Replicas, limits: DispatchLimits, clock: Clock, telemetry: Telemetry
    ) -> None:
        self._upstream, self._replicas, self._limits, self._clock = upstream, replicas, limits, clock
        self._metrics, self._log = telemetry.metrics, telemetry.log
        self._retries = RetryBudget(clock)

    async def dispatch(self, request: Request, decision: Decision, deadline: Deadline) -> Served:
        """Return the first answer that begins.

        Raises:
            UpstreamError: the last failure, when no attempt began to answer.
            NoEligibleModel: the request requires its parameters, and every backend is spared one of them.
        """
        call = _Call(request, deadline)
        self._retries.request_began()
        began_at = self._clock()
        for candidate, replica in self._targets(decision, call):
            self._check_room(call)
            try:
                answer = await self._attempt(call, candidate, replica)
            except UpstreamError as exc:
                self._note(exc, candidate, replica)
                if isinstance(exc, UpstreamRejected):
                    raise
                call.failures.append(exc)
            else:
                spent_s = self._clock() - began_at
                return Served(decision, candidate, call.attempts, answer, replica.url, spent_s)
        raise self._nothing_left(call, decision)

    def _targets(self, decision: Decision, call: _Call) -> Iterator[tuple[Candidate, Replica]]:
        """What to try next, given how the earlier attempts went."""
        for candidate in decision.candidates:
            backend = candidate.model.backend
            if self._left_out(call.request, backend):
                continue
            while (replica := self._replicas.least_loaded(backend, call.tried)) is not None:
                call.tried.add(replica)
                yield candidate, replica

    def _left_out(self, request: Request, backend: str) -> list[str]:
        """Parameters of a request that requires all of them, without which it would be sent to this backend."""
        if not request.preferences.limits.get("require_parameters"):
            return []
        rename = self._replicas.of(backend)[0].backend.rename
        return [name for name in request.body if rename.get(name, name) is None]

    def _check_room(self, call: _Call) -> None:
        """Raise the last failure, or that time is over, unless one more attempt may be made."""
        if call.deadline.remaining_s() < MIN_ATTEMPT_S:
            raise OutOfTime("the request's time was over before a backend answered")
        if not call.failures:
            return
        if len(call.failures) >= self._limits.max_attempts or call.poisonous or not self._retries.take():
            raise _final(call.failures, may_retry=len(call.failures) >= self._limits.max_attempts)

    async def _attempt(self, call: _Call, candidate: Candidate, replica: Replica) -> Answer:
        request, model = call.request, candidate.model
        limit_s = begins_within_s(self._limits.timeouts, request, model)
        with self._replicas.lease(replica, model, request.input_tokens) as lease:
            try:
                async with asyncio.timeout(min(limit_s, call.deadline.remaining_s())):
                    answer = await self._exchange(call, model, replica)
            except TimeoutError as exc:
                if call.deadline.remaining_s() <= 0:
                    raise OutOfTime("the request's time was over before the backend answered") from exc
                raise UpstreamTimeout(f"the backend did not begin to answer within {limit_s:g} s") from exc
            lease.hand_to(answer, self._clock())
        answer.on_close(lambda closed: self._closed(closed, model))
        self._metrics.attempted(model.name, "ok")
        return answer

    async def _exchange(self, call: _Call, model: Model, replica: Replica) -> Answer:
        request = call.request
        message = Message(
            PATHS[request.operation],
            body_for(request, replica, model),
            request.stream,
            request.request_id,
            request.hops,
        )
        exchange = await self._upstream.send(model.backend, replica.url, message)
        if exchange.status != 200:
            try:
                raise await refusal(exchange, model)
            finally:
                exchange.close()
        # vLLM has no quotas, so its headers are not looked at.
        if replica.backend.kind == "openai" and (wait_s := exchange.used_up_s):
            self._replicas.used_up(replica, wait_s)
        call_later: CallLater = asyncio.get_running_loop().call_later
        pace = Pace(self._limits.timeouts.idle_s, call.deadline, self._clock, call_later)
        return await read_answer(exchange, form_of(request, model), pace)

    def _note(self, error: UpstreamError, candidate: Candidate, replica: Replica) -> None:
        model, backend = candidate.model, replica.backend.name
        self._metrics.attempted(model.name, error.code)
        self._metrics.upstream_failed(backend, error.code)
        if isinstance(error, RefusedKey):
            self._log.write("replica.refused_key", backend=backend, replica=replica.url)

    def _closed(self, answer: Answer, model: Model) -> None:
        if answer.error is not None:
            self._metrics.upstream_failed(model.backend, answer.error.code)
        if answer.done_added:
            self._metrics.done_was_added(model.backend)

    def _nothing_left(self, call: _Call, decision: Decision) -> GatewayError:
        if call.failures:
            return _final(call.failures, may_retry=not call.poisonous)
        backends = {candidate.model.backend for candidate in decision.candidates}
        left_out = {backend: self._left_out(call.request, backend) for backend in backends}
        if all(left_out.values()):
            names = ", ".join(sorted({name for names in left_out.values() for name in names}))
            return NoEligibleModel(f"no model honours {names}; leave it out, or routing.require_parameters")
        backends = {backend for backend, names in left_out.items() if not names}
        return UpstreamUnreachable(
            "no backend that could answer is reachable", retry_after_s=self._replicas.retry_after_s(backends)
        )


def begins_within_s(timeouts: Timeouts, request: Request, model: Model) -> float:
    """How long an attempt may take to begin its answer.

    A plain answer shows nothing before it is whole: the time to write as much as the caller allows is added, doubled,
    at the model's own speed. Where either is unknown only the total limit can tell that a worker hangs.
    """
    if request.stream:
        return timeouts.first_byte_s
    if request.max_tokens is None or model.speed is None:
        return timeouts.total_s
    writing_s = 2 * request.max_tokens * model.speed.s_per_output_token
    return min(timeouts.total_s, timeouts.first_byte_s + writing_s)


def _final(failures: list[UpstreamError], *, may_retry: bool) -> UpstreamError:
    """The last failure, with the shortest wait that any backend named; every 429 and 503 names one."""
    last = failures[-1]
    if last.status in (429, 503):
        waits = [failure.retry_after_s for failure in failures if failure.retry_after_s]
        last.retry_after_s = min(waits, default=1)
    last.may_retry = may_retry
    return last
