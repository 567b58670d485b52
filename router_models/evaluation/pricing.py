"""What policies that predict quality do where costs count, on the prompts of one set whose costs are known.

How it works: a belief is what one policy expects of the pool: quality, costs, and whether it knows the prompt at all.
Unfamiliar prompts go to the best single model at every weight. Costs are multiples of what the best single model costs
on the prompts measured, so that sets can be put together; the linear penalty is the expected cost over the mean cost of
the best single model on the training rows, which does not move with what is measured.

Legend of array suffixes: S seeds, B prompts, P models of the pool, W settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router_models.evaluation.frontier import LINEAR, LOG, MOST_PENALTY, Curve, curve_of, sweep, together
from router_models.evaluation.held_out import Promise, keep_promise
from router_models.evaluation.metrics import Truth
from router_models.evaluation.policies import chosen_column, column_means, take
from router_models.evaluation.sets import Trial
from router_models.operating.rows import CostScale, PricedRows

# Above every quality: what decides on unfamiliar prompts.
CERTAIN = 1e9
# Of a policy's choices on a set; with more that have no cost, its mean cost would be that of the others.
MOST_UNPRICED = 0.01
# Weights on the linear penalty at which regret is reported.
REGRET_WEIGHTS = (0.0, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Belief:
    """What one policy expects of the pool."""

    quality: np.ndarray
    """[B, P]"""
    expected_usd: np.ndarray
    """[B, P]"""
    unfamiliar: np.ndarray
    """bool [B]"""

    def value(self, default_B: np.ndarray) -> np.ndarray:
        """Quality, replaced by certainty about the default model on unfamiliar prompts [B, P]."""
        is_default_BP = np.arange(self.quality.shape[1]) == default_B[:, None]
        return np.where(self.unfamiliar[:, None], np.where(is_default_BP, CERTAIN, 0.0), self.quality)

    def take(self, rows_B: np.ndarray) -> Belief:
        """The same of some of the prompts."""
        return Belief(self.quality[rows_B], self.expected_usd[rows_B], self.unfamiliar[rows_B])


@dataclass(frozen=True)
class Priced:
    """What costs are known for: prompts with at least one model that has an outcome and a cost."""

    rows: np.ndarray
    """Which of the prompts measured (bool [B]); all arrays below are over these."""
    unit_usd: float
    """Mean cost of the best single model here."""
    reference_usd: float
    """The same on the training rows: what the linear penalty is a multiple of."""
    curves: Mapping[str, Curve]
    """For each policy that predicts, over all of `frontier.SETTINGS`."""
    best: Curve
    """The best single model."""
    singles: Curve
    """Always one model, for each of the pool; the best single one where it is no candidate."""
    ends: tuple[float, float]
    """Mean cost of the cheapest and of the dearest single model."""
    regret: Mapping[str, Mapping[float, np.ndarray]]
    """Utility lost against the best candidate, per prompt [S, B], for each of `REGRET_WEIGHTS`."""
    promise: Promise
    column: np.ndarray
    """What the first seed of the router model chooses for each setting [W, B], unfamiliar or not."""


def price(trial: Trial, beliefs: Mapping[str, Sequence[Belief]], promising: str, scale: CostScale) -> Priced | None:
    """None where no cost is known, or the best single model is free or has none: nothing to compare costs with.

    `promising` is the policy whose promises are tested.
    """
    both_BP = trial.truth.available & np.isfinite(trial.truth.cost_usd)
    rows_B = both_BP.any(1)
    if not rows_B.any():
        return None
    best_B = chosen_column(np.tile(trial.standing, (int(rows_B.sum()), 1)), both_BP[rows_B])
    paid_BP = trial.truth.cost_usd[rows_B]
    if np.isnan(take(paid_BP, trial.default_column[rows_B])).mean() > MOST_UNPRICED:
        return None
    unit_usd = float(take(paid_BP, best_B).mean())
    reference_usd = _reference_usd(trial, unit_usd)
    if not unit_usd > 0 or not reference_usd > 0:
        return None
    truth = Truth(np.where(both_BP, trial.truth.score, np.nan)[rows_B], paid_BP)
    kept = {name: [belief.take(rows_B) for belief in seeds] for name, seeds in beliefs.items()}
    bench = _Bench(truth, best_B, unit_usd, reference_usd, scale)
    singles = bench.singles()
    mean_cost_P = singles.cost.mean(1)
    first = kept[promising][0]
    return Priced(
        rows=rows_B,
        unit_usd=unit_usd,
        reference_usd=reference_usd,
        curves={name: bench.curve(seeds) for name, seeds in kept.items()},
        best=bench.chosen(best_B[None]),
        singles=singles,
        ends=(float(mean_cost_P.min()), float(mean_cost_P.max())),
        regret={
            name: {weight: bench.regret(seeds, weight) for weight in REGRET_WEIGHTS} for name, seeds in kept.items()
        },
        promise=bench.promise(kept[promising]),
        column=sweep(first.quality, bench.penalties(first), truth.available),
    )


def _reference_usd(trial: Trial, otherwise_usd: float) -> float:
    """Mean cost of the best single model on the training rows; without those, on the prompts measured."""
    best = int(trial.standing.argmax())
    return float(column_means(trial.train_usd, empty=otherwise_usd)[best])


@dataclass(frozen=True)
class _Bench:
    """What choices are worth here."""

    truth: Truth
    best_B: np.ndarray
    unit_usd: float
    reference_usd: float
    scale: CostScale

    def penalties(self, belief: Belief) -> dict[str, np.ndarray]:
        return {LINEAR: belief.expected_usd / self.reference_usd, LOG: self.scale.share(belief.expected_usd)}

    def chosen(self, column_WB: np.ndarray) -> Curve:
        return curve_of(column_WB, self.truth.score, self.truth.cost_usd / self.unit_usd)

    def curve(self, seeds: Sequence[Belief]) -> Curve:
        swept = [sweep(b.value(self.best_B), self.penalties(b), self.truth.available) for b in seeds]
        return together([self.chosen(column_WB) for column_WB in swept])

    def singles(self) -> Curve:
        known_PB, always = self.truth.available.T, self.chosen(self.best_B)
        cost_PB = self.truth.cost_usd.T / self.unit_usd
        return Curve(np.where(known_PB, self.truth.score.T, always.quality), np.where(known_PB, cost_PB, always.cost))

    def regret(self, seeds: Sequence[Belief], weight: float) -> np.ndarray:
        """Utility of the best candidate minus that of the choice, with real costs over the reference [S, B]."""
        real_BP = self.truth.score - weight * self.truth.cost_usd / self.reference_usd
        utility_BP = np.where(self.truth.available, real_BP, -np.inf)
        lost = []
        for belief in seeds:
            penalty_BP = weight * np.nan_to_num(self.penalties(belief)[LINEAR], nan=MOST_PENALTY)
            column_B = chosen_column(belief.value(self.best_B) - penalty_BP, self.truth.available)
            lost.append(utility_BP.max(1) - take(utility_BP, column_B))
        return np.stack(lost)

    def promise(self, seeds: Sequence[Belief]) -> Promise:
        truth = self.truth
        rows = [PricedRows(b.value(self.best_B), truth.score, b.expected_usd, truth.cost_usd) for b in seeds]
        return keep_promise(rows, self.best_B, self.scale)
