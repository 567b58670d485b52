"""Two ways to choose, side by side: what one gains over the other and costs of it, with 95 % intervals. NumPy only.

How it works: both are known on the same rows, so the differences of each row are what is averaged. Intervals are those
of a mean and, for the ratio, of its linearisation (delta method). Where a score is only what is predicted, predictions
share their errors, which more rows do not average out, so that their share of the rows widens every interval.

Legend of array suffixes: N rows, K rows that count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from router_models.operating.reference import Answers

# Of the normal distribution: both ends of 95 %.
Z_95 = 1.96
# Standard error of the mean quality that is predicted of a model where it was not measured: after an exam, of 24 models
# it was off by .038 on average (LOG.md), which is .048 if errors are distributed normally.
PREDICTED_ERROR = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean, or a ratio of means, with the ends of its 95 % interval; NaN if unknown."""

    mean: float
    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Comparison:
    """One way to choose beside another, on the rows on which the scores of both are known."""

    known_N: np.ndarray
    """Which rows these are."""
    priced_N: np.ndarray
    """Those of them on which the costs of both are known."""
    gain: Interval
    """Of quality; negative is a loss."""
    cost_ratio: Interval
    """Dollars spent of those that the other way costs, where both are known."""
    predicted_share: float
    """Of these rows, those on which a score is what is predicted; NaN without any."""


def compare(these: Answers, those: Answers) -> Comparison:
    """What choosing as for `these` gains over `those`, and costs of them."""
    known_N = np.isfinite(these.score) & np.isfinite(those.score)
    priced_N = known_N & np.isfinite(these.usd) & np.isfinite(those.usd)
    share = these.predicted_share(known_N)
    gain = _interval_of_mean((these.score - those.score)[known_N], share)
    return Comparison(known_N, priced_N, gain, interval_of_ratio(these.usd[priced_N], those.usd[priced_N]), share)


def error_of_mean(values_K: np.ndarray, predicted_share: float) -> float:
    """The standard error: of the rows, and of what is predicted on so many of them."""
    return math.hypot(float(values_K.std(ddof=1)) / math.sqrt(len(values_K)), PREDICTED_ERROR * predicted_share)


def _interval_of_mean(values_K: np.ndarray, predicted_share: float) -> Interval:
    if not len(values_K):
        return UNKNOWN
    mean, half = float(values_K.mean()), math.inf
    if len(values_K) > 1:
        half = Z_95 * error_of_mean(values_K, predicted_share)
    return Interval(mean, mean - half, mean + half)


def interval_of_ratio(part_K: np.ndarray, whole_K: np.ndarray) -> Interval:
    """Of two means; `UNKNOWN` where there is nothing to divide by."""
    if not len(whole_K) or not whole_K.mean() > 0:
        return UNKNOWN
    ratio = float(part_K.mean() / whole_K.mean())
    half = _half(part_K - ratio * whole_K) / float(whole_K.mean())
    return Interval(ratio, max(0.0, ratio - half), ratio + half)


def _half(values_K: np.ndarray) -> float:
    """Half of the 95 % interval of a mean."""
    return Z_95 * float(values_K.std(ddof=1)) / math.sqrt(len(values_K)) if len(values_K) > 1 else math.inf
