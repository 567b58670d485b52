"""How good models are, where they did not all answer the same prompts.

Legend of array suffixes: N prompts, M models.
"""

from __future__ import annotations

import numpy as np

# Outcomes that a prompt of usual difficulty counts as, beside a prompt's own. Without it, prompts that one model alone
# answered would say nothing of that model, and a few shared ones everything.
USUAL_PROMPT = 0.1


def standing(score_NM: np.ndarray) -> np.ndarray:
    """The score each model would have on all of these prompts [M]; -inf without an outcome.

    Least squares of score = prompt + model, with a small ridge on the prompts' part: a model that sat the easy prompts
    gains nothing by it, and where every prompt went to one model the means are left. It may lie outside of [0, 1].
    """
    known_NM = np.isfinite(score_NM)
    asked_M = known_NM.any(0)
    known_NA, score_NA = known_NM[:, asked_M].astype(float), np.where(known_NM, score_NM, 0.0)[:, asked_M]
    # With the prompts' part solved for, one equation is left for each model.
    share_NA = known_NA / (known_NA.sum(1, keepdims=True) + USUAL_PROMPT)
    between_AA = np.diag(known_NA.sum(0)) - known_NA.T @ share_NA
    standing_M = np.full(len(asked_M), -np.inf)
    standing_M[asked_M] = np.linalg.solve(between_AA, score_NA.sum(0) - share_NA.T @ score_NA.sum(1))
    return standing_M
