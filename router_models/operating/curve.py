"""What a weight on cost would have done: quality, dollars and loss on an artifact's calibration rows. NumPy only.

How it works: the calibration rows hold predictions and outcomes of all models of an artifact on prompts it was not
trained on. Restricted to some models, at given prices, every weight w chooses in each row the model with the largest
quality - w * s(cost), as the gateway does, and the outcome says what that choice was worth. Loss is against the best
single model of the pool (`router_models.operating.reference`).

A weight stands for a promised loss only if every smaller weight of the grid keeps it too (testing in a fixed order
needs no correction for looking at many weights), and if nothing else is predicted for the rows that do not count: what
is safe on the prompts of one dataset may cost much on those of another. Each is tested as if there were one more row,
on which all is lost: without it, a model that fails on one prompt in a hundred often has no failure among a hundred
rows, and seems safe.

Legend of array suffixes: N calibration rows, K rows that count, M models of the pool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

import numpy as np

from router_models.operating.comparison import Comparison, compare, error_of_mean, interval_of_ratio
from router_models.operating.reference import Answers, Reference, picked, reference
from router_models.operating.rows import CostScale, PricedRows

# Of the normal distribution: 95 % one-sided.
Z_95_ONE_SIDED = 1.645
# With fewer rows the bound rests on a handful of prompts on which two models differ.
LEAST_ROWS = 100
# 0, then steps of a seventh; from far below any effect to where the cheapest model always wins.
WEIGHTS = (0.0, *(float(f"{weight:.4g}") for weight in np.geomspace(0.005, 20.0, 64)))


@dataclass(frozen=True)
class OperatingPoint:
    """One weight on cost, and what it does on average per request."""

    weight: float
    quality: float
    cost_usd: float
    """Over the rows whose cost is known; NaN if none is."""
    cost_ratio: float
    """Dollars spent of those that the best single model costs, where both are known; NaN if nowhere."""
    loss: float
    """Mean score of the best single model minus that of the choice; negative is a gain."""
    loss_bound: float
    """With 95 % confidence the loss is not above this; nor where it is only predicted, on rows that do not count."""


@dataclass(frozen=True)
class Predicted:
    """What choosing would do on rows that do not count, by what is predicted, against the best single model."""

    rows: int
    gain: float
    """Of quality, on average; NaN without rows, as is the next."""
    cost_ratio: float
    """Dollars expected of those that the best single model is expected to cost, where both are known."""

    @property
    def tells(self) -> bool:
        """Whether there are enough rows to mean something."""
        return self.rows >= LEAST_ROWS


@dataclass(frozen=True)
class Outlook:
    """What choosing would have done on the rows that count, against the best single model."""

    reference: Reference
    weight: float | None
    """On cost; None: the best single model answers."""
    model_K: np.ndarray
    """Who is chosen in each row that counts."""
    share_M: np.ndarray
    """How often each model is chosen, of the rows that count [M]."""
    measured_M: np.ndarray
    """On how many of them it was measured, as a share [M]."""
    compared: Comparison
    """With the best single model."""
    elsewhere: Predicted
    quality: float
    best_quality: float
    cost_usd: float
    """A request, on average over rows whose costs are known, as is the next; NaN if none are."""
    best_cost_usd: float

    @property
    def answers(self) -> Answers:
        """What choosing brings."""
        return self.reference.answers(self.model_K)


def operating_curve(
    rows: PricedRows, scale: CostScale, weights: Sequence[float] = WEIGHTS
) -> tuple[OperatingPoint, ...]:
    """A point for every weight, in the order given; empty where nothing is compared.

    Where no cost is expected, every weight would choose alike and seem safe, and the largest would not be once costs
    are known: then there is a point for a weight of 0 only.
    """
    against = reference(rows)
    if against is None:
        return ()
    if not np.isfinite(against.rows.expected_usd).any():
        weights = (0.0,)
    best, others = against.standing, rows.take(~against.counts_N)
    share_KM, share_of_others = scale.share(against.rows.expected_usd), scale.share(others.expected_usd)
    points = []
    for weight in weights:
        chosen = against.answers(_choices(against.rows, weight * share_KM))
        loss_N = best.score - chosen.score
        bound = _upper_bound(loss_N[against.counts_N], chosen.predicted_share(against.counts_N))
        elsewhere = _expected(others, _choices(others, weight * share_of_others), against.best)
        if elsewhere.tells:
            bound = max(bound, -elsewhere.gain)
        ratio = compare(chosen, best).cost_ratio.mean
        points.append(OperatingPoint(weight, _mean(chosen.score), _mean(chosen.usd), ratio, _mean(loss_N), bound))
    return tuple(points)


def largest_weight(points: Sequence[OperatingPoint], max_quality_loss: float) -> float | None:
    """The largest weight on cost that keeps the loss at or below this with 95 % confidence.

    None if none does, or if it costs more than the best single model, which loses nothing. `points` come from
    `operating_curve` with rising weights.
    """
    kept = list(takewhile(lambda point: point.loss_bound <= max_quality_loss, points))
    return None if not kept or kept[-1].cost_ratio > 1 else kept[-1].weight


def least_loss(points: Sequence[OperatingPoint]) -> float | None:
    """The smallest loss of which `largest_weight` finds a weight; None where there is none for any."""
    bounds = accumulate((point.loss_bound for point in points), max)
    return next(
        (bound for bound, point in zip(bounds, points, strict=True) if not point.cost_ratio > 1 and bound < 1), None
    )


def outlook(
    rows: PricedRows, scale: CostScale, weight: float | None, held_against_M: np.ndarray | float = 0.0
) -> Outlook | None:
    """What a weight on cost would have done; None where nothing is compared.

    Without a weight the best single model answers, everywhere. `held_against_M` is what else lowers a model's utility.
    That the weight may have been chosen on the same rows is not in the intervals.
    """
    against = reference(rows)
    if against is None:
        return None
    model_K, elsewhere = np.full(len(against.dataset_K), against.best), Predicted(0, math.nan, math.nan)
    if weight is not None:
        model_K = _choices(against.rows, weight * scale.share(against.rows.expected_usd) + held_against_M)
        others = rows.take(~against.counts_N)
        chosen_elsewhere = _choices(others, weight * scale.share(others.expected_usd) + held_against_M)
        elsewhere = _expected(others, chosen_elsewhere, against.best)
    chosen, best = against.answers(model_K), against.standing
    compared = compare(chosen, best)
    return Outlook(
        reference=against,
        weight=weight,
        model_K=model_K,
        share_M=np.bincount(model_K, minlength=rows.score.shape[1]) / len(model_K),
        measured_M=np.isfinite(against.rows.score).mean(0),
        compared=compared,
        elsewhere=elsewhere,
        quality=_mean(chosen.score),
        best_quality=_mean(best.score),
        cost_usd=_mean(chosen.usd[compared.priced_N]),
        best_cost_usd=_mean(best.usd[compared.priced_N]),
    )


def _choices(rows: PricedRows, held_against_NM: np.ndarray) -> np.ndarray:
    """Who is chosen in each row, as requests choose; nobody of whom nothing is predicted."""
    quality_NM = np.where(np.isnan(rows.quality), -np.inf, rows.quality)
    return np.asarray((quality_NM - held_against_NM).argmax(1))


def _expected(rows: PricedRows, model_K: np.ndarray, best: int) -> Predicted:
    """What these choices would do against one model."""
    gain = _mean(picked(rows.quality, model_K) - rows.quality[:, best])
    usd_K, best_usd_K = picked(rows.expected_usd, model_K), rows.expected_usd[:, best]
    priced_K = np.isfinite(usd_K) & np.isfinite(best_usd_K)
    return Predicted(len(model_K), gain, interval_of_ratio(usd_K[priced_K], best_usd_K[priced_K]).mean)


def _mean(values_K: np.ndarray) -> float:
    known_K = np.isfinite(values_K)
    return float(values_K[known_K].mean()) if known_K.any() else math.nan


def _upper_bound(loss_K: np.ndarray, predicted_share: float) -> float:
    if len(loss_K) < LEAST_ROWS:
        return math.inf
    with_one_lost = np.append(loss_K, 1.0)
    return float(with_one_lost.mean()) + Z_95_ONE_SIDED * error_of_mean(with_one_lost, predicted_share)
