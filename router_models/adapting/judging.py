"""Whether adapting helps, told by prompts held back.

How it works: each fifth of the prompts is predicted by what the other four say. Adaptation is kept where the Brier
score falls by more than chance explains, and choosing by it is not worse than before by more than that; of lengths,
where their deviance falls by more than chance explains. Each part is kept or left for itself.

Legend of array suffixes: B prompts, M all models of the artifact, S those measured or compared, T tasks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from router_models.adapting.fits import fit_correction, fit_stretch
from router_models.adapting.own_prompts import OwnPrompts, leaves_choice
from router_models.adapting.verdict import LEAST_PROMPTS, LengthVerdict, QualityVerdict, Verdict
from router_models.prediction import Z_90
from router_models.storage.artifact import Artifact

FOLDS = 5


class HeldBack(NamedTuple):
    """Own prompts, each predicted by what the others say [B, M]."""

    quality: np.ndarray
    output_tokens: np.ndarray
    has_lengths: bool
    """Whether enough lengths are known to say anything of them."""


def predict_held_back(own: OwnPrompts, seed: int) -> HeldBack:
    """Each fifth of the prompts, which the seed draws, as the other four would have it."""
    quality_BM, tokens_BM = own.prediction.quality.copy(), own.prediction.output_tokens.copy()
    has_lengths = int(np.isfinite(own.missed()).any(1).sum()) >= LEAST_PROMPTS
    for part in np.array_split(np.random.default_rng(seed).permutation(len(quality_BM)), FOLDS):
        there, task_BT = np.setdiff1d(np.arange(len(quality_BM)), part), own.task_BT[part]
        if len(own.compared):
            quality_BM[part] = fit_correction(own, there).quality(quality_BM[part], task_BT)
        if has_lengths:
            tokens_BM[part] = fit_stretch(own, there).tokens(tokens_BM[part], task_BT)
    return HeldBack(quality_BM, tokens_BM, has_lengths)


def judge(artifact: Artifact, own: OwnPrompts, held_back: HeldBack) -> Verdict:
    """What adapting does for these prompts, by how they are predicted when they are held back."""
    return Verdict(
        prompts=len(own.score_BM),
        models=_names(artifact, own.measured),
        with_choice=int(leaves_choice(own.score_BM[:, own.measured]).sum()),
        unfamiliar_before=float(own.prediction.unfamiliar.mean()),
        qualities=_quality_verdict(artifact, own, held_back.quality) if len(own.compared) else None,
        lengths=_length_verdict(own, held_back.output_tokens) if held_back.has_lengths else None,
    )


def _quality_verdict(artifact: Artifact, own: OwnPrompts, after_BM: np.ndarray) -> QualityVerdict:
    choosing_B = leaves_choice(own.score_BM[:, own.compared])
    score_BS, before_BS, after_BS = (
        part[choosing_B][:, own.compared] for part in (own.score_BM, own.prediction.quality, after_BM)
    )
    wrong = [np.nanmean((quality_BS - score_BS) ** 2, axis=1) for quality_BS in (before_BS, after_BS)]
    chosen = [_score_of_choice(quality_BS, score_BS) for quality_BS in (before_BS, after_BS)]
    brier_gain, quality_gain = _interval(wrong[0] - wrong[1]), _interval(chosen[1] - chosen[0])
    # Means over different prompts would compare the prompts.
    shared_BS = score_BS[np.isfinite(score_BS).all(axis=1)]
    return QualityVerdict(
        prompts=len(score_BS),
        models=_names(artifact, own.compared),
        brier_before=float(wrong[0].mean()),
        brier_after=float(wrong[1].mean()),
        brier_gain_interval=brier_gain,
        quality_before=float(chosen[0].mean()),
        quality_after=float(chosen[1].mean()),
        quality_gain_interval=quality_gain,
        best_single=float(shared_BS.mean(axis=0).max()) if len(shared_BS) >= LEAST_PROMPTS else None,
        best_single_prompts=len(shared_BS),
        helps=brier_gain[0] > 0 and quality_gain[1] >= 0,
    )


def _length_verdict(own: OwnPrompts, after_BM: np.ndarray) -> LengthVerdict:
    known_BS = np.isfinite(own.missed())
    answered_B = known_BS.any(1)
    real_BS, before_BS, after_BS = (
        np.where(known_BS, np.maximum(part[:, own.measured], 1), np.nan)[answered_B]
        for part in (own.tokens_BM, own.prediction.output_tokens, after_BM)
    )
    ratios = [real_BS / told_BS for told_BS in (before_BS, after_BS)]
    deviances = [np.nanmean(2 * (ratio_BS - 1 - np.log(ratio_BS)), axis=1) for ratio_BS in ratios]
    gain = _interval(deviances[0] - deviances[1])
    real, before, after = (float(np.nanmean(part)) for part in (real_BS, before_BS, after_BS))
    return LengthVerdict(int(answered_B.sum()), real, before, after, gain, helps=gain[0] > 0)


def _names(artifact: Artifact, columns: np.ndarray) -> tuple[str, ...]:
    return tuple(artifact.models[column] for column in columns)


def _score_of_choice(quality_BS: np.ndarray, score_BS: np.ndarray) -> np.ndarray:
    """Score of the best predicted model among those with an outcome [B]."""
    column_B = np.where(np.isfinite(score_BS), quality_BS, -np.inf).argmax(1)
    chosen_B: np.ndarray = score_BS[np.arange(len(score_BS)), column_B]
    return chosen_B


def _interval(gain_B: np.ndarray) -> tuple[float, float]:
    half = Z_90 * float(gain_B.std(ddof=1)) / np.sqrt(len(gain_B))
    return float(gain_B.mean() - half), float(gain_B.mean() + half)
