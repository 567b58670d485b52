"""How right predictions are, and what choices were worth.

Legend of array suffixes: B prompts, M models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BINS = 15
# Scores this close are a tie.
TIE = 1e-9
# A prediction this sure and wrong costs a log loss of 14.
LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Truth:
    """What happened: scores and costs [B, M], NaN where a model has no outcome and is no candidate."""

    score: np.ndarray
    cost_usd: np.ndarray

    @property
    def available(self) -> np.ndarray:
        """Which models are candidates [B, M]."""
        known_BM: np.ndarray = np.isfinite(self.score)
        return known_BM

    @property
    def has_choice(self) -> np.ndarray:
        """Prompts [B] with at least two candidates."""
        several_B: np.ndarray = self.available.sum(1) >= 2
        return several_B

    @property
    def differs(self) -> np.ndarray:
        """Prompts [B] on which the candidates' scores are not all the same: where a choice matters."""
        high_B, low_B = np.nanmax(self.score, axis=1), np.nanmin(self.score, axis=1)
        differs_B: np.ndarray = high_B - low_B > TIE
        return differs_B


@dataclass(frozen=True)
class Worth:
    """What a policy's choices were worth, per prompt [B]."""

    quality: np.ndarray
    cost_usd: np.ndarray
    oracle_match: np.ndarray
    """Whether no candidate's score was higher; ties count."""
    cheapest_best_match: np.ndarray
    """Whether it was the cheapest of those with the highest score; NaN where costs are unknown."""
    regret: np.ndarray
    """The highest score minus that of the choice."""


METRICS = ("quality", "cost_usd", "oracle_match", "oracle_match_where_scores_differ", "cheapest_best_match", "regret")


def worth(share_BM: np.ndarray, truth: Truth) -> Worth:
    """Expected worth of choosing each model with these probabilities [B, M]; each row sums to 1 over its candidates."""
    score_BM = np.where(truth.available, truth.score, 0.0)
    best_B = np.where(truth.available, truth.score, -np.inf).max(1)
    is_best_BM = truth.available & (truth.score >= best_B[:, None] - TIE)
    quality_B = (share_BM * score_BM).sum(1)
    costs_known_B = (np.isfinite(truth.cost_usd) | ~truth.available).all(1)
    best_cost_BM = np.where(is_best_BM, truth.cost_usd, np.inf)
    is_cheapest_BM = is_best_BM & (best_cost_BM <= best_cost_BM.min(1, keepdims=True) * (1 + TIE))
    spent_B = np.where(share_BM > 0, share_BM * truth.cost_usd, 0.0).sum(1)
    return Worth(
        quality=quality_B,
        cost_usd=spent_B,
        oracle_match=(share_BM * is_best_BM).sum(1),
        cheapest_best_match=np.where(costs_known_B, (share_BM * is_cheapest_BM).sum(1), np.nan),
        regret=best_B - quality_B,
    )


def per_prompt(result: Worth, truth: Truth) -> Mapping[str, np.ndarray]:
    """Every metric of METRICS as numbers per prompt [B], NaN where it does not apply."""
    values = {name: getattr(result, name) for name in METRICS if hasattr(result, name)}
    return {**values, "oracle_match_where_scores_differ": np.where(truth.differs, result.oracle_match, np.nan)}


def expected_calibration_error(quality: np.ndarray, score: np.ndarray, bins: int = BINS) -> float:
    """Mean gap between predicted quality and observed rate over bins of equal size; 0 is perfect.

    Both arrays have the same shape; NaN in either is skipped.
    """
    found = reliability(quality, score, bins)
    gaps = [abs(predicted - observed) * size for predicted, observed, size in found]
    total = sum(size for _, _, size in found)
    return float(sum(gaps) / total) if total else float("nan")


def reliability(quality: np.ndarray, score: np.ndarray, bins: int = BINS) -> list[tuple[float, float, int]]:
    """Mean predicted quality, observed rate and number of outcomes of each bin of equal size, lowest first."""
    known = np.isfinite(score) & np.isfinite(quality)
    predicted, observed = quality[known], score[known]
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [(float(predicted[part].mean()), float(observed[part].mean()), len(part)) for part in parts]


def brier(quality: np.ndarray, score: np.ndarray) -> float:
    """Mean squared difference over the outcomes that exist."""
    known = np.isfinite(score) & np.isfinite(quality)
    return float(np.mean((quality[known] - score[known]) ** 2)) if known.any() else float("nan")


def log_loss(quality: np.ndarray, score: np.ndarray) -> float:
    """Mean cross-entropy in nats over the outcomes that exist; a score between 0 and 1 counts in part as both."""
    known = np.isfinite(score) & np.isfinite(quality)
    if not known.any():
        return float("nan")
    p, y = np.clip(quality[known], LEAST_PROBABILITY, 1 - LEAST_PROBABILITY), score[known]
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def rate_coverage(interval: np.ndarray, score: np.ndarray, group_B: np.ndarray) -> float:
    """Share of (group of like prompts, model) whose observed rate lies in the mean interval, chance allowed for.

    The observed rate of n outcomes strays by chance; the interval is widened by that, so that 0.9 is right.
    """
    inside: list[bool] = []
    for group in np.unique(group_B):
        for model in range(score.shape[1]):
            known = (group_B == group) & np.isfinite(score[:, model])
            count = int(known.sum())
            if count < 2:
                continue
            low, high = interval[known, model].mean(0)
            middle, half = (low + high) / 2, (high - low) / 2
            chance = 1.645**2 * middle * (1 - middle) / count
            inside.append(abs(float(score[known, model].mean()) - middle) <= np.sqrt(half**2 + chance))
    return float(np.mean(inside)) if inside else float("nan")


def like_prompts(embedding_BD: np.ndarray, least: int) -> np.ndarray:
    """Groups of `least` or more like prompts [B], by halving along the direction of largest spread."""
    group_B = np.zeros(len(embedding_BD), dtype=int)
    waiting, groups = [np.arange(len(embedding_BD))], 0
    while waiting:
        rows = waiting.pop()
        if len(rows) < 2 * least:
            group_B[rows] = groups
            groups += 1
            continue
        centred = embedding_BD[rows] - embedding_BD[rows].mean(0)
        direction_D = np.linalg.svd(centred, full_matrices=False)[2][0]
        order = np.argsort(centred @ direction_D, kind="stable")
        waiting += [rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]]
    return group_B
