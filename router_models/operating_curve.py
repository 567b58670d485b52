"""What a weight on cost would have done: quality, dollars and loss on an artifact's calibration rows. NumPy only.

How it works: the calibration rows hold predictions and outcomes of all models of an artifact on prompts it was not
trained on. Restricted to some models, at given prices, every weight w chooses in each row the model with the largest
quality - w * s(cost), as the gateway does, and the outcome says what that choice was worth. Loss is against the single
model with the best mean on the same rows; that one is picked with hindsight, so the loss is rather over- than
understated. A weight stands for a promised loss only if every smaller weight of the grid keeps it too (testing in a
fixed order needs no correction for looking at many weights).

A model without an outcome in a row is no candidate there.

Legend of array suffixes: N calibration rows, M models of the pool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router_models.artifact import Calibration

TOKENS_PER_PRICE = 1_000_000
# The normal distribution's one-sided 95 % quantile.
Z_95_ONE_SIDED = 1.645
# With fewer rows the bound rests on a handful of prompts on which two models differ.
LEAST_ROWS = 100
# 0, then steps of a seventh; from far below any effect to where the cheapest model always wins.
WEIGHTS = (0.0, *(float(f"{weight:.4g}") for weight in np.geomspace(0.005, 20.0, 64)))


@dataclass(frozen=True)
class CostScale:
    """The operator's fixed scale: dollars of a request at its worst and at its best end."""

    worst_usd: float
    best_usd: float

    def share(self, cost_usd: np.ndarray) -> np.ndarray:
        """0 at the best end, 1 at the worst, logarithmic between, clipped outside; an unknown cost counts as worst."""
        with np.errstate(divide="ignore", invalid="ignore"):
            position = np.log(cost_usd / self.best_usd) / math.log(self.worst_usd / self.best_usd)
        return np.where(np.isnan(position), 1.0, np.clip(position, 0.0, 1.0))


@dataclass(frozen=True)
class PricedRows:
    """Calibration rows of a pool, at its prices; NaN is missing."""

    quality: np.ndarray
    """Predicted [N, M]."""
    score: np.ndarray
    """Graded [N, M]."""
    expected_usd: np.ndarray
    """From predicted lengths: what decides [N, M]."""
    real_usd: np.ndarray
    """From the lengths that came: what was spent [N, M]."""


@dataclass(frozen=True)
class OperatingPoint:
    """One weight on cost, and what it does on average per request."""

    weight: float
    quality: float
    cost_usd: float
    """Over the rows whose cost is known; NaN if none is."""
    loss: float
    """Mean score of the best single model minus that of the choice; negative is a gain."""
    loss_bound: float
    """With 95 % confidence the loss is not above this."""


def priced_rows(
    rows: Calibration, columns: Sequence[int], input_usd_per_m: Sequence[float], output_usd_per_m: Sequence[float]
) -> PricedRows:
    """The rows restricted to a pool (columns of the artifact), with each model's prices in the same order."""
    chosen = list(columns)
    input_price_M = np.asarray(input_usd_per_m, dtype=float) / TOKENS_PER_PRICE
    output_price_M = np.asarray(output_usd_per_m, dtype=float) / TOKENS_PER_PRICE
    input_usd_NM = rows.input_tokens[:, chosen] * input_price_M
    return PricedRows(
        quality=rows.quality[:, chosen],
        score=rows.score[:, chosen],
        expected_usd=input_usd_NM + rows.output_tokens[:, chosen] * output_price_M,
        real_usd=input_usd_NM + rows.real_output_tokens[:, chosen] * output_price_M,
    )


def operating_curve(
    rows: PricedRows, scale: CostScale, weights: Sequence[float] = WEIGHTS
) -> tuple[OperatingPoint, ...]:
    """A point for every weight, in the order given; empty without outcomes, or without any cost to weigh.

    Where no cost is expected, every weight would choose alike and seem safe, and the largest would not be once costs
    are known.
    """
    known_NM = np.isfinite(rows.score)
    if not known_NM.any() or not np.isfinite(rows.expected_usd).any():
        return ()
    best = int(_column_means(rows.score).argmax())
    # Only rows that say what the best single model was worth: the loss is paired.
    kept_N = known_NM[:, best]
    score_NM, known_NM = rows.score[kept_N], known_NM[kept_N]
    quality_NM, real_NM = rows.quality[kept_N], rows.real_usd[kept_N]
    share_NM = scale.share(rows.expected_usd[kept_N])
    points = []
    for weight in weights:
        utility_NM = np.where(known_NM, quality_NM - weight * share_NM, -np.inf)
        chosen_N1 = utility_NM.argmax(1)[:, None]
        score_N = np.take_along_axis(score_NM, chosen_N1, 1)[:, 0]
        usd_N = np.take_along_axis(real_NM, chosen_N1, 1)[:, 0]
        loss_N = score_NM[:, best] - score_N
        points.append(
            OperatingPoint(
                weight=weight,
                quality=float(score_N.mean()),
                cost_usd=float(np.nanmean(usd_N)) if np.isfinite(usd_N).any() else math.nan,
                loss=float(loss_N.mean()),
                loss_bound=_upper_bound(loss_N),
            )
        )
    return tuple(points)


def largest_weight(points: Sequence[OperatingPoint], max_quality_loss: float) -> float | None:
    """The largest weight on cost that keeps the loss at or below this with 95 % confidence; None if none does.

    `points` come from `operating_curve` with rising weights.
    """
    largest = None
    for point in points:
        if not point.loss_bound <= max_quality_loss:
            break
        largest = point.weight
    return largest


def _column_means(score_NM: np.ndarray) -> np.ndarray:
    known_NM = np.isfinite(score_NM)
    total_M = np.where(known_NM, score_NM, 0).sum(0)
    means_M: np.ndarray = np.where(known_NM.any(0), total_M / np.maximum(known_NM.sum(0), 1), -np.inf)
    return means_M


def _upper_bound(loss_N: np.ndarray) -> float:
    if len(loss_N) < LEAST_ROWS:
        return math.inf
    return float(loss_N.mean() + Z_95_ONE_SIDED * loss_N.std(ddof=1) / math.sqrt(len(loss_N)))
