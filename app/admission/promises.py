"""What was promised of an answer, beside what came: estimates, limits that callers asked for, and one model for all.

How it works: when an answer is over, what was expected of the model that gave it is worked out again from the decision,
and compared with what came, quantity by quantity. A limit on time is missed by an answer that never came, too. The
baseline is a model that an operator might have used for everything: each routed answer is counted at its prices as
well, with the same tokens, which is what is known; the baseline might have written more or less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.domain.decision import Decision, Estimate
from app.domain.models import Model
from app.domain.request import Request
from app.errors import GatewayError
from app.store.journal.journal import Outcome
from app.telemetry.promise_metrics import PromiseMetrics
from app.upstream.http.deadline import CutShort, OutOfTime
from app.upstream.served import Served

TIME_LIMITS = ("max_latency_s", "max_ttft_s")


@dataclass(frozen=True, slots=True)
class Baseline:
    """The model that would answer everything if nothing were routed."""

    model: Model
    quality: Callable[[Decision, str], float | None]
    """What was predicted of a model, by its name; None where nothing was."""


class Promises:
    """Counts what became of them."""

    def __init__(self, metrics: PromiseMetrics, baseline: Baseline | None = None) -> None:
        self._metrics, self._baseline = metrics, baseline

    def answered(self, request: Request, served: Served, outcome: Outcome) -> None:
        """An answer is over, whole or not."""
        error = served.answer.error
        if error is not None:
            self.failed(request, error)
        elif served.answer.complete:
            estimate = served.candidate.estimate
            self._compare(request, served.candidate.model.name, estimate, outcome)
            if limits := request.preferences.limits:
                self._check_limits(request, limits, outcome)
            self._check(request, "deadline_s", request.deadline_s, outcome.duration_s)
        if request.model is None and self._baseline:
            self._compare_with(self._baseline, request, served, outcome)

    def failed(self, request: Request, error: BaseException) -> None:
        """There is no answer, or half of one. What is the caller's own doing breaks no promise."""
        if not isinstance(error, GatewayError) or error.status < 500 or isinstance(error, CutShort):
            return
        limits = request.preferences.limits
        for name in TIME_LIMITS if limits else ():
            if name in limits:
                self._metrics.attained(name, request.counted_profile, "missed")
        if request.deadline_s is not None and isinstance(error, OutOfTime):
            self._metrics.attained("deadline_s", request.counted_profile, "missed")

    def _compare(self, request: Request, name: str, estimate: Estimate, outcome: Outcome) -> None:
        written, usage = estimate.output_tokens, outcome.usage
        if written is not None:
            written *= request.choices
        self._metrics.compared("cost_usd", name, estimate.cost_usd, outcome.cost_usd)
        self._metrics.compared("output_tokens", name, written, usage.output_tokens if usage else None)
        self._metrics.compared("latency_s", name, estimate.latency_s, outcome.duration_s)
        # Of an answer in one piece nobody sees when it began.
        if request.stream:
            self._metrics.compared("ttft_s", name, estimate.ttft_s, outcome.ttft_s)

    def _check_limits(self, request: Request, limits: Mapping[str, Any], outcome: Outcome) -> None:
        # The usage of several choices is their sum.
        written = outcome.usage.output_tokens / request.choices if outcome.usage else None
        self._check(request, "max_cost_usd", limits.get("max_cost_usd"), outcome.cost_usd)
        self._check(request, "max_latency_s", limits.get("max_latency_s"), outcome.duration_s)
        self._check(request, "max_ttft_s", limits.get("max_ttft_s"), outcome.ttft_s if request.stream else None)
        self._check(request, "max_output_tokens", limits.get("max_output_tokens"), written)

    def _check(self, request: Request, name: str, limit: float | None, came: float | None) -> None:
        if limit is not None and came is not None:
            self._metrics.attained(name, request.counted_profile, "kept" if came <= limit else "missed")

    def _compare_with(self, baseline: Baseline, request: Request, served: Served, outcome: Outcome) -> None:
        model, candidate, usage = baseline.model, served.candidate, outcome.usage
        baseline_usd = usage.cost_usd(model.price) if usage else None
        if outcome.cost_usd is not None and baseline_usd is not None:
            self._metrics.cost_compared(request.profile, outcome.cost_usd, model.name, baseline_usd)
        quality = baseline.quality(served.decision, model.name)
        if candidate.quality is not None and quality is not None:
            self._metrics.quality_compared(request.profile, candidate.quality, model.name, quality)
