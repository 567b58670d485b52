"""Asking a set's prompts again with changes (`robustness`), and comparing the choices.

Legend of array suffixes: B prompts of the set, b those asked again, P models of the pool, W settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from router_models.evaluation.bootstrap import SEED
from router_models.evaluation.contest import Stratum
from router_models.evaluation.frontier import MOST_PENALTY
from router_models.evaluation.policies import chosen_column, take
from router_models.evaluation.robustness import PERTURBATIONS, Shaken, operating_weight, perturbed
from router_models.evaluation.sets import Predictor


def shake(
    stratum: Stratum, predictor: Predictor, asked_b: np.ndarray, advance: Callable[[], object]
) -> Mapping[str, Shaken]:
    """Choices before and after each of `PERTURBATIONS`; `asked_b` are rows, `advance` is called after each prompt."""
    trial, weight, found = stratum.trial, 0.0, {}
    if stratum.priced is not None:
        weight = operating_weight(stratum.priced.column)
    before = _Seen(stratum.predictions[0].quality[asked_b], _penalty(stratum, stratum.beliefs[0].expected_usd[asked_b]))
    for place, (name, change) in enumerate(PERTURBATIONS.items()):
        rng = np.random.default_rng((SEED, place))
        after = predictor.predict([perturbed(trial.conversations[row], change, rng) for row in asked_b], advance)
        expected_bP = trial.expected_usd(after, asked_b)[:, trial.pool]
        pair = (before, _Seen(after.quality[:, trial.columns], _penalty(stratum, expected_bP)))
        found[name] = _compared(stratum, asked_b, pair, after.unfamiliar, weight)
    return found


@dataclass(frozen=True)
class _Seen:
    quality: np.ndarray
    """[b, P]"""
    penalty: np.ndarray
    """Expected cost over the reference [b, P]; 0 where costs are unknown."""


def _compared(
    stratum: Stratum, asked_b: np.ndarray, pair: tuple[_Seen, _Seen], unfamiliar_b: np.ndarray, weight: float
) -> Shaken:
    truth, unit_usd = stratum.trial.truth, stratum.priced.unit_usd if stratum.priced else float("nan")
    available_bP, score_bP, cost_bP = (a[asked_b] for a in (truth.available, truth.score, truth.cost_usd / unit_usd))
    by_quality = [chosen_column(seen.quality, available_bP) for seen in pair]
    before_b, after_b = (chosen_column(seen.quality - weight * seen.penalty, available_bP) for seen in pair)
    return Shaken(
        same_by_quality=by_quality[0] == by_quality[1],
        same=before_b == after_b,
        quality_before=take(score_bP, before_b),
        quality_after=take(score_bP, after_b),
        cost_before=take(cost_bP, before_b),
        cost_after=take(cost_bP, after_b),
        unfamiliar=unfamiliar_b,
    )


def _penalty(stratum: Stratum, expected_bP: np.ndarray) -> np.ndarray:
    if stratum.priced is None:
        return np.zeros_like(expected_bP)
    return np.nan_to_num(expected_bP / stratum.priced.reference_usd, nan=MOST_PENALTY)
