"""The correction of qualities and the factors of lengths that own prompts suggest. NumPy only.

How it works: on the logit scale, a model's quality becomes

    offset_m + common * mean + own * (logit_m - mean) + what the kind of the prompt adds for this model,

where `mean` is over the models that were measured. The first three correct what is wrong on these prompts as a whole;
the last is learned per model and task, pulled towards 0 (ridge regression by Laplace's approximation). A few hundred
prompts are enough for that, and far too few for heads of their own.

A model's length is multiplied by a factor of its own, which depends on the kind of the prompt: ridge regression of what
the logs missed, around what all models missed together, and then scaled so that the mean is right.

Legend of array suffixes: B prompts, M all models of the artifact, S those measured or compared, T tasks, A coordinates
of a fit, X prompts or pairs of a prompt and a model.
"""

from __future__ import annotations

import numpy as np

from router_models.adapting.own_prompts import OwnPrompts, leaves_choice
from router_models.heads.correction import Correction, Stretch
from router_models.heads.joined import USUAL_DEVIATION
from router_models.heads.odds import logit
from router_models.heads.population import laplace

# Deviations that are expected before anything is seen: of the slopes (from 1), a model's offset, and what one task adds
# for one model. In logits.
SLOPE_DEVIATION, OFFSET_DEVIATION, KIND_DEVIATION = 0.5, 1.0, 0.5
# In logs: of a factor of lengths, as own prompts may be answered in a word or two, and of what one task adds to it.
LENGTH_DEVIATION, LENGTH_KIND_DEVIATION = 2.0, 0.5


def fit_correction(own: OwnPrompts, rows: np.ndarray) -> Correction:
    """The correction that the scores on these prompts suggest."""
    rows = rows[leaves_choice(own.score_BM[rows][:, own.compared])]
    measured_M = np.zeros(own.score_BM.shape[1])
    measured_M[own.compared] = 1
    logit_BS = logit(own.prediction.quality[rows][:, own.compared])
    score_BS, task_BT = own.score_BM[rows][:, own.compared], own.task_BT[rows]
    mean_B1 = logit_BS.mean(1, keepdims=True)
    shared_3 = _shared(mean_B1, logit_BS - mean_B1, score_BS)
    latent_BS = shared_3[0] + shared_3[1] * mean_B1 + shared_3[2] * (logit_BS - mean_B1)
    offset_M, kind_TM = np.zeros(len(measured_M)), np.zeros((task_BT.shape[1], len(measured_M)))
    offset_M[:] = shared_3[0]
    for place, column in enumerate(own.compared):
        known_B = np.isfinite(score_BS[:, place])
        added = _own_terms(task_BT[known_B], score_BS[known_B, place], latent_BS[known_B, place])
        offset_M[column] += added[0]
        kind_TM[:, column] = added[1:]
    return Correction(offset_M, kind_TM, shared_3[1:], measured_M)


def fit_stretch(own: OwnPrompts, rows: np.ndarray) -> Stretch:
    """The factors that the lengths of the answers to these prompts suggest; at least one is known."""
    design_BA = np.column_stack([np.ones(len(rows)), own.task_BT[rows]])
    missed_BS = own.missed()[rows]
    known_BS = np.isfinite(missed_BS)
    shared_A = _ridge(design_BA[np.nonzero(known_BS)[0]], missed_BS[known_BS])
    rest_BS = missed_BS - (design_BA @ shared_A)[:, None]
    factor_AM = np.repeat(_scaled(shared_A, rest_BS[known_BS])[:, None], own.score_BM.shape[1], axis=1)
    for place, column in enumerate(own.measured):
        known_B = known_BS[:, place]
        if known_B.any():
            own_A = _ridge(design_BA[known_B], rest_BS[known_B, place])
            left_B = rest_BS[known_B, place] - design_BA[known_B] @ own_A
            factor_AM[:, column] = _scaled(shared_A + own_A, left_B)
    return Stretch(factor_AM[0], factor_AM[1:])


def _shared(mean_B1: np.ndarray, own_BS: np.ndarray, score_BS: np.ndarray) -> np.ndarray:
    """Offset and the two slopes that all models share."""
    known_BS = np.isfinite(score_BS)
    design_BS3 = np.stack([np.ones_like(own_BS), np.broadcast_to(mean_B1, own_BS.shape), own_BS], axis=-1)
    spread_33 = np.diag([OFFSET_DEVIATION**2, SLOPE_DEVIATION**2, SLOPE_DEVIATION**2])
    return laplace(design_BS3[known_BS], score_BS[known_BS], np.array([0.0, 1.0, 1.0]), spread_33)[0]


def _own_terms(task_BT: np.ndarray, score_B: np.ndarray, latent_B: np.ndarray) -> np.ndarray:
    """A model's offset, and what each task adds for it."""
    design_BA = np.column_stack([np.ones(len(task_BT)), task_BT])
    deviation_A = np.r_[OFFSET_DEVIATION, np.full(task_BT.shape[1], KIND_DEVIATION)]
    return laplace(design_BA, score_B, np.zeros(len(deviation_A)), np.diag(deviation_A**2), latent_B)[0]


def _ridge(design_XA: np.ndarray, missed_X: np.ndarray) -> np.ndarray:
    """Coordinates of what was missed, pulled towards 0."""
    deviation_A = np.r_[LENGTH_DEVIATION, np.full(design_XA.shape[1] - 1, LENGTH_KIND_DEVIATION)]
    precision_AA = design_XA.T @ design_XA + np.diag((USUAL_DEVIATION / deviation_A) ** 2)
    found_A: np.ndarray = np.linalg.solve(precision_AA, design_XA.T @ missed_X)
    return found_A


def _scaled(factor_A: np.ndarray, left_X: np.ndarray) -> np.ndarray:
    """With the mean of lengths right, not that of their logs (Duan 1983)."""
    scaled_A = factor_A.copy()
    scaled_A[0] += np.log(np.exp(left_X).mean())
    return scaled_A
