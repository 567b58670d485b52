"""Models that joined by an exam, as columns behind those that a head was trained on. NumPy only.

How it works: `router_models.heads.newcomer` describes each of them by the old models' logits; here they stand
side by side, as tensors `joined.*` of an artifact. The length of an answer is the mean log length of the old models on
this prompt, plus what the exam showed that this model writes more or less.

Legend of array suffixes: B prompts, M old models, T tasks, J models that joined, F roots of a variance, X
models times roots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router_models.heads.newcomer import Newcomer, moderated
from router_models.heads.odds import logit
from router_models.prediction import LOG_MOST_TOKENS, Z_90, Prediction

# Lengths of fewer answers say nothing.
LEAST_ANSWERS = 5
# Deviation of log lengths around the mean model's before any answer is seen, and the answers it counts as.
USUAL_DEVIATION, USUAL_ANSWERS = 0.7, 5.0
STORED = {
    "weight_R": "joined.weight_JM",
    "kind_weight_G": "joined.kind_weight_JT",
    "bias": "joined.bias_J",
    "root_RF": "joined.root_JMF",
    "kind_root_GF": "joined.kind_root_JTF",
    "root_bias_F": "joined.root_bias_JF",
    "factor_variance": "joined.factor_variance_J",
}
"""Tensor by field of `Newcomer`."""
LENGTHS = ("joined.length_known_J", "joined.length_J2")


@dataclass(frozen=True)
class Lengths:
    """How a model's answers compare with the old models' on the same prompts."""

    offset: float
    """Of the mean log length; NaN where too few answers were seen."""
    deviation: float

    @classmethod
    def of(cls, tokens_K: np.ndarray, usual_log_K: np.ndarray) -> Lengths:
        """From the lengths of an exam's answers (NaN is unknown), and the old models' mean log lengths there."""
        missed_K = np.log(np.maximum(tokens_K, 1)) - usual_log_K
        missed_K = missed_K[np.isfinite(missed_K)]
        count = len(missed_K)
        if count < LEAST_ANSWERS:
            return cls(np.nan, USUAL_DEVIATION)
        offset = float(missed_K.mean())
        squares = float(((missed_K - offset) ** 2).sum()) + USUAL_ANSWERS * USUAL_DEVIATION**2
        return cls(offset, float(np.sqrt(squares / (count - 1 + USUAL_ANSWERS) * (1 + 1 / count))))


class Joined:
    """All models that joined, in the order of their columns."""

    def __init__(self, newcomers: Sequence[Newcomer], lengths: Sequence[Lengths]) -> None:
        self._newcomers, self._lengths = tuple(newcomers), tuple(lengths)
        self._offset_J = np.array([each.offset for each in lengths])
        self._deviation_J = np.array([each.deviation for each in lengths])
        if not newcomers:
            return
        # Side by side, so that many models take no more steps than one.
        self._weight_MJ = np.stack([each.weight_R for each in newcomers], 1)
        self._kind_weight_TJ = np.stack([each.kind_weight_G for each in newcomers], 1)
        self._root_MX = np.concatenate([each.root_RF for each in newcomers], 1)
        self._kind_root_TX = np.concatenate([each.kind_root_GF for each in newcomers], 1)
        self._root_bias_X = np.concatenate([each.root_bias_F for each in newcomers])
        self._bias_J = np.array([each.bias for each in newcomers])
        self._factor_variance_J = np.array([each.factor_variance for each in newcomers])

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Joined | None:
        """Those of an artifact, if it has any."""
        count = joined_count(tensors)
        if not count:
            return None
        newcomers = [Newcomer(**{name: tensors[stored][j] for name, stored in STORED.items()}) for j in range(count)]
        known_J, length_J2 = (tensors[name] for name in LENGTHS)
        lengths = [
            Lengths(float(offset) if known else np.nan, float(deviation))
            for known, (offset, deviation) in zip(known_J, length_J2, strict=True)
        ]
        return cls(newcomers, lengths)

    def __len__(self) -> int:
        return len(self._newcomers)

    def and_then(self, newcomers: Sequence[Newcomer], lengths: Sequence[Lengths]) -> Joined:
        """With more models behind them."""
        return Joined([*self._newcomers, *newcomers], [*self._lengths, *lengths])

    def tensors(self) -> dict[str, np.ndarray]:
        """What `of` reads."""
        stacked = {
            stored: np.stack([np.asarray(getattr(one, name), np.float32) for one in self._newcomers])
            for name, stored in STORED.items()
        }
        known_J, length_J2 = (
            np.isfinite(self._offset_J),
            np.stack([np.nan_to_num(self._offset_J), self._deviation_J], 1),
        )
        return stacked | dict(zip(LENGTHS, (known_J.astype(np.uint8), length_J2.astype(np.float32)), strict=True))

    def extend(self, prediction: Prediction, task_BT: np.ndarray) -> Prediction:
        """The old models' prediction, and behind it that of the models that joined."""
        quality_BJ, deviation_BJ = self.quality(logit(prediction.quality), task_BT)
        tokens_BJ, tokens_BJ2 = self.tokens(usual_log_lengths(prediction.output_tokens))
        sides_2 = np.array([-Z_90, Z_90])
        interval_BJ2 = np.clip(quality_BJ[:, :, None] + sides_2 * deviation_BJ[:, :, None], 0, 1)
        return Prediction(
            beside(prediction.quality, quality_BJ),
            beside(prediction.quality_interval, interval_BJ2),
            beside(prediction.output_tokens, tokens_BJ),
            beside(prediction.output_tokens_interval, tokens_BJ2),
            prediction.unfamiliar,
        )

    def quality(self, logit_BM: np.ndarray, task_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the logits of the old models' qualities: qualities, and the standard deviations of the rates [B, J]."""
        root_BX = logit_BM @ self._root_MX + task_BT @ self._kind_root_TX + self._root_bias_X
        variance_BJ = (root_BX**2).reshape(len(logit_BM), len(self), -1).sum(2)
        latent_BJ = logit_BM @ self._weight_MJ + task_BT @ self._kind_weight_TJ + self._bias_J
        quality_BJ, slope_BJ = moderated(latent_BJ, variance_BJ + self._factor_variance_J)
        return quality_BJ, slope_BJ * np.sqrt(variance_BJ)

    def tokens(self, usual_log_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From `usual_log_lengths`: mean lengths [B, J], and the ends of nine of ten answers [B, J, 2]."""
        log_BJ, deviation_J = usual_log_B[:, None] + self._offset_J, self._deviation_J
        ends_BJ2 = log_BJ[:, :, None] + np.array([-Z_90, Z_90]) * deviation_J[:, None]
        mean_BJ, ends_BJ2 = (
            np.exp(np.minimum(log, LOG_MOST_TOKENS)) for log in (log_BJ + deviation_J**2 / 2, ends_BJ2)
        )
        return mean_BJ, ends_BJ2


def joined_count(tensors: Mapping[str, np.ndarray]) -> int:
    """How many models of an artifact joined by an exam: its last columns."""
    bias = tensors.get(STORED["bias"])
    return 0 if bias is None else len(bias)


def tensors_of(tensors: Mapping[str, np.ndarray], kept_J: np.ndarray) -> dict[str, np.ndarray]:
    """An artifact's tensors with some of the models that joined alone."""
    kept_names = {*STORED.values(), *LENGTHS} if kept_J.any() else set()
    others = {name: tensor for name, tensor in tensors.items() if name not in {*STORED.values(), *LENGTHS}}
    return others | {name: tensors[name][kept_J] for name in tensors if name in kept_names}


def usual_log_lengths(tokens_BM: np.ndarray) -> np.ndarray:
    """Mean over the models whose lengths are predicted [B]; NaN where none is."""
    known_BM = np.isfinite(tokens_BM)
    total_B = np.log(np.where(known_BM, np.maximum(tokens_BM, 1), 1)).sum(1)
    count_B = known_BM.sum(1)
    mean_B: np.ndarray = np.divide(total_B, count_B, out=np.full(len(total_B), np.nan), where=count_B > 0)
    return mean_B


def beside(old_BM: np.ndarray, new_BJ: np.ndarray) -> np.ndarray:
    """Columns of old models, and behind them those of the models that joined."""
    both_BM: np.ndarray = np.concatenate([old_BM, new_BJ], axis=1, dtype=np.float32)
    return both_BM
