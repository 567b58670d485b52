"""A record of the journal as one row of plain values, for tables and for files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_TEXTS = ("request_id", "decision_id", "key", "tenant", "operation", "profile", "chosen", "encoder", "config")
_OF_THE_END = ("outcome", "model", "reason", "replica", "attempts", "cost_usd", "input_tokens", "cached_input_tokens")
_MORE_OF_THE_END = ("output_tokens", "usage_counted", "mean_logprob", "ttft_s", "duration_s", "overhead_s")
_PREDICTED = ("quality", "cost_usd", "output_tokens", "latency_s")
_ASKED = ("asked_for", "stream", "priority", "max_tokens", "reserved_usd", "propensity", "eligible")
PREDICTIONS = tuple(f"predicted_{name}" for name in _PREDICTED)
_LAST = ("excluded", "artifact", "served_as", "predicted_as", "score", "keeps_text", "messages", "estimates", "asked")
JSON_COLUMNS = ("excluded", "messages", "estimates", "asked")
COLUMNS = ("time", *_TEXTS, *_ASKED, *_OF_THE_END, *_MORE_OF_THE_END, "reconstructed", *PREDICTIONS, *_LAST)
"""Of a row, in order; `JSON_COLUMNS` are JSON texts. `served_as` and `predicted_as` are those of who
answered; where the first is None neither was recorded. A row that `keeps_text` but has no `messages` had too many."""


def flat(record: Mapping[str, Any], feedback: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All columns; what is not known is None. `predicted_*` is what was expected of the model that answered."""
    end, asked = record["end"], record.get("asked") or {}
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {name: record.get(name) for name in ("time", *_TEXTS, "stream", "priority", "reserved_usd", "propensity")}
    row |= {name: end.get(name) for name in (*_OF_THE_END, *_MORE_OF_THE_END)}
    row["eligible"], row["reconstructed"] = record.get("eligible"), bool(end.get("reconstructed"))
    row["asked_for"], row["max_tokens"] = asked.get("model"), asked.get("max_tokens")
    row["keeps_text"] = "messages" in record
    row["artifact"] = (record.get("versions") or {}).get("artifact")
    row["served_as"] = end.get("served_as") or (end["model"] if "predicted_as" in end else None)
    row["predicted_as"] = end.get("predicted_as")
    row["score"] = feedback["score"] if feedback else None
    row |= _predicted(record.get("estimates") or {}, end.get("model"))
    for name in JSON_COLUMNS:
        row[name] = None if record.get(name) is None else orjson.dumps(record[name]).decode()
    return row


def _predicted(estimates: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    models = estimates.get("model") or []
    if model not in models:
        return {}
    place = models.index(model)
    return {f"predicted_{name}": estimates[name][place] for name in _PREDICTED}
