"""What makes predictions mean something: maps per pool, standings, intervals, the alarm, the spread of lengths.

All of it is fitted on readings of rows that the heads had not seen.

Legend of array suffixes: B rows, P pools, R rules, M models, A alarm figures.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from router_models.heads.layout import Layout
from router_models.heads.odds import logit, sigmoid
from router_models.heads.tryage import Blend
from router_models.outcomes.standing import standing
from router_models.training.rows import Library, Rows

# Newton's method stops here; a logistic fit of two numbers needs about eight rounds.
NEWTON_ROUNDS = 50
SMALLEST_STEP = 1e-8
# Groups of like prompts on which predicted and observed rates are compared. 30 prompts give a rate to within 9 points
# (one standard deviation), which is known and subtracted.
GROUP_PROMPTS = 30
# The share of prompts unlike all training prompts that the alarm takes for given. It moves figures and threshold
# alike; with less, the differences among the likeliest ones vanish.
PRIOR_UNFAMILIAR = 0.3
ALARM_RIDGE = 1e-3
LENGTH_QUANTILES = (0.05, 0.95)


def fit_platt_maps(blend: Blend, rows: Rows, library: Library) -> np.ndarray:
    """Slope and offset per pool [2, P]."""
    maps = []
    for pool in range(len(library.pools)):
        own_B, own_R = rows.pool == pool, library.pool_R == pool
        maps.append(fit_platt(blend.logit_SBR.mean(0)[own_B][:, own_R], rows.score[own_B][:, own_R]))
    return np.array(maps, np.float32).T


def fit_platt(logit_BM: np.ndarray, score_BM: np.ndarray) -> tuple[float, float]:
    """Slope and offset of sigmoid(slope * logit + offset), one map for all models; (1, 0) if it does not help.

    It is kept if a map fitted on one half of the rows has the smaller loss on the other, both ways together.
    """
    halves = [np.arange(len(logit_BM)) % 2 == side for side in (0, 1)]
    gain = 0.0
    for fitted, judged in (halves, halves[::-1]):
        slope, offset = _newton(logit_BM[fitted], score_BM[fitted])
        plain, mapped = logit_BM[judged], slope * logit_BM[judged] + offset
        gain += cross_entropy(plain, score_BM[judged]) - cross_entropy(mapped, score_BM[judged])
    return _newton(logit_BM, score_BM) if gain > 0 else (1.0, 0.0)


def _newton(logit_BM: np.ndarray, score_BM: np.ndarray) -> tuple[float, float]:
    known_BM = np.isfinite(score_BM)
    inputs = np.stack([logit_BM[known_BM], np.ones(known_BM.sum())], axis=1)
    start = np.array([1.0, 0.0])
    # A little ridge towards the identity keeps it defined when all outcomes are alike.
    slope, offset = logistic_fit(inputs, score_BM[known_BM], np.ones(len(inputs)), np.eye(2), start)
    # A map that falls would turn the order of models around; one that explodes has met separable rows.
    return float(np.clip(slope, 0.1, 5.0)), float(np.clip(offset, -3.0, 3.0))


def logistic_fit(
    inputs_BA: np.ndarray, target_B: np.ndarray, weight_B: np.ndarray, ridge_AA: np.ndarray, start_A: np.ndarray
) -> np.ndarray:
    """Weights [A] of least weighted cross-entropy plus half a ridge around `start_A`, by Newton's method."""

    def loss(candidate_A: np.ndarray) -> float:
        value_B, away_A = inputs_BA @ candidate_A, candidate_A - start_A
        entropy_B = np.logaddexp(0, value_B) - target_B * value_B
        return float(weight_B @ entropy_B + 0.5 * away_A @ ridge_AA @ away_A)

    solution_A = start_A.astype(float)
    for _ in range(NEWTON_ROUNDS):
        rate_B = sigmoid(inputs_BA @ solution_A)
        gradient_A = inputs_BA.T @ (weight_B * (rate_B - target_B)) + ridge_AA @ (solution_A - start_A)
        curvature_AA = inputs_BA.T @ (inputs_BA * (weight_B * rate_B * (1 - rate_B))[:, None]) + ridge_AA
        step_A = np.linalg.solve(curvature_AA, gradient_A)
        # A full step from confident predictions overshoots: the curvature there is next to nothing.
        while loss(solution_A - step_A) > loss(solution_A) and np.abs(step_A).max() > SMALLEST_STEP:
            step_A = step_A / 2
        solution_A = solution_A - step_A
        if np.abs(step_A).max() <= SMALLEST_STEP:
            break
    return solution_A


def cross_entropy(logit_BM: np.ndarray, score_BM: np.ndarray) -> float:
    """Mean over the outcomes that exist; 0 where there is none."""
    known_BM = np.isfinite(score_BM)
    value, target = logit_BM[known_BM], score_BM[known_BM]
    return float(np.mean(np.logaddexp(0, value) - target * value)) if target.size else 0.0


def standings(rows: Rows, library: Library, layout: Layout, complete_TM: np.ndarray) -> np.ndarray:
    """How far each model's usual logit lies above the mean of all models [M].

    Pool by pool, from the scores on all of the pool's prompts: by least squares of prompt and model, so that nobody
    gains by having been asked the easy ones, and completed where a model was not measured. A model's standing is its
    mean over the pools in which it was measured, so models of one pool are ordered as they score there.
    """
    gap_PM = np.zeros((layout.pools, layout.models))
    for pool in range(layout.pools):
        own_T = library.pool_T == pool
        prompts_T = np.bincount(rows.task[rows.pool == pool], minlength=layout.tasks)[own_T]
        completed_M = prompts_T @ sigmoid(complete_TM[own_T].astype(float)) / max(prompts_T.sum(), 1)
        own_R = np.flatnonzero(library.pool_R == pool)
        score_R = standing(rows.score[rows.pool == pool][:, own_R])
        asked_R = np.isfinite(score_R)
        completed_M[library.model_R[own_R[asked_R]]] = score_R[asked_R]
        usual_M = logit(completed_M)
        gap_PM[pool] = usual_M - usual_M.mean()
    standing_M = (gap_PM * layout.measured_PM).sum(0) / layout.measured_PM.sum(0)
    return np.asarray(standing_M, dtype=np.float32)


def by_model(rows: Rows, library: Library, value_BR: np.ndarray) -> np.ndarray:
    """The numbers of each row's own pool, by model [B, M]; NaN where its pool does not know the model."""
    value_BM = np.full((len(rows), len(library.models)), np.nan, np.float32)
    for pool in range(len(library.pools)):
        own_B, own_R = np.flatnonzero(rows.pool == pool), np.flatnonzero(library.pool_R == pool)
        value_BM[np.ix_(own_B, library.model_R[own_R])] = value_BR[np.ix_(own_B, own_R)]
    return value_BM


def fit_alarm(familiar_BA: np.ndarray, unfamiliar_BA: np.ndarray) -> np.ndarray:
    """Bias and weights [1 + A] of the probability that nothing like a prompt was learned from.

    Logistic regression; both kinds weigh as `PRIOR_UNFAMILIAR` says, however many there are of each. Without
    unfamiliar rows it never fires.
    """
    weights = np.zeros(1 + familiar_BA.shape[1], np.float32)
    if not len(unfamiliar_BA):
        weights[0] = -10.0
        return weights
    figures_BA = np.concatenate([familiar_BA, unfamiliar_BA])
    mean_A, scale_A = figures_BA.mean(0), np.maximum(figures_BA.std(0), 1e-6)
    inputs_BA = np.concatenate([np.ones((len(figures_BA), 1)), (figures_BA - mean_A) / scale_A], axis=1)
    target_B = np.repeat([0.0, 1.0], [len(familiar_BA), len(unfamiliar_BA)])
    share_B = np.where(target_B > 0, PRIOR_UNFAMILIAR / len(unfamiliar_BA), (1 - PRIOR_UNFAMILIAR) / len(familiar_BA))
    size = inputs_BA.shape[1]
    fitted_A = logistic_fit(inputs_BA, target_B, share_B, ALARM_RIDGE * np.eye(size), np.zeros(size))
    weights[1:] = fitted_A[1:] / scale_A
    weights[0] = fitted_A[0] - mean_A @ weights[1:]
    return weights


def gain_over_usual(
    quality_BM: np.ndarray, standing_M: np.ndarray, score_BM: np.ndarray, flagged_B: np.ndarray
) -> np.ndarray:
    """Score of what would be chosen less that of the usual best model, per row [B]; only measured ones are candidates.

    Flagged rows go to the usual best one.
    """
    known_BM = np.isfinite(score_BM)
    usual_B1 = np.where(known_BM, standing_M, -np.inf).argmax(1)[:, None]
    best_B1 = np.where(known_BM, quality_BM, -np.inf).argmax(1)[:, None]
    chosen_B1 = np.where(flagged_B[:, None], usual_B1, best_B1)
    gain_B1: np.ndarray = np.take_along_axis(score_BM, chosen_B1, 1) - np.take_along_axis(score_BM, usual_B1, 1)
    return gain_B1[:, 0]


def fit_interval(
    quality_BM: np.ndarray, disagreement_BM: np.ndarray, score_BM: np.ndarray, group_B: np.ndarray
) -> tuple[float, float]:
    """Squared error of the predicted rate as floor + slope * the encoders' variance; neither is negative.

    In every group of like prompts the observed rate of a model differs from the predicted mean by the model's error and
    by chance. Chance is known: mean q (1 - q) / n. What is left of the squared difference is regressed on the mean
    disagreement (method of moments, pooled over models, each group weighted by its size). One standard error of that
    fit is added to the floor: few rows cannot show that predictions are exact.
    """
    excess, spread, weight = rate_errors(quality_BM, disagreement_BM, score_BM, group_B)
    return _least_squares(excess, spread, weight)


def rate_errors(
    quality_BM: np.ndarray, disagreement_BM: np.ndarray, score_BM: np.ndarray, group_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per (group, model): squared error of the mean prediction beyond chance, mean disagreement, outcomes."""
    groups, group_B = np.unique(group_B, return_inverse=True)
    member_GB = np.eye(len(groups))[group_B].T
    known_BM = np.isfinite(score_BM)
    count_GM = member_GB @ known_BM
    judged_GM = count_GM >= 2

    def mean(value_BM: np.ndarray) -> np.ndarray:
        total_GM = member_GB @ np.where(known_BM, value_BM, 0)
        means: np.ndarray = (total_GM / np.maximum(count_GM, 1))[judged_GM]
        return means

    gap = mean(score_BM) - mean(quality_BM)
    chance = mean(quality_BM * (1 - quality_BM)) / count_GM[judged_GM]
    return gap**2 - chance, mean(disagreement_BM), count_GM[judged_GM]


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


def length_spread(blend: Blend, rows: Rows, library: Library, known_R: np.ndarray) -> np.ndarray:
    """What to add to a predicted log length for its mean, and for the ends of nine of ten answers [M, 3]."""
    spread_M3 = np.zeros((len(library.models), 3), np.float32)
    missed_BR = np.log(np.maximum(rows.output_tokens, 1)) - blend.log_tokens_BR
    for model in range(len(library.models)):
        own_R = np.flatnonzero((library.model_R == model) & known_R.astype(bool))
        missed = missed_BR[:, own_R][np.isfinite(missed_BR[:, own_R])]
        if len(missed):
            spread_M3[model] = (np.log(np.mean(np.exp(missed))), *np.quantile(missed, LENGTH_QUANTILES))
    return spread_M3


def rounded(mapping: Mapping[str, float]) -> dict[str, float | None]:
    """For the card and for JSON, which has no NaN."""
    return {name: round(float(value), 5) if value == value else None for name, value in mapping.items()}
