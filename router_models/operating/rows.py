"""An artifact's calibration rows restricted to a pool of models, at the prices of each. NumPy only.

Legend of array suffixes: N rows, M models of the pool.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router_models.storage.calibration import Calibration

TOKENS_PER_PRICE = 1_000_000


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
