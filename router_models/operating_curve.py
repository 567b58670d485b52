"""What a weight on cost would have done: quality, dollars and loss on an artifact's calibration rows. NumPy only.

How it works: the calibration rows hold predictions and outcomes of all models of an artifact on prompts it was not
trained on. Restricted to some models, at given prices, every weight w chooses in each row the model with the largest
quality - w * s(cost), as the gateway does, and the outcome says what that choice was worth. A model that was not
measured in a row is chosen there like any other, since requests choose it too; what it is worth is then what is
predicted: the outcome of the best single model, less the difference of their predicted qualities. Such predictions
share their errors, which more rows do not average out, so that their share of the rows widens every bound and interval.

Loss is against the best single model of the pool. Rows come from several datasets, and not every model was measured in
each of them, so means do not compare: a score is taken to be what the row is worth plus what the model is worth, fitted
by least squares. Two models are thus compared on the rows they share, or through a third one; where all were measured
everywhere, that is the mean. Models that nothing connects are each compared with the average of their own peers. A row
counts if the best single model and another one of the pool were measured in it. That model is picked with hindsight, so
the loss is rather over- than understated.

A weight stands for a promised loss only if every smaller weight of the grid keeps it too (testing in a fixed order
needs no correction for looking at many weights), and if nothing else is predicted for the rows that do not count: what
is safe on the prompts of one dataset may cost much on those of another. Each is tested as if there were one more row,
on which all is lost: without it, a model that fails on one prompt in a hundred often has no failure among a hundred
rows, and seems safe.

Legend of array suffixes: N calibration rows, K rows that count, M models of the pool, D datasets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

import numpy as np

from router_models.artifact import Calibration

TOKENS_PER_PRICE = 1_000_000
# Quantiles of the normal distribution: 95 % one-sided, and both ends of 95 %.
Z_95_ONE_SIDED = 1.645
Z_95 = 1.96
# With fewer rows the bound rests on a handful of prompts on which two models differ.
LEAST_ROWS = 100
# Of a dataset's rows, those on which a model must have been measured to be the best single one.
LEAST_SHARE = 0.5
# Standard error of the mean quality that is predicted of a model where it was not measured: after an exam, of 24 models
# it was off by .038 on average (LOG.md), which is .048 if errors are distributed normally.
PREDICTED_ERROR = 0.05
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
    dataset: np.ndarray | None = None
    """Where each row is from [N]; None: all from the same."""

    def take(self, rows_N: np.ndarray) -> PricedRows:
        return PricedRows(
            self.quality[rows_N],
            self.score[rows_N],
            self.expected_usd[rows_N],
            self.real_usd[rows_N],
            None if self.dataset is None else self.dataset[rows_N],
        )


@dataclass(frozen=True)
class Reference:
    """What losses are measured against."""

    best: int
    """The best single model."""
    rows: PricedRows
    """Those that count."""
    dataset_K: np.ndarray
    counts_N: np.ndarray
    """Which of the rows that were given count."""

    def answers(self, model_K: np.ndarray) -> Answers:
        """What it brings to choose these models: what was measured, else what is predicted."""
        measured_K, ahead_K = _of(self.rows.score, model_K), _of(self.rows.quality, model_K)
        as_predicted_K = self.rows.score[:, self.best] - self.rows.quality[:, self.best] + ahead_K
        is_predicted_K = np.isnan(measured_K)
        return self._spread(np.where(is_predicted_K, as_predicted_K, measured_K), model_K, is_predicted_K)

    @property
    def standing(self) -> Answers:
        """What the best single model brings."""
        return self.always(self.best)

    def always(self, model: int) -> Answers:
        """What one and the same model brings where it was measured."""
        model_K = np.full(len(self.dataset_K), model)
        return self._spread(_of(self.rows.score, model_K), model_K, np.zeros(len(model_K), dtype=bool))

    def _spread(self, score_K: np.ndarray, model_K: np.ndarray, is_predicted_K: np.ndarray) -> Answers:
        """Over the rows that were given."""
        score_N, usd_N = np.full((2, len(self.counts_N)), math.nan)
        is_predicted_N = np.zeros(len(self.counts_N), dtype=bool)
        score_N[self.counts_N], usd_N[self.counts_N] = score_K, _of(self.rows.real_usd, model_K)
        is_predicted_N[self.counts_N] = is_predicted_K
        return Answers(score_N, usd_N, is_predicted_N)


@dataclass(frozen=True)
class Answers:
    """What one way to choose brings; NaN where it is not known, or the row does not count."""

    score: np.ndarray
    """Of every row that was given [N], as is the next."""
    usd: np.ndarray
    is_predicted: np.ndarray
    """Where the score is what is predicted, because the model was not measured there."""


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


def priced_rows(
    rows: Calibration, columns: Sequence[int], input_usd_per_m: Sequence[float], output_usd_per_m: Sequence[float]
) -> PricedRows:
    """The rows restricted to a pool (columns of the artifact), with each model's prices in the same order.

    Where the length of an answer was not recorded, it is taken to be as predicted. A prompt that a model was not given
    is taken to be as long as in the tokens of those that were.
    """
    chosen = list(columns)
    input_price_M = np.asarray(input_usd_per_m, dtype=float) / TOKENS_PER_PRICE
    output_price_M = np.asarray(output_usd_per_m, dtype=float) / TOKENS_PER_PRICE
    usual_tokens_N1 = np.nanmean(rows.input_tokens, axis=1, keepdims=True)
    input_tokens_NM = rows.input_tokens[:, chosen]
    input_usd_NM = np.where(np.isnan(input_tokens_NM), usual_tokens_N1, input_tokens_NM) * input_price_M
    expected_NM, real_NM = rows.output_tokens[:, chosen], rows.real_output_tokens[:, chosen]
    written_NM = np.where(np.isfinite(real_NM), real_NM, expected_NM)
    # What is free costs nothing, also where nobody knows how long it is.
    expected_NM, written_NM = (
        np.where(output_price_M == 0.0, 0.0, tokens_NM) for tokens_NM in (expected_NM, written_NM)
    )
    return PricedRows(
        quality=rows.quality[:, chosen],
        score=rows.score[:, chosen],
        expected_usd=input_usd_NM + expected_NM * output_price_M,
        real_usd=input_usd_NM + written_NM * output_price_M,
        dataset=rows.dataset,
    )


def best_single(rows: PricedRows) -> int | None:
    """The best single model; None where no two were measured on the same row, unless only one was at all."""
    measured_M = np.isfinite(rows.score).any(0)
    if measured_M.sum() == 1:
        return int(measured_M.argmax())
    found = reference(rows)
    return None if found is None else found.best


def reference(rows: PricedRows) -> Reference | None:
    """What losses are measured against; None where no two models were measured on the same row."""
    known_NM = np.isfinite(rows.score)
    counts_N = known_NM.sum(1) >= 2
    if not counts_N.any():
        return None
    dataset_N = np.zeros(len(known_NM), dtype=int) if rows.dataset is None else rows.dataset
    datasets = np.unique(dataset_N[counts_N])
    eligible_DM = np.array([_may_be_best(known_NM[counts_N & (dataset_N == dataset)]) for dataset in datasets])
    best = _best_of(rows.score[counts_N], np.asarray(eligible_DM.any(0)))
    counts_N &= known_NM[:, best]
    return Reference(best, rows.take(counts_N), dataset_N[counts_N], counts_N)


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
        bound = _upper_bound(loss_N[against.counts_N], _share(chosen, against.counts_N))
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


def compare(these: Answers, those: Answers) -> Comparison:
    """What choosing as for `these` gains over `those`, and costs of them.

    Both are known on the same rows, so the differences of each row are what is averaged. Intervals are those of a mean
    and, for the ratio, of its linearisation (delta method).
    """
    known_N = np.isfinite(these.score) & np.isfinite(those.score)
    priced_N = known_N & np.isfinite(these.usd) & np.isfinite(those.usd)
    share = _share(these, known_N)
    gain = _interval_of_mean((these.score - those.score)[known_N], share)
    return Comparison(known_N, priced_N, gain, _interval_of_ratio(these.usd[priced_N], those.usd[priced_N]), share)


def _may_be_best(known_KM: np.ndarray) -> np.ndarray:
    """The models that were measured on enough rows of a dataset; if none was, those measured on the most."""
    share_M = known_KM.mean(0)
    return np.asarray(share_M >= min(LEAST_SHARE, float(share_M.max())))


def _best_of(score_KM: np.ndarray, eligible_M: np.ndarray) -> int:
    """The one of these models that is worth the most.

    Minimises the sum of (score - row - model)^2 over what was measured. Rows drop out of the normal equations; of the
    solutions, the one of least norm is centred within each set of models that shared rows connect.
    """
    known_KM = np.isfinite(score_KM).astype(float)
    count_K1 = known_KM.sum(1, keepdims=True)
    filled_KM = np.where(known_KM > 0, score_KM, 0.0)
    above_row_KM = known_KM * (filled_KM - filled_KM.sum(1, keepdims=True) / count_K1)
    normal_MM = np.diag(known_KM.sum(0)) - (known_KM / count_K1).T @ known_KM
    worth_M = np.linalg.lstsq(normal_MM, above_row_KM.sum(0), rcond=1e-9)[0]
    # Equal models are in the catalogue's order, whatever the last digits say.
    return int(np.where(eligible_M, worth_M.round(9), -np.inf).argmax())


def _choices(rows: PricedRows, held_against_NM: np.ndarray) -> np.ndarray:
    """Who is chosen in each row, as requests choose; nobody of whom nothing is predicted."""
    quality_NM = np.where(np.isnan(rows.quality), -np.inf, rows.quality)
    return np.asarray((quality_NM - held_against_NM).argmax(1))


def _expected(rows: PricedRows, model_K: np.ndarray, best: int) -> Predicted:
    """What these choices would do against one model."""
    gain = _mean(_of(rows.quality, model_K) - rows.quality[:, best])
    usd_K, best_usd_K = _of(rows.expected_usd, model_K), rows.expected_usd[:, best]
    priced_K = np.isfinite(usd_K) & np.isfinite(best_usd_K)
    return Predicted(len(model_K), gain, _interval_of_ratio(usd_K[priced_K], best_usd_K[priced_K]).mean)


def _share(answers: Answers, rows_N: np.ndarray) -> float:
    """Of these rows, those on which the score is what is predicted; NaN without any."""
    return float(answers.is_predicted[rows_N].mean()) if rows_N.any() else math.nan


def _of(values_KM: np.ndarray, model_K: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values_KM, model_K[:, None], 1)[:, 0]


def _mean(values_K: np.ndarray) -> float:
    known_K = np.isfinite(values_K)
    return float(values_K[known_K].mean()) if known_K.any() else math.nan


def _upper_bound(loss_K: np.ndarray, predicted_share: float) -> float:
    if len(loss_K) < LEAST_ROWS:
        return math.inf
    with_one_lost = np.append(loss_K, 1.0)
    return float(with_one_lost.mean()) + Z_95_ONE_SIDED * _error_of_mean(with_one_lost, predicted_share)


def _error_of_mean(values_K: np.ndarray, predicted_share: float) -> float:
    """The standard error: of the rows, and of what is predicted on so many of them."""
    return math.hypot(float(values_K.std(ddof=1)) / math.sqrt(len(values_K)), PREDICTED_ERROR * predicted_share)


def _interval_of_mean(values_K: np.ndarray, predicted_share: float) -> Interval:
    if not len(values_K):
        return UNKNOWN
    mean, half = float(values_K.mean()), math.inf
    if len(values_K) > 1:
        half = Z_95 * _error_of_mean(values_K, predicted_share)
    return Interval(mean, mean - half, mean + half)


def _interval_of_ratio(part_K: np.ndarray, whole_K: np.ndarray) -> Interval:
    if not len(whole_K) or not whole_K.mean() > 0:
        return UNKNOWN
    ratio = float(part_K.mean() / whole_K.mean())
    half = _half(part_K - ratio * whole_K) / float(whole_K.mean())
    return Interval(ratio, max(0.0, ratio - half), ratio + half)


def _half(values_K: np.ndarray) -> float:
    """Half of the 95 % interval of a mean."""
    return Z_95 * float(values_K.std(ddof=1)) / math.sqrt(len(values_K)) if len(values_K) > 1 else math.inf
