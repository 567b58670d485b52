"""What a predictor says about prompts: the one contract between router models and whoever asks them.

Legend of array suffixes: B prompts, M models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# 90 % of a normal distribution lies within this many standard deviations.
Z_90 = 1.645
# Answers longer than this are not believed; it bounds exp() on prompts far from the training data.
LOG_MOST_TOKENS = math.log(100_000.0)


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """What is expected of every model on one prompt; as in `Prediction`, without the axis of prompts."""

    quality: np.ndarray
    quality_interval: np.ndarray
    output_tokens: np.ndarray
    output_tokens_interval: np.ndarray
    unfamiliar: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of every model on every prompt; NaN where a model was never measured."""

    quality: np.ndarray
    """Probability of an acceptable answer [B, M]."""
    quality_interval: np.ndarray
    """90 % interval of the rate of acceptable answers on prompts of this kind [B, M, 2]."""
    output_tokens: np.ndarray
    """Mean length of the answer [B, M]: what a cost is expected to be follows from it."""
    output_tokens_interval: np.ndarray
    """Where nine of ten answers lie [B, M, 2]."""
    unfamiliar: np.ndarray
    """Whether the prompt is unlike all that was learned from, so that its numbers are not to be trusted: bool [B]."""

    def row(self, prompt: int, models: np.ndarray) -> PredictionRow:
        """What is expected of these models on one of the prompts."""
        return PredictionRow(
            self.quality[prompt].take(models),
            self.quality_interval[prompt].take(models, axis=0),
            self.output_tokens[prompt].take(models),
            self.output_tokens_interval[prompt].take(models, axis=0),
            bool(self.unfamiliar[prompt]),
        )
