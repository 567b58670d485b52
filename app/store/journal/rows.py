"""The two rows that the journal has of a request: that it was let in, and all the rest when it is over.

The first is written before the request is sent, while its caller waits, so it has only what must be known of a request
whose process dies. The second has what the decision came from, and what became of it; before it stands what a store
looks for, so that nobody has to read it for that. No text of a prompt is in them, unless the request's key says that it
may be.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import orjson

from app.domain.decision import Decision
from app.domain.request import Conversation, Request
from app.domain.vocabulary import VOCABULARY
from app.store.journal.journal import Entry, Outcome

# What the second row begins with. A JSON object does not.
_FORM = 2
_FACTS = struct.Struct("<BddHHB")


class Outline(Protocol):
    """What is kept of a decision, or of why there is none."""

    def of(self, decision: Decision) -> dict[str, Any]:
        """What it came from; arrays may be NumPy's. It is asked for last, and once."""
        ...

    def of_refusal(self, evidence: object) -> dict[str, Any]:
        """What excluded all models."""
        ...


class Facts(NamedTuple):
    """What a store looks for in a request that is over."""

    at: float
    """When it was admitted, by wall clock."""
    usd: float
    """What it cost; 0 where that is not known."""
    key_id: str
    decision_id: str | None
    held_in: str | None = None
    """The day or month of the hard budget of which it was held."""

    def begun(self) -> bytes:
        """What stands for a first row that is lost."""
        return orjson.dumps({"time": self.at, "key": self.key_id, "decision_id": self.decision_id})


# Of a longer conversation nothing is kept: half of it is no prompt to learn from.
MOST_TEXT_CHARS = 32_000


def begun(entry: Entry) -> bytes:
    """What is known of a request before it is sent."""
    request, decision = entry.request, entry.decision
    row: dict[str, Any] = {
        "time": round(entry.at, 3),
        "request_id": entry.request_id,
        "key": entry.key_id,
        "tenant": entry.tenant,
        "operation": entry.operation,
        "profile": "default" if request is None else request.counted_profile,
        "decision_id": None,
        "config": entry.config,
    }
    if decision is not None:
        row["decision_id"] = decision.decision_id
        row["chosen"], row["reason"] = decision.chosen.model.name, decision.reason
        row["expected_usd"], row["reserved_usd"] = decision.chosen.estimate.cost_usd, entry.reserved_usd
        if entry.held_in is not None:
            row["held_in"] = entry.held_in
    return _dump(row)


def ended(entry: Entry, outcome: Outcome, now: float, outline: Outline) -> bytes:
    """What its decision came from, and what became of it."""
    request, decision = entry.request, entry.decision
    row: dict[str, Any] = {}
    if request is not None:
        row["stream"], row["priority"], row["asked"] = request.stream, request.priority, _asked(request)
        if entry.keeps_text:
            row["messages"] = _messages(request.conversation)
    if decision is not None:
        row.update(outline.of(decision))
    if entry.refusal is not None:
        row.update(outline.of_refusal(entry.refusal))
    row["end"] = _end(outcome, now)
    decision_id = None if decision is None else decision.decision_id
    facts = Facts(round(entry.at, 3), outcome.cost_usd or 0.0, entry.key_id, decision_id, entry.held_in)
    return sealed(facts, _dump(row))


def sealed(facts: Facts, rest: bytes) -> bytes:
    """The second row of a request: the facts, and the rest of its record as a JSON object that is not empty."""
    key_id, decision_id = facts.key_id.encode(), (facts.decision_id or "").encode()
    held_in = (facts.held_in or "").encode()
    sizes = len(key_id), len(decision_id), len(held_in)
    return _FACTS.pack(_FORM, facts.at, facts.usd, *sizes) + key_id + decision_id + held_in + rest


def shortened(row: bytes) -> bytes:
    """A second row with no more than what became of the request."""
    facts, rest = unsealed(row)
    return sealed(facts, _dump({"end": json.loads(rest)["end"]}))


def unsealed(row: bytes) -> tuple[Facts, bytes]:
    """The facts, and the rest of the record.

    Raises:
        ValueError: another release wrote it.
    """
    if row[0] != _FORM:
        raise ValueError("another release wrote it")
    _, at, usd, key_size, decision_size, held_size = _FACTS.unpack_from(row)
    key_end = _FACTS.size + key_size
    decision_end = key_end + decision_size
    rest_at = decision_end + held_size
    key_id, decision_id = row[_FACTS.size : key_end].decode(), row[key_end:decision_end].decode()
    return Facts(at, usd, key_id, decision_id or None, row[decision_end:rest_at].decode() or None), row[rest_at:]


def whole(begun: bytes, rest: bytes) -> bytes:
    """The record of a request: what its two rows have of it, in one JSON object."""
    return begun[:-1] + b"," + rest[1:]


def _end(outcome: Outcome, now: float) -> dict[str, Any]:
    usage = outcome.usage
    end: dict[str, Any] = {
        "time": round(now, 3),
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
        end["input_tokens"], end["cached_input_tokens"] = usage.input_tokens, usage.cached_input_tokens
        end["output_tokens"], end["usage_counted"] = usage.output_tokens, usage.counted
        end["ttft_s"] = None if outcome.ttft_s is None else round(outcome.ttft_s, 6)
        end["mean_logprob"] = outcome.mean_logprob
    if outcome.served_as is not None:
        # A name of the catalogue may be another model's tomorrow, and the answer is rated then.
        end["predicted_as"] = outcome.predicted_as
        if outcome.served_as != outcome.model:
            end["served_as"] = outcome.served_as
    return end


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
    if request.deadline_s is not None:
        asked["deadline_s"] = request.deadline_s
    if request.session_id is not None:
        # Its name is the caller's own, and may say who that is.
        asked["in_session"] = True
    if request.choices != 1:
        # Tokens and cost are those of all of them.
        asked["choices"], asked["prompts"] = request.choices, request.prompts
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
