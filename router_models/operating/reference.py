"""What losses are measured against: the best single model of a pool, found where not every model was measured.

How it works: rows come from several datasets, and not every model was measured in each of them, so means do not
compare: a score is taken to be what the row is worth plus what the model is worth, fitted by least squares. Two models
are thus compared on the rows they share, or through a third one; where all were measured everywhere, that is the mean.
Models that nothing connects are each compared with the average of their own peers. A row counts if the best single
model and another one of the pool were measured in it. That model is picked with hindsight, so a loss is rather over-
than understated.

A model that was not measured in a row is chosen there like any other, since requests choose it too; what it is worth is
then what is predicted: the outcome of the best single model, less the difference of their predicted qualities.

Legend of array suffixes: N rows, K rows that count, M models of the pool, D datasets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from router_models.operating.rows import PricedRows

# Of a dataset's rows, those on which a model must have been measured to be the best single one.
LEAST_SHARE = 0.5


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
        measured_K, ahead_K = picked(self.rows.score, model_K), picked(self.rows.quality, model_K)
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
        return self._spread(picked(self.rows.score, model_K), model_K, np.zeros(len(model_K), dtype=bool))

    def _spread(self, score_K: np.ndarray, model_K: np.ndarray, is_predicted_K: np.ndarray) -> Answers:
        """Over the rows that were given."""
        score_N, usd_N = np.full((2, len(self.counts_N)), math.nan)
        is_predicted_N = np.zeros(len(self.counts_N), dtype=bool)
        score_N[self.counts_N], usd_N[self.counts_N] = score_K, picked(self.rows.real_usd, model_K)
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

    def predicted_share(self, rows_N: np.ndarray) -> float:
        """Of these rows, those on which the score is what is predicted; NaN without any."""
        return float(self.is_predicted[rows_N].mean()) if rows_N.any() else math.nan


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


def picked(values_KM: np.ndarray, model_K: np.ndarray) -> np.ndarray:
    """In each row the value of the model that is chosen there [K]."""
    return np.take_along_axis(values_KM, model_K[:, None], 1)[:, 0]
