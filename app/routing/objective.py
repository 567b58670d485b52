"""Which of the eligible models is the most useful, which are worth considering, and what would change the choice.

    U(m) = quality(m) − Σ_j weight_j · share_j(m)

Shares lie on fixed scales, so a model's utility does not depend on which others there are. Equal utilities are in the
catalogue's order. A model without a predicted quality has no utility and comes after all that have one.

Legend of array suffixes: M models of the catalogue, E eligible ones, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.domain.dimensions import MOST_WEIGHT, Floats, Truths
from app.routing.estimates import Expected

Positions = npt.NDArray[np.intp]

WHEN_NOTHING_IS_WEIGHED = ("cost",)
"""The dimensions of the Pareto set of a request without weights."""


@dataclass(frozen=True, slots=True)
class Flip:
    """The smallest change of one weight after which another model would be chosen."""

    dimension: str
    weight: float
    """As it is."""
    flips_at: float
    """Beyond this the other one is chosen."""
    rises: bool
    model: int


def utility(expected: Expected, weights: Mapping[str, float]) -> Floats:
    """[M]; NaN for models without a predicted quality."""
    utility_M = expected.quality
    for name, weight in weights.items():
        if weight:
            utility_M = utility_M - weight * expected.share(name)
    return utility_M


def ranked(utility_M: Floats, eligible_M: Truths) -> Positions:
    """Positions of the eligible models, most useful first."""
    eligible_E = eligible_M.nonzero()[0]
    # NaN sorts last.
    if len(eligible_E) == len(utility_M):
        return (-utility_M).argsort(-1, "stable")
    return eligible_E[(-utility_M[eligible_E]).argsort(kind="stable")]


def pareto(expected: Expected, eligible_M: Truths, weights: Mapping[str, float]) -> list[int]:
    """Eligible models that no other beats in quality and every weighed dimension, best quality first.

    Only the order of shares matters here, so values outside of a scale count as its end.
    """
    weighed = [name for name, weight in weights.items() if weight] or list(WHEN_NOTHING_IS_WEIGHED)
    eligible_E = (eligible_M & ~np.isnan(expected.quality)).nonzero()[0]
    goals_ED = np.stack([-expected.quality, *(expected.share(name) for name in weighed)], axis=1)[eligible_E]
    front: list[int] = []
    # In this order nobody is beaten by somebody behind him.
    for position in np.lexsort(goals_ED.T[::-1]):
        ahead_FD, own_D = goals_ED[front], goals_ED[position]
        beaten = (ahead_FD <= own_D).all(axis=1) & (ahead_FD < own_D).any(axis=1)
        if not beaten.any():
            front.append(int(position))
    return [int(eligible_E[position]) for position in front]


def smallest_flip(expected: Expected, order_E: Sequence[int] | Positions, weights: Mapping[str, float]) -> Flip | None:
    """What single weight to change, and past which value, for another model to be chosen; None where none would do.

    With j against the chosen c, a change d of the weight makes j win where d · (share_c − share_j) > U_c − U_j. Of all
    models and both directions the smallest change counts; at it, the model it was computed for is in front.
    """
    chosen, others = int(order_E[0]), np.asarray(order_E[1:], dtype=np.intp)
    utility_M = utility(expected, weights)
    others = others[~np.isnan(utility_M[others])]
    if not len(others) or np.isnan(utility_M[chosen]):
        return None
    gap_E = np.maximum(utility_M[chosen] - utility_M[others], 0.0)
    flips: list[tuple[float, Flip]] = []
    for name in expected.table.vocabulary.dimension:
        share_M, weight = expected.share(name), weights.get(name, 0.0)
        gain_E = share_M[chosen] - share_M[others]
        moved = gain_E.nonzero()[0]
        change_E = gap_E[moved] / gain_E[moved]
        # A weight of 0 does not go lower.
        possible = np.where(gain_E[moved] > 0, weight + change_E < MOST_WEIGHT, weight + change_E > 0).nonzero()[0]
        if len(possible):
            # Of models that draw level at the same weight, the steepest is in front beyond it.
            first = possible[np.lexsort((-np.abs(gain_E[moved][possible]), np.abs(change_E[possible])))[0]]
            change, model = float(change_E[first]), int(others[moved[first]])
            flips.append((abs(change), Flip(name, weight, weight + change, bool(gain_E[moved[first]] > 0), model)))
    return min(flips, key=lambda each: each[0])[1] if flips else None
