"""What is told of a request that is over: kept promises, its tokens and cost, its record, its line in the log."""

from __future__ import annotations

from collections.abc import Mapping

from app.admission.promises import Promises
from app.domain.decision import Decision
from app.domain.request import Request
from app.domain.usage import Usage
from app.store.journal.journal import CANCELLED, Entry, Journal, Outcome
from app.telemetry import Telemetry
from app.upstream.http.deadline import missed
from app.upstream.served import Served

STATUS_OF_WHO_LEFT = 499


class Endings:
    """Records how each request ended, once."""

    def __init__(self, journal: Journal, promises: Promises, telemetry: Telemetry) -> None:
        self._journal, self._promises = journal, promises
        self._metrics, self._log = telemetry.metrics, telemetry.log

    def record(self, entry: Entry, outcome: Outcome, served: Served | None, over_usd: float) -> None:
        """`over_usd` is how far the key's budget is overdrawn."""
        request, usage, line = entry.request, outcome.usage, _line(entry, outcome, over_usd)
        # First, so that nothing that fails in counting leaves it open there. The journal lets go of what was asked.
        self._journal.closed(entry)
        self._log.record("request.completed", line)
        self._metrics.completed(entry.operation, outcome.result, outcome.duration_s)
        self._metrics.kept.ended(entry.key_id, outcome.result)
        if request is not None and usage is not None:
            self._record_use(entry.key_id, request, outcome, usage, served)

    def _record_use(self, key_id: str, request: Request, outcome: Outcome, usage: Usage, served: Served | None) -> None:
        model, cost_usd = outcome.model, outcome.cost_usd
        if model is None:
            return
        if served:
            self._promises.answered(request, served, outcome)
            if missed(served.answer.error):
                self._metrics.deadline_missed("in_answer")
        self._metrics.used(model, request.counted_profile, usage.input_tokens, usage.output_tokens, cost_usd)
        if cost_usd is not None:
            self._metrics.kept.spent(key_id, cost_usd)


def _line(entry: Entry, outcome: Outcome, over_usd: float) -> Mapping[str, object]:
    """All fields of `request.completed`."""
    request, decision, usage = entry.request, entry.decision, outcome.usage
    line: dict[str, object] = {"request_id": entry.request_id, "key": entry.key_id, "operation": entry.operation}
    if request is not None:
        line["stream"] = request.stream
        line["asked_for"] = request.model or f"auto:{request.profile}"
        line["priority"] = request.priority
    line["outcome"] = outcome.result
    line["attempts"] = outcome.attempts
    line["duration_s"] = round(outcome.duration_s, 6)
    line["config"] = entry.config
    if decision is not None:
        _add_decision(line, decision)
    if usage is not None:
        _add_answer(line, outcome, usage)
    if outcome.result == CANCELLED:
        line["status"] = STATUS_OF_WHO_LEFT
    if over_usd:
        line["over_budget_usd"] = over_usd
    return line


def _add_decision(line: dict[str, object], decision: Decision) -> None:
    chosen = decision.chosen
    line["decision_id"] = decision.decision_id
    line["chosen"] = chosen.model.name
    line["reason"] = decision.reason
    if chosen.quality is not None:
        line["quality"] = round(chosen.quality, 4)


def _add_answer(line: dict[str, object], outcome: Outcome, usage: Usage) -> None:
    line["model"] = outcome.model
    line["replica"] = outcome.replica
    line["reason"] = outcome.reason
    line["input_tokens"] = usage.input_tokens
    line["cached_input_tokens"] = usage.cached_input_tokens
    line["output_tokens"] = usage.output_tokens
    line["usage_counted"] = usage.counted
    line["overhead_s"] = round(outcome.overhead_s, 6)
    if outcome.cost_usd is not None:
        line["cost_usd"] = outcome.cost_usd
    if outcome.ttft_s is not None:
        line["ttft_s"] = round(outcome.ttft_s, 6)
