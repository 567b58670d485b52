"""How far a glance at a prompt is from a reading of it. NumPy only.

Legend of array suffixes: B prompts, M models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def static_error(static_BM: np.ndarray, full_BM: np.ndarray, score_BM: np.ndarray) -> float:
    """Standard deviation of what the transformer changes in the difference of the two models the static one likes best.

    Rows with fewer than two measured models say nothing; 0 without any.
    """
    if static_BM.shape[1] < 2:
        return 0.0
    ranked_BM = np.where(np.isfinite(score_BM), static_BM, -np.inf)
    order_B2 = np.argsort(-ranked_BM, axis=1)[:, :2]
    enough_B = np.isfinite(score_BM).sum(1) >= 2
    gaps: Sequence[np.ndarray] = [
        np.subtract(*np.take_along_axis(value_BM, order_B2, 1)[enough_B].T) for value_BM in (static_BM, full_BM)
    ]
    return float(np.sqrt(np.mean((gaps[1] - gaps[0]) ** 2))) if enough_B.any() else 0.0
