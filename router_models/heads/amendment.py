"""What came after training, as one step behind a head: models that joined, and the correction of an adaptation.

Legend of array suffixes: B prompts, M models that the head was trained on, T tasks, A all models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from router_models.heads.correction import Correction, Stretch
from router_models.heads.joined import Joined, beside
from router_models.heads.odds import logit
from router_models.prediction import Prediction


@dataclass(frozen=True)
class Amendment:
    """Models that joined stand behind the old ones; corrections come last."""

    joined: Joined | None
    correction: Correction | None
    stretch: Stretch | None

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Amendment | None:
        """That of an artifact's heads, if anything came after training."""
        parts = (Joined.of(tensors), Correction.of(tensors), Stretch.of(tensors))
        return None if all(part is None for part in parts) else cls(*parts)

    def apply(self, prediction: Prediction, task_BT: np.ndarray) -> Prediction:
        """The whole prediction for all models."""
        if self.joined is not None:
            prediction = self.joined.extend(prediction, task_BT)
        if self.correction is not None:
            prediction = self.correction.apply(prediction, task_BT)
        return prediction if self.stretch is None else self.stretch.apply(prediction, task_BT)

    def quality(self, quality_BM: np.ndarray, task_BT: np.ndarray) -> np.ndarray:
        """The quality of all models alone [B, A]."""
        if self.joined is not None:
            quality_BM = beside(quality_BM, self.joined.quality(logit(quality_BM), task_BT)[0])
        return quality_BM if self.correction is None else self.correction.quality(quality_BM, task_BT)
