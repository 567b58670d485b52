"""Intervals by resampling: prompts always, training seeds too where there are several.

How it works: one `Draws` per set says how often each prompt is in each of 2,000 draws. Every quantity over the same
prompts uses the same draws, so differences between policies are paired. Figures over several sets use the draws of
each (stratified): a set's share of the prompts does not vary.

Legend of array suffixes: S seeds, B prompts, R draws, K quantities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2_000
SEED = 20_230_811
# Draws at a time: bounds memory at 250 x prompts numbers.
CHUNK = 250


class Estimate(NamedTuple):
    """A figure between the ends of its 95 % interval; NaN where there is none."""

    low: float
    mid: float
    high: float

    def as_list(self) -> list[float] | None:
        """[low, mid, high] for JSON, which has no NaN."""
        return None if np.isnan(self.mid) else [float(value) for value in self]


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


class Draws:
    """How often each prompt is in each draw [R, B]."""

    def __init__(self, counts_RB: np.ndarray) -> None:
        self.counts_RB = counts_RB

    @classmethod
    def of(cls, prompts: int, place: int = 0, draws: int = DRAWS) -> Draws:
        """Draws of one set; sets at different places are drawn independently."""
        return cls(_counts(prompts, draws, place))

    @classmethod
    def joined(cls, parts: Sequence[Draws]) -> Draws:
        """Draws of several sets, in this order."""
        return parts[0] if len(parts) == 1 else cls(np.concatenate([part.counts_RB for part in parts], axis=1))

    def only(self, rows_B: np.ndarray) -> Draws:
        """The same draws of some of the prompts."""
        return self if rows_B.all() else Draws(self.counts_RB[:, rows_B])

    def means(self, values_KB: np.ndarray) -> np.ndarray:
        """The mean of each quantity in each draw [R, K]; NaN in a draw without any of the prompts."""
        total_R1 = self.counts_RB.sum(1, keepdims=True)
        total_R1[total_R1 == 0] = np.nan
        means_RK: np.ndarray = self.counts_RB @ values_KB.T.astype(np.float32) / total_R1
        return means_RK.astype(np.float64)

    def mean(self, values_SB: np.ndarray) -> Estimate:
        """Mean over seeds and prompts, both resampled; prompts with NaN for any seed are left out."""
        values_SB = np.atleast_2d(values_SB)
        known_B = np.isfinite(values_SB).all(0)
        if not known_B.any():
            return NOTHING
        mean_RS = self.only(known_B).means(values_SB[:, known_B])
        return interval(_over_seeds(mean_RS), float(values_SB[:, known_B].mean()))


class Against(NamedTuple):
    """Values of one set's prompts, and those that their mean is to be divided by the mean of."""

    draws: Draws
    values_SB: np.ndarray
    unit_B: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Which prompts count (bool [B]): those with a unit, and with a value for every seed."""
        known_B: np.ndarray = np.isfinite(self.values_SB).all(0) & np.isfinite(self.unit_B)
        return known_B


def ratio(sets: Sequence[Against]) -> Estimate:
    """Mean of values / mean of units, both of the same draws, averaged over sets by their numbers of values.

    Both are over the prompts that have both. Seeds are resampled too. Sets without such prompts are left out.
    """
    counted = [each for each in sets if each.known.any()]
    if not counted:
        return NOTHING
    share = np.array([each.known.sum() for each in counted], dtype=float)
    share /= share.sum()
    found = [_ratio(each) for each in counted]
    ratio_RS = sum(part * each_RS for part, (_, each_RS) in zip(share, found, strict=True))
    return interval(_over_seeds(np.asarray(ratio_RS)), float(share @ [mid for mid, _ in found]))


def _ratio(against: Against) -> tuple[float, np.ndarray]:
    """On all prompts, and in each draw [R, S]; NaN in a draw whose units come to nothing."""
    known_B = against.known
    values_SB, unit_1B = against.values_SB[:, known_B], against.unit_B[None, known_B]
    unit_R1, mean_RS = (against.draws.only(known_B).means(each) for each in (unit_1B, values_SB))
    return float(values_SB.mean() / unit_1B.mean()), mean_RS / np.where(unit_R1 > 0, unit_R1, np.nan)


def _over_seeds(value_RS: np.ndarray) -> np.ndarray:
    """The mean over seeds drawn anew in each draw [R]."""
    draws, seeds = value_RS.shape
    picked_RS = np.random.default_rng(SEED).integers(seeds, size=(draws, seeds))
    mean_R: np.ndarray = np.take_along_axis(value_RS, picked_RS, axis=1).mean(1)
    return mean_R


def interval(value_R: np.ndarray, mid: float) -> Estimate:
    """A figure with the 95 % interval of what it is in the draws; draws in which it is undefined are left out."""
    value_R = value_R[np.isfinite(value_R)]
    if not len(value_R) or not np.isfinite(mid):
        return NOTHING
    low, high = np.quantile(value_R, (0.025, 0.975))
    return Estimate(float(low), float(mid), float(high))


def over_repetitions(value_R: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of a figure over repetitions, and where 95 % of them lie."""
    values = np.asarray(value_R, dtype=float)
    return interval(values, float(values.mean())) if len(values) else NOTHING


def _counts(prompts: int, draws: int, place: int) -> np.ndarray:
    """How often each prompt is in each draw [R, B]; `place` keeps sets of one size apart."""
    rng = np.random.default_rng((SEED, place))
    counts_RB = np.empty((draws, prompts), np.float32)
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        rows = rng.integers(prompts, size=(size, prompts)) + prompts * np.arange(size)[:, None]
        counts_RB[start : start + size] = np.bincount(rows.ravel(), minlength=size * prompts).reshape(size, prompts)
    return counts_RB
