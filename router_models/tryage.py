"""The Tryage head: one predicted quality and one predicted length per model of a fixed library. NumPy only.

How it works: several simple members each estimate P(an answer is acceptable | prompt, model); their probabilities are
averaged. On the logit scale the average splits into a part common to all models (how hard the prompt is), the standing
of each model, and the rest, which says who is better than usual here. The rest is multiplied by `residual_weight`,
because the best of many noisy estimates is too high. One Platt map for the whole pool ends it. Length is a ridge
regression on log tokens.

An interval of quality is where the long-run rate of acceptable answers lies for prompts of this kind, in nine of ten
kinds; it grows with the disagreement of the members. An interval of length holds nine of ten answers.

Legend of array suffixes: B prompts, D embedding, M models, S networks, H hidden units, K clusters, N stored prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router_models.prediction import Prediction

Tensors = Mapping[str, np.ndarray]

# Probabilities are kept this far from 0 and 1, so that no member can overrule the others on the logit scale.
LEAST_PROBABILITY = 1e-3
# 90 % of a normal distribution lies within this many standard deviations.
Z_90 = 1.645
# Of the clusters, the nearest few vote, and nearness counts this much.
VOTING_CLUSTERS = 3
CLUSTER_SHARPNESS = 9.0
# Neighbours lose a factor e with each of these steps of cosine behind the nearest.
NEIGHBOUR_STEP = 0.1
# Answers longer than this are not believed; it bounds exp() on prompts far from the training data.
MOST_TOKENS = 100_000.0


@dataclass(frozen=True)
class HeadSettings:
    """The few numbers beside the tensors."""

    members: tuple[str, ...]
    residual_weight: float
    platt_slope: float
    platt_offset: float
    variance_floor: float
    """Squared error of the predicted rate where the members agree."""
    variance_per_disagreement: float
    """What one unit of the members' variance adds to it."""


class TryageHead:
    """Embeddings to predictions."""

    def __init__(self, tensors: Tensors, settings: HeadSettings) -> None:
        self._tensors, self._settings = tensors, settings

    def predict(self, embedding_BD: np.ndarray) -> Prediction:
        """Quality and length, each with its interval."""
        inputs_BD = standardised(self._tensors, embedding_BD)
        member_SBM = np.stack(
            [MEMBERS[name](self._tensors, embedding_BD, inputs_BD) for name in self._settings.members]
        )
        logit_BM = shrunk_logit(member_SBM.mean(0), self._tensors["quality.prior_M"], self._settings.residual_weight)
        quality_BM = sigmoid(self._settings.platt_slope * logit_BM + self._settings.platt_offset)
        tokens_BM, tokens_BM2 = self._length(inputs_BD)
        never_B = np.zeros(len(embedding_BD), dtype=bool)
        return Prediction(quality_BM, self._rate_interval(quality_BM, member_SBM), tokens_BM, tokens_BM2, never_B)

    def _rate_interval(self, quality_BM: np.ndarray, member_SBM: np.ndarray) -> np.ndarray:
        settings = self._settings
        variance_BM = settings.variance_floor + settings.variance_per_disagreement * member_SBM.var(0)
        half_BM = Z_90 * np.sqrt(variance_BM)
        return np.stack([np.maximum(quality_BM - half_BM, 0), np.minimum(quality_BM + half_BM, 1)], axis=2)

    def _length(self, inputs_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tensors = self._tensors
        known_M = tensors["tokens.known_M"].astype(bool)
        log_BM = inputs_BD @ tensors["tokens.weight_DM"] + tensors["tokens.bias_M"]
        log_BM3 = log_BM[:, :, None] + np.concatenate(
            [np.zeros((len(known_M), 1), np.float32), tensors["tokens.residual_M2"]], axis=1
        )
        tokens_BM3 = np.exp(np.minimum(log_BM3, np.log(MOST_TOKENS)))
        tokens_BM3[:, ~known_M] = np.nan
        return tokens_BM3[:, :, 0], tokens_BM3[:, :, 1:]


def standardised(tensors: Tensors, embedding_BD: np.ndarray) -> np.ndarray:
    """Embeddings with mean 0 and deviation 1 on the training prompts."""
    standard_BD: np.ndarray = (embedding_BD - tensors["input.mean_D"]) / tensors["input.scale_D"]
    return standard_BD


def shrunk_logit(quality_BM: np.ndarray, prior_M: np.ndarray, residual_weight: float) -> np.ndarray:
    """The logits with each prompt's preference for single models pulled towards the models' usual standing."""
    logit_BM = logit(quality_BM)
    common_B1 = logit_BM.mean(1, keepdims=True)
    shrunk_BM: np.ndarray = common_B1 + prior_M + residual_weight * (logit_BM - common_B1 - prior_M)
    return shrunk_BM


def standing(quality_BM: np.ndarray) -> np.ndarray:
    """How far each model's logit usually lies above the mean of all models: the `prior_M` of `shrunk_logit`."""
    logit_BM = logit(quality_BM)
    prior_M: np.ndarray = (logit_BM - logit_BM.mean(1, keepdims=True)).mean(0)
    return prior_M


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept a little away from 0 and 1."""
    clipped = np.clip(probability, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    odds: np.ndarray = np.log(clipped) - np.log1p(-clipped)
    return odds


def sigmoid(value: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-value)), without overflow."""
    result: np.ndarray = 0.5 * (1 + np.tanh(0.5 * value))
    return result


def logistic(tensors: Tensors, _: np.ndarray, inputs_BD: np.ndarray) -> np.ndarray:
    """One logistic regression per model."""
    return sigmoid(inputs_BD @ tensors["logistic.weight_DM"] + tensors["logistic.bias_M"])


def mlp(tensors: Tensors, _: np.ndarray, inputs_BD: np.ndarray) -> np.ndarray:
    """Mean of S networks with one hidden layer each."""
    weight_SHM = tensors["mlp.weight_SHM"]
    networks, hidden_units = weight_SHM.shape[:2]
    hidden_BH = np.maximum(inputs_BD @ tensors["mlp.hidden_weight_DH"] + tensors["mlp.hidden_bias_H"], 0)
    hidden_SBH = hidden_BH.reshape(len(inputs_BD), networks, hidden_units).transpose(1, 0, 2)
    mean_BM: np.ndarray = sigmoid(hidden_SBH @ weight_SHM + tensors["mlp.bias_SM"][:, None, :]).mean(0)
    return mean_BM


def clusters(tensors: Tensors, embedding_BD: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Mean quality in the nearest clusters, the nearest counting most."""
    return _nearest_mean(
        embedding_BD @ tensors["clusters.center_KD"].T,
        tensors["clusters.quality_KM"],
        VOTING_CLUSTERS,
        CLUSTER_SHARPNESS,
    )


def neighbours(tensors: Tensors, embedding_BD: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Mean score of the nearest stored prompts, the nearest counting most; missing scores count as the model's mean."""
    return _nearest_mean(
        embedding_BD @ tensors["neighbours.embedding_ND"].astype(np.float32).T,
        tensors["neighbours.score_NM"],
        int(tensors["neighbours.count"][0]),
        1 / NEIGHBOUR_STEP,
    )


def _nearest_mean(similarity_BN: np.ndarray, value_NM: np.ndarray, count: int, sharpness: float) -> np.ndarray:
    count = min(count, similarity_BN.shape[1])
    nearest_Bk = np.argpartition(-similarity_BN, count - 1, axis=1)[:, :count]
    similarity_Bk = np.take_along_axis(similarity_BN, nearest_Bk, axis=1)
    weight_Bk = np.exp(sharpness * (similarity_Bk - similarity_Bk.max(1, keepdims=True)))
    weight_Bk /= weight_Bk.sum(1, keepdims=True)
    mean_BM: np.ndarray = (weight_Bk[:, None, :] @ value_NM[nearest_Bk])[:, 0]
    return mean_BM


Member = Callable[[Tensors, np.ndarray, np.ndarray], np.ndarray]
MEMBERS: Mapping[str, Member] = {"logistic": logistic, "mlp": mlp, "clusters": clusters, "neighbours": neighbours}
"""From tensors, embeddings and standardised embeddings to quality [B, M]."""

_MEMBER_TENSORS = {
    "logistic": ("logistic.weight_DM", "logistic.bias_M"),
    "mlp": ("mlp.hidden_weight_DH", "mlp.hidden_bias_H", "mlp.weight_SHM", "mlp.bias_SM"),
    "clusters": ("clusters.center_KD", "clusters.quality_KM"),
    "neighbours": ("neighbours.embedding_ND", "neighbours.score_NM", "neighbours.count"),
}
_COMMON_TENSORS = (
    "input.mean_D",
    "input.scale_D",
    "quality.prior_M",
    "tokens.weight_DM",
    "tokens.bias_M",
    "tokens.residual_M2",
    "tokens.known_M",
)


def misfit(tensors: Tensors, members: Sequence[str], size_D: int, size_M: int) -> str | None:
    """What is wrong with a head's tensors for these members and sizes, as one line; None if they fit together."""
    if unknown := [name for name in members if name not in MEMBERS]:
        return f"member {unknown[0]} is unknown; there are {', '.join(MEMBERS)}"
    wanted = {*_COMMON_TENSORS, *(name for member in members for name in _MEMBER_TENSORS[member])}
    if wanted != set(tensors):
        return f"tensor {min(wanted ^ set(tensors))} is {'missing' if wanted - set(tensors) else 'not expected'}"
    if not members:
        return "it has no member"
    sizes: dict[str, int] = {"D": size_D, "M": size_M, "2": 2}
    if "mlp" in members:
        networks, hidden = tensors["mlp.weight_SHM"].shape[:2] if tensors["mlp.weight_SHM"].ndim == 3 else (0, 0)
        sizes |= {"S": networks, "H": hidden}
    for name in sorted(tensors):
        if problem := _wrong_shape(name, tensors[name].shape, sizes):
            return problem
    return None


def _wrong_shape(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> str | None:
    letters = name.rpartition("_")[2] if "_" in name else ""
    if len(shape) != max(len(letters), 1):
        return f"tensor {name} has shape {shape}"
    for letter, size in zip(letters, shape, strict=False):
        # The hidden layers of all networks lie side by side in one matrix.
        side_by_side = name.startswith("mlp.hidden") and letter == "H"
        expected = sizes["S"] * sizes["H"] if side_by_side else sizes.setdefault(letter, size)
        if size != expected or size == 0:
            return f"tensor {name} has shape {shape}; {letter} should be {expected}"
    return None
