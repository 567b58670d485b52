"""Why models were excluded, in words, and what to change; made only when somebody reads it.

Models that a key may not use are not mentioned anywhere.

Legend of array suffixes: M models of the catalogue.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from app.domain.constraints import Constraint
from app.domain.decision import Change, Exclusion
from app.domain.dimensions import Truths
from app.domain.request import OPERATIONS
from app.errors import (
    ContextLengthExceeded,
    GatewayError,
    NoEligibleModel,
    NotAllowed,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from app.routing.estimates import Expected, Question
from app.routing.filters import AVAILABILITY, CAPABILITIES, CONTEXT, asked_for, capable, roomy
from app.routing.relaxing import change_of, together, uncut

# What a key's budget does not pay for is left out after all else was decided.
BUDGET = "budget"
# Ejected replicas are asked about once a second, and one that is back is used again at once.
RETRY_AFTER_S = 2
# Models that an error names; the rest is counted.
MOST_NAMED = 50


class Refusal(NamedTuple):
    """One reason against one model."""

    model: int
    exclusion: Exclusion


def exclusions(expected: Expected) -> list[Refusal]:
    """Every reason against every model that was asked for, in the catalogue's order."""
    visible_M = asked_for(expected.table, expected.question)
    return sorted(_refusals(expected, visible_M, estimated=True), key=lambda each: each.model)


def unpaid(expected: Expected, models: Iterable[int]) -> list[Refusal]:
    """What is said of models that the key's budget does not pay for."""
    message = "may cost more than what is left of this key's budget, or has no room for the answer that this pays for"
    return [Refusal(model, Exclusion(expected.names[model], BUDGET, message)) for model in models]


def nothing_left(expected: Expected, estimated: bool) -> GatewayError:
    """The error for a request that no model is eligible for; limits on estimates count if there are any."""
    visible_M = asked_for(expected.table, expected.question)
    if not visible_M.any():
        return NotAllowed("this key may not use any model of the catalogue")
    refusals: dict[int, list[Exclusion]] = {}
    for model, exclusion in _refusals(expected, visible_M, estimated):
        refusals.setdefault(model, []).append(exclusion)
    suited_M = visible_M & capable(expected.table, expected.question.needs & OPERATIONS)
    suited = [refusals[model] for model in np.flatnonzero(suited_M).tolist()]
    if suited and all(any(each.constraint == CONTEXT for each in reasons) for reasons in suited):
        return _too_long(expected, suited_M)
    out = [model for model, reasons in refusals.items() if all(each.constraint == AVAILABILITY for each in reasons)]
    return _unavailable(expected, out) if out else _no_eligible_model(refusals)


def _unavailable(expected: Expected, out: list[int]) -> UpstreamError:
    """The error for models that lack nothing but a backend."""
    waits = [wait_s for model in out if (wait_s := _limited_for_s(expected, model)) is not None]
    if len(waits) == len(out):
        return UpstreamRateLimited(UpstreamRateLimited.everywhere, retry_after_s=max(1, math.ceil(min(waits))))
    return UpstreamUnreachable(
        "no backend of a model that could answer is reachable; send the request again", retry_after_s=RETRY_AFTER_S
    )


def _limited_for_s(expected: Expected, model: int) -> float | None:
    limited = expected.fleet.limited_for_s
    return limited[model] if limited else None


def _no_eligible_model(refusals: dict[int, list[Exclusion]]) -> NoEligibleModel:
    smallest = min(refusals.values(), key=_size_of_change)
    counts = Counter(each.constraint for reasons in refusals.values() for each in reasons)
    against = ", ".join(f"{name} excludes {count}" for name, count in counts.most_common())
    named = [each for reasons in list(refusals.values())[:MOST_NAMED] for each in reasons]
    return NoEligibleModel(
        f"no model is eligible: {against} of {len(refusals)}; {_way_out(smallest)}",
        param="routing",
        details={
            "excluded": [as_json(each) for each in named],
            "models": len(refusals),
            "relaxation": _relaxation(smallest),
        },
    )


def _size_of_change(reasons: list[Exclusion]) -> tuple[bool, bool, bool, bool, int, float]:
    """What a caller can do at all comes first, then models for this kind of request, then what leaves the choice to the
    gateway, then the fewest changes, then the ones that go least far."""
    change, held = _together(reasons), _held(reasons)
    is_lasting = all(each.change for each in reasons)
    return bool(held), CAPABILITIES in held, not is_lasting, change.by_name, len(change.words), change.distance


def _held(reasons: list[Exclusion]) -> list[str]:
    """Constraints about which a caller can do nothing, now or later."""
    return [each.constraint for each in reasons if each.change is None and each.constraint != AVAILABILITY]


def _way_out(reasons: list[Exclusion]) -> str:
    held = _held(reasons)
    if CAPABILITIES in held:
        return "no change of routing admits one, as none is for this kind of request"
    if held:
        return f"no change of routing admits one, as this key itself limits {' and '.join(held)}"
    return f"to admit {reasons[0].model}, {' and '.join(_together(reasons).words)}"


def _relaxation(reasons: list[Exclusion]) -> dict[str, object] | None:
    """For clients that change the request themselves; None where that is of no use."""
    if _held(reasons):
        return None
    change = _together(reasons)
    relaxation: dict[str, object] = {
        "model": reasons[0].model,
        "changes": list(change.words),
        "routing": dict(change.routing),
    }
    if change.headers:
        relaxation["headers"] = dict(change.headers)
    if change.by_name:
        relaxation["by_name"] = True
    return relaxation


def _together(reasons: list[Exclusion]) -> Change:
    return together([each.change for each in reasons if each.change])


def _too_long(expected: Expected, suited_M: Truths) -> ContextLengthExceeded:
    question, most = expected.question, int(expected.table.context_tokens_M[suited_M].max())
    answer = f" and an answer of {question.asked_tokens}" if question.asked_tokens else ""
    return ContextLengthExceeded(
        # Clients know it by these words: LiteLLM and LangChain then shorten the conversation, or ask another model.
        f"prompt is too long: this model's maximum context length is {most} tokens; "
        f"about {question.prompt_tokens} tokens of prompt{answer} do not fit; {_shorter(question, most)}",
        param=question.length_field if question.asked_tokens > most else question.prompt_field,
    )


def as_json(exclusion: Exclusion) -> dict[str, object]:
    return {
        "model": exclusion.model,
        "constraint": exclusion.constraint,
        "message": exclusion.message,
        "relaxation": exclusion.relaxation,
    }


def _refusals(expected: Expected, visible_M: Truths, estimated: bool) -> Iterator[Refusal]:
    """Every reason against every one of these models, reason by reason."""
    yield from _lacking(expected, visible_M)
    yield from _beyond_limits(expected, visible_M, estimated)
    yield from _overfull(expected, visible_M)
    for model in np.flatnonzero(visible_M & ~expected.fleet.available_M).tolist():
        limited = _limited_for_s(expected, model) is not None
        message = "is over its backend's rate limit or quota" if limited else "has no replica that is up"
        yield Refusal(model, Exclusion(expected.names[model], AVAILABILITY, message))


def _lacking(expected: Expected, visible_M: Truths) -> Iterator[Refusal]:
    needs = expected.question.needs
    for model in np.flatnonzero(visible_M & ~expected.capabilities.where(needs.issubset)).tolist():
        lacks = needs - expected.capabilities[model]
        missing = ", ".join(sorted(lacks))
        exclusion = Exclusion(
            expected.names[model],
            CAPABILITIES,
            f"cannot do {missing}",
            None if lacks & OPERATIONS else Change((f"send a request that does not need {missing}",)),
        )
        yield Refusal(model, exclusion)


def _overfull(expected: Expected, visible_M: Truths) -> Iterator[Refusal]:
    question = expected.question
    tokens = question.context_tokens
    for model in np.flatnonzero(visible_M & ~roomy(expected.table, question)).tolist():
        most = int(expected.table.context_tokens_M[model])
        exclusion = Exclusion(
            expected.names[model],
            CONTEXT,
            f"has a context of {most} tokens, and the request may take {tokens}",
            Change((f"{_shorter(question, most)} by {tokens - most} tokens",)),
        )
        yield Refusal(model, exclusion)


def _shorter(question: Question, most: int) -> str:
    """What to do, in the words of the request, so that it fits into a context of so many tokens."""
    lower = f"lower {question.length_field}"
    if question.asked_tokens > most:
        return lower
    return f"shorten {question.prompt_field}" + (f" or {lower}" if question.asked_tokens else "")


def _beyond_limits(expected: Expected, visible_M: Truths, estimated: bool) -> Iterator[Refusal]:
    raised, raised_M = uncut(expected)
    for name, limit in expected.question.preferences.limits.items():
        constraint = expected.table.vocabulary.constraint[name]
        if constraint.stage == "estimate" and not estimated:
            continue
        passes_M = constraint.passes(expected, limit)
        for model in np.flatnonzero(visible_M & ~passes_M).tolist():
            change = change_of(constraint, raised if raised_M[model] else expected, model)
            yield _beyond(constraint, change, model, expected, constraint.found(expected, model))
        if raised is not expected:
            for model in np.flatnonzero(visible_M & raised_M & passes_M & ~constraint.passes(raised, limit)).tolist():
                found = f"once it may write that much, {constraint.found(raised, model)}"
                yield _beyond(constraint, change_of(constraint, raised, model), model, expected, found)


def _beyond(constraint: Constraint, change: Change | None, model: int, expected: Expected, found: str) -> Refusal:
    message = found if change else f"{found}, and this key limits {constraint.name} itself"
    return Refusal(model, Exclusion(expected.names[model], constraint.name, message, change))
