"""Probabilities and their logits. NumPy only.

Legend of array suffixes: B prompts, M models, T tasks.
"""

from __future__ import annotations

import numpy as np

# Probabilities are kept this far from 0 and 1, so that no encoder can overrule the other on the logit scale.
LEAST_PROBABILITY = 1e-3


def shrunk_logit(quality_BM: np.ndarray, standing_M: np.ndarray, weight: float | np.ndarray) -> np.ndarray:
    """The logits with each prompt's preference for single models pulled towards the models' usual standing.

    `standing_M` is how far each model's logit usually lies above the mean of all models.
    """
    logit_BM = logit(quality_BM)
    common_B1 = logit_BM.sum(1, keepdims=True) / logit_BM.shape[1]
    shrunk_BM: np.ndarray = common_B1 + standing_M + weight * (logit_BM - common_B1 - standing_M)
    return shrunk_BM


def softmax(value_BT: np.ndarray) -> np.ndarray:
    """Rows that sum to 1."""
    exponential_BT = np.exp(value_BT - value_BT.max(1, keepdims=True))
    shares_BT: np.ndarray = exponential_BT / exponential_BT.sum(1, keepdims=True)
    return shares_BT


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept a little away from 0 and 1."""
    clipped = np.minimum(np.maximum(probability, LEAST_PROBABILITY), 1 - LEAST_PROBABILITY)
    odds: np.ndarray = np.log(clipped / (1 - clipped))
    return odds


def sigmoid(value: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-value)), without overflow."""
    result: np.ndarray = 0.5 * (1 + np.tanh(0.5 * value))
    return result
