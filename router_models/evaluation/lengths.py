"""How well answer lengths are predicted, against knowing only each model's usual length.

Legend of array suffixes: L outcomes with a known length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Quantiles of the normal distribution that hold 80 and 90 %.
_Z_80, _Z_90 = 1.2816, 1.6449


@dataclass(frozen=True)
class Lengths:
    """Predicted and real answer lengths in tokens, one entry per outcome [L]; all above 0."""

    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """Ends of the 90 % interval."""
    real: np.ndarray
    usual_log: np.ndarray
    """Mean log length of the model's answers on the training rows; NaN where there are none."""

    @classmethod
    def of(
        cls, predicted_BM: np.ndarray, interval_BM2: np.ndarray, real_BM: np.ndarray, usual_log_M: np.ndarray
    ) -> Lengths:
        """Those outcomes that have a length, and a prediction of it."""
        known = np.isfinite(real_BM) & np.isfinite(predicted_BM) & (real_BM > 0) & (predicted_BM > 0)
        usual_BM = np.broadcast_to(usual_log_M, real_BM.shape)
        ends = [np.maximum(interval_BM2[known][:, side], 1e-9) for side in (0, 1)]
        return cls(predicted_BM[known], ends[0], ends[1], real_BM[known], usual_BM[known])

    @classmethod
    def joined(cls, parts: list[Lengths]) -> Lengths:
        """All outcomes of several sets."""
        names = ("predicted", "low", "high", "real", "usual_log")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def figures(self) -> Mapping[str, Any]:
        """Errors as ratios to those of each model's usual length (1 is no better), and coverage of the intervals.

        A predicted mean lies above the middle of a skewed distribution, so it is not the best guess of a log; the
        geometric middle of the interval is judged beside it. The 80 % interval is derived: the 90 % one, narrowed in
        logarithms around that middle as for a normal distribution.
        """
        if not len(self.real):
            return {"outcomes": 0}
        middle = (np.log(self.low) + np.log(self.high)) / 2
        half_80 = (np.log(self.high) - np.log(self.low)) / 2 * _Z_80 / _Z_90
        return {
            "outcomes": len(self.real),
            "log_error_of_mean": self._ratios(np.log(self.predicted)),
            "log_error_of_middle": self._ratios(middle),
            "median_factor_off": float(np.exp(np.median(np.abs(np.log(self.predicted / self.real))))),
            "inside_90_percent_interval": float(((self.real >= self.low) & (self.real <= self.high)).mean()),
            "inside_derived_80_percent_interval": float((np.abs(np.log(self.real) - middle) <= half_80).mean()),
            "mean_predicted_over_mean_real": float(self.predicted.mean() / self.real.mean()),
        }

    def _ratios(self, guess_L: np.ndarray) -> Mapping[str, float | None]:
        known = np.isfinite(self.usual_log)
        if not known.any():
            return {"rmse_ratio": None, "mae_ratio": None}
        ours = guess_L[known] - np.log(self.real[known])
        usual = self.usual_log[known] - np.log(self.real[known])
        rmse, mae = np.sqrt(np.mean(usual**2)), np.mean(np.abs(usual))
        return {
            "rmse_ratio": float(np.sqrt(np.mean(ours**2)) / rmse) if rmse else None,
            "mae_ratio": float(np.mean(np.abs(ours)) / mae) if mae else None,
        }
