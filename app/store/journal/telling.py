"""What a caller is told of a decision that was found where records are kept: its record, as far as that has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.store.journal.kept import Kept

_OUTCOME = ("model", "reason", "attempts", "cost_usd", "ttft_s", "duration_s", "overhead_s", "mean_logprob")
_USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cached_input_tokens",
    "counted": "usage_counted",
}


def record_of(kept: Kept) -> dict[str, Any]:
    """In the form of a record that is still in memory; what follows from the estimates alone is not in it."""
    record = kept.record
    return {
        "decision_id": record.get("decision_id"),
        "model": record.get("chosen"),
        "reason": record.get("reason"),
        "asked": _asked(record),
        "candidates": _candidates(record.get("estimates") or {}),
        "excluded": [
            {"model": model, "constraint": constraint}
            for constraint, excluded in (record.get("excluded") or {}).items()
            for model in excluded["models"]
        ],
        "session": record.get("session"),
        "doubted": record.get("doubted"),
        "propensity": record.get("propensity"),
        "encoder": record.get("encoder"),
        "unfamiliar": record.get("unfamiliar"),
        "predictor_failure": record.get("predictor_failure"),
        "versions": record.get("versions"),
        "outcome": _outcome(record.get("end")),
        "feedback": kept.feedback,
    }


def _asked(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was not asked for is left out where records are kept."""
    if (asked := record.get("asked")) is None:
        return None
    unasked = {"deadline_s": None, "in_session": False}
    return {**unasked, **asked, "priority": record.get("priority")}


def _candidates(estimates: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """The first ten, in their order."""
    return [dict(zip(estimates, values, strict=True)) for values in zip(*estimates.values(), strict=True)]


def _outcome(end: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """None while the request runs."""
    if end is None:
        return None
    usage = {ours: end[kept] for ours, kept in _USAGE.items()} if "output_tokens" in end else None
    outcome = {"result": end["outcome"], **{name: end.get(name) for name in _OUTCOME}, "usage": usage}
    return {**outcome, "reconstructed": True} if end.get("reconstructed") else outcome
