"""What an adaptation adds to a head's predictions: a correction of each model's logit, a factor of its lengths. NumPy
only.

Legend of array suffixes: B prompts, M models, T tasks, C the same as M in the names of tensors, where M are
the models without those that joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from router_models.heads.odds import logit, sigmoid
from router_models.prediction import LOG_MOST_TOKENS, Prediction

PREFIX = "adapted."


@dataclass(frozen=True)
class Correction:
    """See `router_models.adapting.fits`; models that were not measured have the shared offset and slopes."""

    offset_C: np.ndarray
    kind_TC: np.ndarray
    slope_2: np.ndarray
    """Of the mean over the measured models, and of a model's distance from it."""
    measured_C: np.ndarray
    """1 where a model was measured, else 0."""

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Correction | None:
        """That of an artifact's heads, if they were adapted."""
        if f"{PREFIX}offset_C" not in tensors:
            return None
        return cls(**{each.name: tensors[PREFIX + each.name] for each in fields(cls)})

    def tensors(self) -> dict[str, np.ndarray]:
        """What `of` reads."""
        return {PREFIX + each.name: np.asarray(getattr(self, each.name), np.float32) for each in fields(self)}

    def quality(self, quality_BM: np.ndarray, task_BT: np.ndarray) -> np.ndarray:
        """Corrected quality [B, M]."""
        return self._moved(quality_BM, *self._terms(quality_BM, task_BT))

    def apply(self, prediction: Prediction, task_BT: np.ndarray) -> Prediction:
        """The prediction with its qualities and their intervals corrected."""
        terms = self._terms(prediction.quality, task_BT)
        sides = [self._moved(prediction.quality_interval[:, :, side], *terms) for side in (0, 1)]
        quality_BM = self._moved(prediction.quality, *terms)
        return replace(prediction, quality=quality_BM, quality_interval=np.stack(sides, axis=-1))

    def _terms(self, quality_BM: np.ndarray, task_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean logit of the measured models [B, 1], and what is added to each [B, M]."""
        mean_B1 = (logit(quality_BM) @ self.measured_C / self.measured_C.sum())[:, None]
        return mean_B1, self.offset_C + task_BT @ self.kind_TC

    def _moved(self, quality_BM: np.ndarray, mean_B1: np.ndarray, added_BM: np.ndarray) -> np.ndarray:
        common, own = self.slope_2
        moved_BM: np.ndarray = sigmoid(added_BM + common * mean_B1 + own * (logit(quality_BM) - mean_B1))
        return moved_BM.astype(np.float32)


@dataclass(frozen=True)
class Stretch:
    """Logs of the factors of lengths; models that were not measured have the shared ones."""

    length_C: np.ndarray
    length_TC: np.ndarray
    """What the task of the prompt adds."""

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Stretch | None:
        """That of an artifact's heads, if their lengths were adapted."""
        if f"{PREFIX}length_C" not in tensors:
            return None
        return cls(**{each.name: tensors[PREFIX + each.name] for each in fields(cls)})

    def tensors(self) -> dict[str, np.ndarray]:
        """What `of` reads."""
        return {PREFIX + each.name: np.asarray(getattr(self, each.name), np.float32) for each in fields(self)}

    def tokens(self, tokens_BM: np.ndarray, task_BT: np.ndarray) -> np.ndarray:
        """Lengths as they are on such prompts [B, M]."""
        return _stretched(tokens_BM, self._logs(task_BT))

    def apply(self, prediction: Prediction, task_BT: np.ndarray) -> Prediction:
        """The prediction with its lengths and their intervals stretched."""
        log_BM = self._logs(task_BT)
        return replace(
            prediction,
            output_tokens=_stretched(prediction.output_tokens, log_BM),
            output_tokens_interval=_stretched(prediction.output_tokens_interval, log_BM[:, :, None]),
        )

    def _logs(self, task_BT: np.ndarray) -> np.ndarray:
        log_BM: np.ndarray = self.length_C + task_BT @ self.length_TC
        return log_BM


def is_adapted(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether an artifact's heads were adapted to somebody's own prompts."""
    return any(name.startswith(PREFIX) for name in tensors)


def _stretched(tokens: np.ndarray, log: np.ndarray) -> np.ndarray:
    longer: np.ndarray = np.minimum(tokens * np.exp(log), np.exp(LOG_MOST_TOKENS))
    return longer.astype(np.float32)
