"""The record of a decision, as JSON: made from its evidence when somebody asks, never on the way of a request."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.domain.decision import Decision
from app.domain.vocabulary import Vocabulary
from app.routing.candidates import UNTESTED
from app.routing.estimates import Expected, Question
from app.routing.evidence import Evidence
from app.routing.exclusions import Refusal, as_json, exclusions, unpaid
from app.routing.objective import Flip, pareto, smallest_flip, utility
from app.routing.sessions import session_as_json
from app.routing.why import Ground


def describe(decision: Decision) -> dict[str, Any]:
    """What was asked and expected, which models were excluded and why, and what would change the choice."""
    outline = {
        "decision_id": decision.decision_id,
        "model": decision.chosen.model.name,
        "reason": decision.reason,
        "why": decision.why,
    }
    evidence = decision.evidence
    if not isinstance(evidence, Evidence):
        return outline
    return {**outline, **_described(evidence)}


def predicted_quality(decision: Decision, model: str) -> float | None:
    """What was predicted of any model of the catalogue when this was decided; None where nothing was."""
    evidence = decision.evidence
    if not isinstance(evidence, Evidence) or evidence.case.prediction is None:
        return None
    table, prediction = evidence.case.table, evidence.case.prediction
    column = table.column_M.item(table.position[model]) if model in table.position else UNTESTED
    return None if column == UNTESTED else prediction.quality.item(column)


def _described(evidence: Evidence) -> dict[str, Any]:
    expected, ground = Expected(evidence.case), evidence.ground
    limited = Expected(evidence.case.without_session)
    eligible_M = np.zeros(len(expected.table), dtype=np.bool_)
    eligible_M[ground.order] = True
    weights, reading = ground.terms.weights, evidence.reading
    front = [] if ground.rule == "default" else pareto(expected, eligible_M, weights)
    flip = None if _is_settled(evidence) else smallest_flip(expected, expected.case.peers(ground.order), weights)
    return {
        "asked": _asked(expected.question, expected.table.vocabulary),
        "applied": _applied(ground),
        "candidates": _candidates(expected, ground, set(front)),
        "excluded": [_excluded(limited, each) for each in _refusals(limited, ground)],
        "pareto": [expected.names[number] for number in front],
        "ranking": [expected.names[number] for number in ground.order],
        "counterfactual": _counterfactual(expected, flip, may_look_closer=evidence.may_look_closer),
        "session": session_as_json(expected, ground),
        "doubted": None if ground.doubted is None else expected.names[ground.doubted],
        # Nothing is left to chance yet: the choice would be the same again.
        "propensity": 1.0,
        "encoder": reading.encoder,
        "unfamiliar": None if reading.prediction is None else bool(reading.prediction.unfamiliar),
        "predictor_failure": reading.failure,
        "versions": dict(evidence.versions),
    }


def _refusals(limited: Expected, ground: Ground) -> list[Refusal]:
    """In the catalogue's order."""
    refusals = exclusions(limited)
    if ground.unpaid:
        refusals = sorted([*refusals, *unpaid(limited, ground.unpaid)], key=lambda each: each.model)
    return refusals


def _is_settled(evidence: Evidence) -> bool:
    """Whether no weight had a part in the choice."""
    ground = evidence.ground
    is_single = ground.terms.max_quality_loss is not None and ground.terms.cost_weight is None
    is_kept = ground.doubted is not None or (ground.kept is not None and ground.kept.why != "cache")
    return ground.rule != "best" or is_kept or evidence.case.question.model is not None or is_single


def _asked(question: Question, vocabulary: Vocabulary) -> dict[str, Any]:
    preferences = question.preferences
    asked = {
        "model": question.model or f"auto:{question.profile}",
        "weights": dict(preferences.weights),
        "max_quality_loss": preferences.max_quality_loss,
        "limits": {name: vocabulary.kinds[name].as_json(limit) for name, limit in preferences.limits.items()},
        "needs": sorted(question.needs),
        "uses": sorted(question.uses),
        "input_tokens": question.input_tokens,
        "max_tokens": question.max_tokens,
        "deadline_s": question.deadline_s,
        "priority": question.priority,
        "in_session": question.in_session,
    }
    return asked if question.choices == 1 else {**asked, "choices": question.choices}


def _applied(ground: Ground) -> dict[str, Any]:
    """What `max_quality_loss` became, if that was asked for."""
    return {
        "weights": dict(ground.terms.weights),
        "cost_weight_of_max_quality_loss": ground.terms.cost_weight,
        "best_single_model": ground.terms.point.best_model if ground.terms.point else None,
    }


def _candidates(expected: Expected, ground: Ground, front: set[int]) -> list[dict[str, Any]]:
    weights = ground.terms.weights
    utility_M = utility(expected, weights)
    weighed = [name for name, weight in weights.items() if weight]
    return [
        {
            "model": expected.names[number],
            **_estimates(expected, number),
            "utility": _number(utility_M[number]),
            "shares": {name: _number(expected.share(name)[number]) for name in weighed},
            "on_pareto_front": number in front,
        }
        for number in map(int, ground.order)
    ]


def _excluded(expected: Expected, refusal: Refusal) -> dict[str, Any]:
    return {**as_json(refusal.exclusion), "estimates": _estimates(expected, refusal.model)}


def _estimates(expected: Expected, number: int) -> dict[str, Any]:
    return {
        "tested": bool(expected.table.tested_M[number]),
        "quality": _number(expected.quality[number]),
        "quality_interval": _interval(expected.quality_interval[number]),
        "output_tokens": _number(expected.output_tokens[number]),
        "output_tokens_interval": _interval(expected.output_tokens_interval[number]),
        "cost_usd": _number(expected.cost_usd[number]),
        "ttft_s": _number(expected.ttft_s[number]),
        "latency_s": _number(expected.latency_s[number]),
    }


def _counterfactual(expected: Expected, flip: Flip | None, *, may_look_closer: bool) -> dict[str, Any] | None:
    if flip is None:
        return None
    name = expected.names[flip.model]
    verb = "above" if flip.rises else "below"
    # Where it flips both models are level, and no glance decides that.
    caveat = (
        ", at a glance; the transformer would read a choice as close as that, and may differ" if may_look_closer else ""
    )
    return {
        "dimension": flip.dimension,
        "from": _number(flip.weight),
        "to": _number(flip.flips_at),
        "model": name,
        "sentence": (
            f"with weights.{flip.dimension} {verb} {flip.flips_at:.4g} instead of {flip.weight:.4g}, "
            f"{name} would be chosen{caveat}"
        ),
        "at_a_glance": may_look_closer,
    }


def _interval(ends: Any) -> list[float] | None:
    low, high = _number(ends[0]), _number(ends[1])
    return None if low is None or high is None else [low, high]


def _number(value: Any) -> float | None:
    """Six significant digits; None for NaN."""
    number = float(value)
    return float(f"{number:.6g}") if number == number else None
