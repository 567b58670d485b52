"""Intervals by resampling: prompts always, training seeds too where there are several.

Legend of array suffixes: S seeds, B prompts, R draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

DRAWS = 2_000
# The same prompts are drawn for every quantity over the same prompts, so differences are paired.
SEED = 20_230_811
# Draws at a time: bounds memory at 250 x prompts numbers.
CHUNK = 250


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, and over how many prompts; NaN where there is none."""

    mean: float
    low: float
    high: float
    prompts: int

    def as_dict(self) -> Mapping[str, float | None]:
        """For JSON, which has no NaN."""
        return {name: value if value == value else None for name, value in asdict(self).items()}


def estimate(values_SB: np.ndarray, draws: int = DRAWS) -> Estimate:
    """Mean over seeds and prompts; prompts with NaN for any seed are left out."""
    values_SB = np.atleast_2d(values_SB)
    values_SB = values_SB[:, np.isfinite(values_SB).all(0)]
    seeds, prompts = values_SB.shape
    if prompts == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mean_RS = _resampled(prompts, draws) @ values_SB.T.astype(np.float32) / prompts
    picked_RS = np.random.default_rng(SEED).integers(seeds, size=(draws, seeds))
    mean_R = np.take_along_axis(mean_RS, picked_RS, axis=1).mean(1)
    low, high = np.quantile(mean_R, (0.025, 0.975))
    return Estimate(float(values_SB.mean()), float(low), float(high), prompts)


@lru_cache(maxsize=4)
def _resampled(prompts: int, draws: int) -> np.ndarray:
    """How often each prompt is in each draw [R, B]."""
    rng = np.random.default_rng(SEED)
    counts_RB = np.empty((draws, prompts), np.float32)
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        rows = rng.integers(prompts, size=(size, prompts)) + prompts * np.arange(size)[:, None]
        counts_RB[start : start + size] = np.bincount(rows.ravel(), minlength=size * prompts).reshape(size, prompts)
    return counts_RB
