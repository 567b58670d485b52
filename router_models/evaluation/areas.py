"""Areas below cost-quality hulls (`frontier`) of one set, on all prompts and in each draw.

Legend of array suffixes: R draws, W settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from router_models.evaluation import metrics
from router_models.evaluation.bootstrap import Draws
from router_models.evaluation.frontier import Curve, Hulls, hulls
from router_models.evaluation.policies import ZERO

AXES = ("linear", "log")
Figure = tuple[float, np.ndarray]
"""A figure on all prompts, and in each draw [R]."""


def areas(
    curves: Mapping[str, Curve], singles: Curve, ends: tuple[float, float], draws: Draws
) -> dict[str, dict[str, Figure]]:
    """By axis and policy, the Zero router included, over the costs between `ends`.

    NaN where all single models cost the same, or one costs nothing on a logarithmic axis.
    """
    cheapest = int(singles.cost.mean(1).argmin())
    always = Curve(singles.quality[[cheapest]], singles.cost[[cheapest]])
    found = {name: hulls_in_draws(_beside(curve, always), draws) for name, curve in curves.items()}
    found[ZERO] = hulls_in_draws(singles, draws)
    return {axis: {name: _area(hull, ends, axis == "log") for name, hull in found.items()} for axis in AXES}


def above_zero_router(policy: Curve, singles: Curve, draws: Draws) -> Figure:
    """Quality of a policy without weights, minus that of the Zero router at the same mean cost."""
    zero = hulls_in_draws(singles, draws)
    means_R2 = draws.means(np.stack([policy.quality[0], policy.cost[0]]))
    quality_R = np.concatenate([[policy.quality[0].mean()], means_R2[:, 0]])
    difference_R = quality_R - zero.at(np.concatenate([[policy.cost[0].mean()], means_R2[:, 1]]))
    return float(difference_R[0]), difference_R[1:]


def hulls_in_draws(curve: Curve, draws: Draws) -> Hulls:
    """The hull on all prompts, then in each draw."""
    quality_RW, cost_RW = (
        np.concatenate([values.mean(1)[None], draws.means(values)]) for values in (curve.quality, curve.cost)
    )
    return hulls(cost_RW, quality_RW)


def average(parts: Sequence[Figure], weights: Sequence[int]) -> Figure:
    """Over the sets that have the figure; draws of different sets are independent."""
    kept = [(part, weight) for part, weight in zip(parts, weights, strict=True) if np.isfinite(part[0])]
    if not kept:
        return parts[0]
    total = sum(weight for _, weight in kept)
    mid = sum(weight * part[0] for part, weight in kept) / total
    return mid, np.sum([weight * part[1] for part, weight in kept], axis=0) / total


def _beside(curve: Curve, more: Curve) -> Curve:
    return Curve(np.concatenate([curve.quality, more.quality]), np.concatenate([curve.cost, more.cost]))


def _area(hull: Hulls, ends: tuple[float, float], logarithmic: bool) -> Figure:
    low, high = ends
    if high <= low * (1 + metrics.TIE) or (logarithmic and low <= 0):
        return float("nan"), np.full(len(hull.cost) - 1, np.nan)
    area_R = hull.area(low, high, logarithmic)
    return float(area_R[0]), area_R[1:]
