"""Quality against cost: what weights on cost do, the hull of it, the area below, and the Zero router.

How it works: a policy that predicts quality takes the model with the largest q - weight * penalty. Two penalties are
swept: the expected cost as a multiple of a fixed reference ("linear"), and the gateway's position on a logarithmic
scale ("log"). Every weight gives a mean cost and a mean quality. Between two such points a coin toss reaches the line,
so what a policy reaches is the upper concave hull of its points; it never falls, because nobody has to spend more. The
cheapest single model belongs to every hull: whoever knows the prices can always take it.

The area below a hull (AIQ) is the mean quality over the costs from the cheapest to the dearest single model. The range
stays fixed while prompts are resampled; left of a hull's first point its quality is held. The Zero router (Hu et al.
2024, RouterBench) tosses coins between single models, so its hull is theirs. Hulls are drawn anew in each resampling.

Legend of array suffixes: B prompts, M models, W weights, R draws, H vertices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from router_models.evaluation.policies import chosen_column, take

LINEAR, LOG = "linear", "log"
# 0, then from where a doubled cost is worth a thousandth of quality to where the cheapest model always wins.
_LINEAR_WEIGHTS = (0.0, *(float(f"{weight:.4g}") for weight in np.geomspace(1e-3, 100.0, 60)))
_LOG_WEIGHTS = tuple(float(f"{weight:.4g}") for weight in np.geomspace(0.005, 20.0, 60))
# (penalty, weight); no weight at all is there once.
SETTINGS = (*((LINEAR, weight) for weight in _LINEAR_WEIGHTS), *((LOG, weight) for weight in _LOG_WEIGHTS))
# Worse than any: the penalty of a model whose cost is not known.
MOST_PENALTY = 1e3


@dataclass(frozen=True)
class Curve:
    """What a policy gives on every prompt, for every setting [W, B]; W is 1 for a policy without weights."""

    quality: np.ndarray
    cost: np.ndarray


def sweep(value_BM: np.ndarray, penalties: Mapping[str, np.ndarray], available_BM: np.ndarray) -> np.ndarray:
    """The column chosen for each of `SETTINGS` [W, B]; `penalties` holds [B, M] for both forms, NaN is the worst."""
    known = {form: np.nan_to_num(penalty, nan=MOST_PENALTY) for form, penalty in penalties.items()}
    return np.stack([chosen_column(value_BM - weight * known[form], available_BM) for form, weight in SETTINGS])


def curve_of(column_WB: np.ndarray, score_BM: np.ndarray, cost_BM: np.ndarray) -> Curve:
    """What choosing these columns gives."""
    return Curve(take(score_BM, column_WB), take(cost_BM, column_WB))


def together(seeds: list[Curve]) -> Curve:
    """A toss between policies: the mean of what they give."""
    return Curve(np.mean([curve.quality for curve in seeds], axis=0), np.mean([curve.cost for curve in seeds], axis=0))


@dataclass(frozen=True)
class Hulls:
    """Upper concave hulls of R clouds of points, rising; the last vertex is repeated up to H [R, H]."""

    cost: np.ndarray
    quality: np.ndarray

    def at(self, cost_R: np.ndarray) -> np.ndarray:
        """Quality at a cost [R]; the first vertex's below the hull, the last one's above."""
        rows = zip(cost_R, self.cost, self.quality, strict=True)
        return np.array([np.interp(cost, cost_H, quality_H) for cost, cost_H, quality_H in rows])

    def area(self, low: float, high: float, logarithmic: bool = False) -> np.ndarray:
        """Mean quality over the costs in [low, high] [R], each cost counting alike, or each ratio of costs."""
        cost_RH, quality_RH = _with_ends(self, low, high)
        width_RH = np.diff(cost_RH, axis=1)
        slope_RH = np.divide(np.diff(quality_RH, axis=1), width_RH, out=np.zeros_like(width_RH), where=width_RH > 0)
        left_RH, right_RH = np.clip(cost_RH[:, :-1], low, high), np.clip(cost_RH[:, 1:], low, high)
        start_RH = quality_RH[:, :-1] - slope_RH * cost_RH[:, :-1]
        if logarithmic:
            area_RH = start_RH * np.log(right_RH / left_RH) + slope_RH * (right_RH - left_RH)
        else:
            area_RH = start_RH * (right_RH - left_RH) + slope_RH * (right_RH**2 - left_RH**2) / 2
        mean_R: np.ndarray = area_RH.sum(1) / (np.log(high / low) if logarithmic else high - low)
        return mean_R


def hulls(cost_RW: np.ndarray, quality_RW: np.ndarray) -> Hulls:
    """The hulls of R clouds of W points, all at once (Andrew's monotone chain, one step for all clouds)."""
    order_RW = np.lexsort((-quality_RW, cost_RW), axis=1)
    x_RW, y_RW = (np.take_along_axis(values, order_RW, axis=1).astype(float) for values in (cost_RW, quality_RW))
    clouds, points = x_RW.shape
    kept_RW, size_R, row_R = np.zeros((clouds, points), dtype=int), np.zeros(clouds, dtype=int), np.arange(clouds)
    for point in range(points):
        active_R = row_R[size_R >= 2]
        while len(active_R):
            last_R = kept_RW[active_R, size_R[active_R] - 1]
            before_R = kept_RW[active_R, size_R[active_R] - 2]
            active_R = active_R[_is_below(x_RW, y_RW, active_R, before_R, last_R, point)]
            size_R[active_R] -= 1
            active_R = active_R[size_R[active_R] >= 2]
        kept_RW[row_R, size_R] = point
        size_R += 1
    return _rising(x_RW, y_RW, kept_RW, size_R)


def _is_below(
    x_RW: np.ndarray, y_RW: np.ndarray, row_R: np.ndarray, before_R: np.ndarray, last_R: np.ndarray, point: int
) -> np.ndarray:
    """Whether the last vertex lies on or below the line from the one before it to the new point."""
    x0_R, y0_R = x_RW[row_R, before_R], y_RW[row_R, before_R]
    rise_to_last_R = (y_RW[row_R, last_R] - y0_R) * (x_RW[row_R, point] - x0_R)
    below_R: np.ndarray = rise_to_last_R <= (y_RW[row_R, point] - y0_R) * (x_RW[row_R, last_R] - x0_R)
    return below_R


def _rising(x_RW: np.ndarray, y_RW: np.ndarray, kept_RW: np.ndarray, size_R: np.ndarray) -> Hulls:
    """The part up to the highest vertex; what follows repeats it."""
    widest = int(size_R.max())
    place_H = np.arange(widest)
    used_RH = np.where(place_H < size_R[:, None], kept_RW[:, :widest], 0)
    cost_RH, quality_RH = np.take_along_axis(x_RW, used_RH, axis=1), np.take_along_axis(y_RW, used_RH, axis=1)
    top_R1 = np.where(place_H < size_R[:, None], quality_RH, -np.inf).argmax(1)[:, None]
    shown_RH = np.minimum(place_H, top_R1)
    return Hulls(np.take_along_axis(cost_RH, shown_RH, axis=1), np.take_along_axis(quality_RH, shown_RH, axis=1))


def _with_ends(hull: Hulls, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """The vertices with the hull held flat to both ends of a range."""
    first_R1, last_R1 = np.minimum(hull.cost[:, :1], low), np.maximum(hull.cost[:, -1:], high)
    quality = np.concatenate([hull.quality[:, :1], hull.quality, hull.quality[:, -1:]], axis=1)
    return np.concatenate([first_R1, hull.cost, last_R1], axis=1), quality
