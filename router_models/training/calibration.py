"""What is fitted on the rows set aside: the map of the pool, and how wide an interval of quality must be.

Legend of array suffixes: B prompts, M models, S members, G groups of like prompts.
"""

from __future__ import annotations

import numpy as np

from router_models.tryage import sigmoid

NEWTON_ROUNDS = 50
SMALLEST_STEP = 1e-8
# Groups of like prompts on which predicted and observed rates are compared. 30 prompts give a rate to within 9 points
# (one standard deviation), which is known and subtracted.
GROUP_PROMPTS = 30


def fit_platt(logit_BM: np.ndarray, score_BM: np.ndarray) -> tuple[float, float]:
    """Slope and offset of sigmoid(slope * logit + offset), one map for all models; (1, 0) if it does not help.

    It is kept if a map fitted on one half of the rows has the smaller loss on the other, both ways together.
    """
    halves = [np.arange(len(logit_BM)) % 2 == side for side in (0, 1)]
    gain = 0.0
    for fitted, judged in (halves, halves[::-1]):
        slope, offset = _newton(logit_BM[fitted], score_BM[fitted])
        plain, mapped = logit_BM[judged], slope * logit_BM[judged] + offset
        gain += _loss(plain, score_BM[judged]) - _loss(mapped, score_BM[judged])
    return _newton(logit_BM, score_BM) if gain > 0 else (1.0, 0.0)


def _newton(logit_BM: np.ndarray, score_BM: np.ndarray) -> tuple[float, float]:
    known_BM = np.isfinite(score_BM)
    inputs = np.stack([logit_BM[known_BM], np.ones(known_BM.sum())], axis=1)
    target, slope_offset = score_BM[known_BM], np.array([1.0, 0.0])
    # A little ridge towards the identity keeps it defined when all outcomes are alike.
    ridge = np.eye(2)

    def loss(candidate: np.ndarray) -> float:
        value = inputs @ candidate
        away = candidate - np.array([1.0, 0.0])
        return float(np.sum(np.logaddexp(0, value) - target * value) + 0.5 * away @ away)

    for _ in range(NEWTON_ROUNDS):
        rate = sigmoid(inputs @ slope_offset)
        gradient = inputs.T @ (rate - target) + ridge @ (slope_offset - np.array([1.0, 0.0]))
        curvature = inputs.T @ (inputs * (rate * (1 - rate))[:, None]) + ridge
        step = np.linalg.solve(curvature, gradient)
        # A full step from confident predictions overshoots: the curvature there is next to nothing.
        while loss(slope_offset - step) > loss(slope_offset) and np.abs(step).max() > SMALLEST_STEP:
            step = step / 2
        slope_offset = slope_offset - step
        if np.abs(step).max() <= SMALLEST_STEP:
            break
    # A map that falls would turn the order of models around; one that explodes has met separable rows.
    return float(np.clip(slope_offset[0], 0.1, 5.0)), float(np.clip(slope_offset[1], -3.0, 3.0))


def _loss(logit_BM: np.ndarray, score_BM: np.ndarray) -> float:
    known_BM = np.isfinite(score_BM)
    value, target = logit_BM[known_BM], score_BM[known_BM]
    return float(np.mean(np.logaddexp(0, value) - target * value)) if target.size else 0.0


def fit_interval(
    quality_BM: np.ndarray, disagreement_BM: np.ndarray, score_BM: np.ndarray, group_B: np.ndarray
) -> tuple[float, float]:
    """Squared error of the predicted rate as floor + slope * the members' variance; neither is negative.

    In every group of like prompts the observed rate of a model differs from the predicted mean by the model's error and
    by chance. Chance is known: mean q (1 - q) / n. What is left of the squared difference is regressed on the mean
    disagreement (method of moments, pooled over models, each group weighted by its size). One standard error of that
    fit is added to the floor: few rows cannot show that predictions are exact.
    """
    excess, spread, weight = [], [], []
    for group in np.unique(group_B):
        rows = group_B == group
        for model in range(quality_BM.shape[1]):
            known = rows & np.isfinite(score_BM[:, model])
            count = int(known.sum())
            if count < 2:
                continue
            quality, score = quality_BM[known, model], score_BM[known, model]
            chance = float(np.mean(quality * (1 - quality))) / count
            excess.append(float(np.mean(score) - np.mean(quality)) ** 2 - chance)
            spread.append(float(np.mean(disagreement_BM[known, model])))
            weight.append(float(count))
    return _least_squares(np.array(excess), np.array(spread), np.array(weight))


def _least_squares(excess: np.ndarray, spread: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """The best of the non-negative solutions (both terms, either one, none), its floor raised by a standard error."""
    if not excess.size:
        return 0.0, 1.0
    best, least = (0.0, 0.0), np.inf
    for columns in ((0, 1), (0,), (1,)):
        inputs = np.stack([np.ones_like(spread), spread], axis=1)[:, columns]
        root = np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(inputs * root, excess * root[:, 0], rcond=None)[0]
        error = float(np.sum(weight * (inputs @ solution - excess) ** 2))
        if (solution >= 0).all() and error < least:
            terms = dict(zip(columns, solution.tolist(), strict=True))
            best, least = (terms.get(0, 0.0), terms.get(1, 0.0)), error
    missed = excess - best[0] - best[1] * spread
    standard_error = float(np.sqrt(np.sum((weight * missed) ** 2)) / np.sum(weight))
    return best[0] + standard_error, best[1]
