"""What a chosen weight on cost is worth on prompts it was not chosen on: cost at a quality, and the promised loss.

How it works: the prompts of each set are halved at random, by seed. On one half a setting is chosen, on the other it
is measured, and that is repeated. `cost_at_quality` chooses the cheapest setting whose quality reaches a target, and
the best one where none does; the target is the quality of the best single model on that same half, times a factor or
less a loss. `keep_promise` chooses as the gateway does for `max_quality_loss`: the largest weight on the logarithmic
scale that is safe with 95 % confidence, and the best single model where none is.

Legend of array suffixes: B prompts, M models, W settings, R repetitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from router_models.evaluation.bootstrap import SEED, over_repetitions
from router_models.evaluation.frontier import LINEAR, LOG, SETTINGS, Curve
from router_models.evaluation.policies import chosen_column, take
from router_models.operating.curve import WEIGHTS, largest_weight, operating_curve
from router_models.operating.rows import CostScale, PricedRows

HALVINGS = 40
PROMISES = 100
PROMISED_LOSS = 0.01
BEST, MINUS_1, MINUS_2 = "at_best_single", "at_minus_1_point", "at_minus_2_points"
# Share of the best single model's quality that is asked for, and what is taken off it.
TARGETS = {
    BEST: (1.0, 0.0),
    "at_98_percent": (0.98, 0.0),
    "at_95_percent": (0.95, 0.0),
    MINUS_1: (1.0, 0.01),
    MINUS_2: (1.0, 0.02),
}
UNION = "union"
FORMS = {
    UNION: np.ones(len(SETTINGS), dtype=bool),
    LINEAR: np.array([form == LINEAR for form, _ in SETTINGS]),
    # No weight at all is part of both.
    LOG: np.array([form == LOG or weight == 0 for form, weight in SETTINGS]),
}


def halves(sizes: Sequence[int], repetitions: int) -> Iterator[np.ndarray]:
    """Which prompts are in the half that is chosen on (bool [B]), for each repetition; every set is halved."""
    for repetition in range(repetitions):
        rng = np.random.default_rng((SEED, repetition))
        yield np.concatenate([rng.permutation(size) < (size + 1) // 2 for size in sizes])


def cost_at_quality(curve: Curve, best: Curve, sizes: Sequence[int], form: str = UNION) -> dict[str, Any]:
    """For every target: cost as a multiple of the best single model's, and the quality above it that was reached.

    `best` has one setting; `sizes` are the numbers of prompts of the sets the curves are made of. All figures
    [low, mean, high] over repetitions. `reached` is the share of repetitions with a setting that met the target.
    """
    settings = np.flatnonzero(FORMS[form])
    found: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in TARGETS}
    for half_B in halves(sizes, HALVINGS):
        if half_B.all():
            continue
        chosen_W = (curve.quality[settings] @ half_B / half_B.sum(), curve.cost[settings] @ half_B / half_B.sum())
        single = float(best.quality[0, half_B].mean())
        for name, (factor, less) in TARGETS.items():
            setting, reached = cheapest_setting(*chosen_W, factor * single - less)
            ratio = curve.cost[settings[setting], ~half_B].mean() / best.cost[0, ~half_B].mean()
            above = curve.quality[settings[setting], ~half_B].mean() - best.quality[0, ~half_B].mean()
            found[name].append((float(ratio), float(above), reached))
    return {name: _summary(rows) for name, rows in found.items()}


def cheapest_setting(quality_W: np.ndarray, cost_W: np.ndarray, target: float) -> tuple[int, bool]:
    """The cheapest setting that reaches a quality, and True; the best one and False where none does."""
    enough = np.flatnonzero(quality_W >= target)
    if not len(enough):
        return int(quality_W.argmax()), False
    return int(enough[cost_W[enough].argmin()]), True


def _summary(rows: list[tuple[float, float, bool]]) -> dict[str, Any]:
    ratio, above, reached = np.array(rows, dtype=float).reshape(-1, 3).T
    return {
        "cost_ratio": over_repetitions(ratio).as_list(),
        "quality_minus_best_single": over_repetitions(above).as_list(),
        "reached": float(reached.mean()) if len(reached) else None,
    }


@dataclass(frozen=True)
class Promise:
    """What asking for `max_quality_loss` did on the other half, in each repetition [R]."""

    loss: np.ndarray
    """Mean score of the best single model minus that of the choice."""
    cost_ratio: np.ndarray
    """Cost as a multiple of the best single model's."""
    weighted: np.ndarray
    """Whether a weight was found that is safe, so that anything could be saved."""
    prompts: int

    def figures(self) -> dict[str, Any]:
        """`kept` is the share of repetitions in which the loss was not above what was asked for; None without any."""
        return {
            "max_quality_loss": PROMISED_LOSS,
            "repetitions": len(self.loss),
            "kept": float((self.loss <= PROMISED_LOSS).mean()) if len(self.loss) else None,
            "weight_found": float(self.weighted.mean()) if len(self.weighted) else None,
            "loss": over_repetitions(self.loss).as_list(),
            "cost_ratio": over_repetitions(self.cost_ratio).as_list(),
        }


def pooled_promise(parts: Sequence[Promise]) -> Promise:
    """Every set with a weight of its own; losses and costs averaged over all prompts, repetition by repetition.

    Sets too small for repetitions are left out.
    """
    parts = [part for part in parts if len(part.loss)] or parts[:1]
    share = np.array([part.prompts for part in parts], dtype=float)
    share /= share.sum()
    mean = [sum(s * getattr(part, name) for s, part in zip(share, parts, strict=True)) for name in _AVERAGED]
    return Promise(mean[0], mean[1], np.any([part.weighted for part in parts], axis=0), sum(p.prompts for p in parts))


_AVERAGED = ("loss", "cost_ratio")


def keep_promise(seeds: Sequence[PricedRows], best_B: np.ndarray, scale: CostScale) -> Promise:
    """Choose a weight on one half, measure it on the other; several seeds take turns.

    `best_B` is the best single model's column on each prompt. One prompt has no other half, and no repetitions.
    """
    if len(best_B) < 2:
        return Promise(np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool), len(best_B))
    columns_SWB = [_columns(rows, scale) for rows in seeds]
    known_BM, rows = np.isfinite(seeds[0].score), seeds[0]
    single, single_usd = take(rows.score, best_B), take(rows.real_usd, best_B)
    loss, ratio, weighted = [], [], []
    for repetition, half_B in enumerate(halves([len(known_BM)], PROMISES)):
        seed, other_B = repetition % len(seeds), ~half_B
        weight = largest_weight(operating_curve(seeds[seed].take(half_B), scale), PROMISED_LOSS)
        column_B = best_B if weight is None else columns_SWB[seed][WEIGHTS.index(weight)]
        loss.append(float((single - take(rows.score, column_B))[other_B].mean()))
        ratio.append(float(take(rows.real_usd, column_B)[other_B].mean() / single_usd[other_B].mean()))
        weighted.append(weight is not None)
    return Promise(np.array(loss), np.array(ratio), np.array(weighted), len(known_BM))


def _columns(rows: PricedRows, scale: CostScale) -> np.ndarray:
    """The column chosen for each weight of the operating curve [W, B]."""
    share_BM, known_BM = scale.share(rows.expected_usd), np.isfinite(rows.score)
    return np.stack([chosen_column(rows.quality - weight * share_BM, known_BM) for weight in WEIGHTS])
