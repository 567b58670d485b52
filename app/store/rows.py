"""The two rows that the journal has of a request: what was known before it was sent, and what became of it.

No text of a prompt is in them, unless the request's key says that it may be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from app.domain.decision import Decision
from app.domain.request import Conversation, Request
from app.domain.vocabulary import VOCABULARY
from app.store.journal import Entry, Outcome

Outline = Callable[[Decision], dict[str, Any]]
"""What is kept of a decision, with `chosen`, `reason` and `expected_usd`; arrays may be NumPy's."""

# Of a longer conversation nothing is kept: half of it is no prompt to learn from.
MOST_TEXT_CHARS = 32_000


def begun(entry: Entry, outline: Outline) -> bytes:
    """What is known of a request before it is sent."""
    request, decision = entry.request, entry.decision
    row: dict[str, Any] = {
        "time": round(entry.at, 3),
        "request_id": entry.request_id,
        "key": entry.key_id,
        "tenant": entry.tenant,
        "operation": entry.operation,
        "profile": "default",
        "decision_id": None,
        "config": entry.config,
    }
    if request is not None:
        row["profile"], row["stream"], row["priority"] = request.profile, request.stream, request.priority
        row["asked"] = _asked(request)
        if entry.keeps_text:
            row["messages"] = _messages(request.conversation)
    if decision is not None:
        row["decision_id"] = decision.decision_id
        row.update(outline(decision))
        row["reserved_usd"] = entry.reserved_usd
    return _dump(row)


def ended(entry: Entry, outcome: Outcome, now: float) -> bytes:
    """What became of it."""
    usage, decision = outcome.usage, entry.decision
    row: dict[str, Any] = {
        "time": round(now, 3),
        "admitted_at": round(entry.at, 3),
        "key": entry.key_id,
        "decision_id": None if decision is None else decision.decision_id,
        "profile": "default" if entry.request is None else entry.request.profile,
        "outcome": outcome.result,
        "model": outcome.model,
        "replica": outcome.replica,
        "reason": outcome.reason,
        "attempts": outcome.attempts,
        "cost_usd": outcome.cost_usd,
        "duration_s": round(outcome.duration_s, 6),
        "overhead_s": round(outcome.overhead_s, 6),
    }
    if usage is not None:
        row["input_tokens"], row["cached_input_tokens"] = usage.input_tokens, usage.cached_input_tokens
        row["output_tokens"], row["usage_counted"] = usage.output_tokens, usage.counted
        row["ttft_s"] = None if outcome.ttft_s is None else round(outcome.ttft_s, 6)
        row["mean_logprob"] = outcome.mean_logprob
    return _dump(row)


def _asked(request: Request) -> dict[str, Any]:
    preferences = request.preferences
    asked: dict[str, Any] = {
        "model": request.model or f"auto:{request.profile}",
        "input_tokens": request.input_tokens,
        "max_tokens": request.max_tokens,
    }
    if preferences:
        kinds = VOCABULARY.kinds
        asked["weights"] = preferences.weights
        asked["max_quality_loss"] = preferences.max_quality_loss
        asked["limits"] = {name: kinds[name].as_json(limit) for name, limit in preferences.limits.items()}
    if request.needs:
        asked["needs"] = sorted(request.needs)
    return asked


def _messages(conversation: Conversation) -> list[dict[str, str]] | None:
    if sum(len(text) for _, text in conversation) > MOST_TEXT_CHARS:
        return None
    return [{"role": role, "content": text} for role, text in conversation]


def _dump(row: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        # Half of a UTF-16 pair; what is not Python's own is an array, in which NaN is unknown.
        return json.dumps(row, separators=(",", ":"), default=_listed).encode()


def _listed(array: Any) -> list[float | None]:
    return [value if value == value else None for value in array.tolist()]
