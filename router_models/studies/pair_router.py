"""A router between one strong and one weak model, from a few hundred prompts that both have answered. NumPy only.

How it works: what counts is the gain of a prompt, P(strong is right) - P(weak is right). Up to four members estimate
it and are averaged:

1. two logistic heads, one per model, on embedding, figures of the text and items; their difference;
2. ridge regression of the observed gain, with a kernel that is near where the embeddings are near and linear in the
   figures and the items; how far to trust it is chosen by its marginal likelihood on the labels themselves;
3. two logistic heads on the length of the prompt alone, which carry the others where labels are few;
4. from a thousand labels on, the mean gain of the nearest labelled prompts; with fewer it did harm.

Items are the qualities that an artifact predicts for its own models: prompts that are alike to many old models are
alike to new ones. Without labels the gain is the length: learned transfer to sets never seen was not better than it.
Strengths are fixed: they were chosen on pairs of models of other public sets. A prompt may lack an embedding or items
(zero columns); the router then does without. Nothing but the labelled prompts is looked at to fit.

It does not say what a call costs: the share of strong calls is the caller's, and `threshold` turns it into a gain.

Legend of array suffixes: K labelled prompts, B prompts, D embedding, F figures of the text, I items, P parts of them,
X inputs of a head, n nearest, 2 strong and weak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from router_models.heads.odds import logit, sigmoid
from router_models.reading.conversation import Conversation
from router_models.reading.surface import surface_features
from router_models.studies.wording import wording_features

# Fewer labels than this say less than the length does.
LEAST_LABELS = 30
# Of the items, so many principal parts; the rest is noise.
ITEM_PARTS = 12
# Penalties of the heads, as a prior precision in units of labels; they need no retuning for another number of labels.
_HEAD_PENALTY, _LENGTH_PENALTY = 3000.0, 10.0
# A figure or an item may say more than one of several hundred outputs of an encoder.
_FIGURE_WEIGHT = 5.0
# Width of the kernel: this share of the mean squared distance between labelled prompts.
_KERNEL_WIDTH = 0.38
_NEIGHBOURS_FROM_LABELS, _NEIGHBOURS, _NEIGHBOUR_STEP = 1000, 100, 0.1
# Noise over signal, among which the marginal likelihood chooses.
_NOISES = np.geomspace(1, 3000, 14)
# Outputs of an encoder that hardly move are not blown up to deviation 1.
_LEAST_SCALE = 1e-2
_NEWTON_STEPS = 12


@dataclass(frozen=True)
class PairFeatures:
    """What is known of prompts: unit vectors [B, D], figures of the text [B, F], logits of predicted quality [B, I].

    D and I may be 0. The first column of `figures` is log(1 + characters).
    """

    embedding: np.ndarray
    figures: np.ndarray
    items: np.ndarray

    def take(self, rows: np.ndarray) -> PairFeatures:
        """The prompts with these indices or this mask."""
        return PairFeatures(self.embedding[rows], self.figures[rows], self.items[rows])


def pair_features(
    conversations: Sequence[Conversation],
    embedding_BD: np.ndarray | None = None,
    quality_BM: np.ndarray | None = None,
) -> PairFeatures:
    """Features of conversations, with what an artifact says of them: its embeddings, and its predicted qualities.

    Models of which the artifact predicts nothing (NaN) are left out.
    """
    none_B0 = np.empty((len(conversations), 0))
    items_BI = none_B0 if quality_BM is None else logit(quality_BM[:, np.isfinite(quality_BM).all(0)])
    texts = [asked(conversation) for conversation in conversations]
    figures_BF = np.array([[*surface_features(text), *wording_features(text)] for text in texts], dtype=float)
    return PairFeatures(none_B0 if embedding_BD is None else embedding_BD.astype(float), figures_BF, items_BI)


def asked(conversation: Conversation) -> str:
    """The last user message, whole: its length is evidence. The last text of any other role where no user spoke."""
    spoken = [turn for turn in conversation if turn[0] != "tools"]
    return ([text for role, text in spoken if role == "user"] or [text for _, text in spoken] or [""])[-1]


class PairRouter(Protocol):
    """Says how much better the strong model is expected to do."""

    def gain(self, features: PairFeatures) -> np.ndarray:
        """Expected gain of asking the strong model [B]; only the order matters where nothing was learned."""
        ...


@dataclass(frozen=True)
class LengthRouter:
    """The fallback without labels: the longer the prompt, the more a strong model is worth."""

    def gain(self, features: PairFeatures) -> np.ndarray:
        """Log of the characters [B]; an order, not a probability."""
        length_B: np.ndarray = features.figures[:, 0]
        return length_B


@dataclass(frozen=True)
class LearnedPairRouter:
    """The mean of the members."""

    scale: _Scale
    heads: _Heads
    ridge: _Ridge
    length_heads: _Heads
    neighbours: _Neighbours | None

    def gain(self, features: PairFeatures) -> np.ndarray:
        """Expected gain in score, P(strong) - P(weak) [B]."""
        inputs = self.scale(features)
        members = [
            self.heads.gain(_head_inputs(inputs)),
            self.ridge.gain(inputs),
            self.length_heads.gain(_length_inputs(inputs)),
        ]
        if self.neighbours:
            members.append(self.neighbours.gain(inputs.embedding))
        mean_B: np.ndarray = np.mean(members, axis=0)
        return mean_B


def fit_pair(features: PairFeatures, strong_K: np.ndarray, weak_K: np.ndarray) -> PairRouter:
    """A router from the scores in [0, 1] of both models on the same prompts; below `LEAST_LABELS`, prompt length.

    Raises:
        ValueError: a score is missing or outside [0, 1], or the three do not have one row per prompt.
    """
    score_K2 = np.stack([strong_K, weak_K], axis=1).astype(float)
    if len(score_K2) != len(features.figures):
        raise ValueError(f"{len(features.figures)} prompts, but {len(score_K2)} pairs of scores")
    if not np.all((score_K2 >= 0) & (score_K2 <= 1)):
        raise ValueError("a score is missing or lies outside 0 to 1; leave the prompt out instead")
    if len(score_K2) < LEAST_LABELS:
        return LengthRouter()
    scale = _fit_scale(features)
    inputs, gain_K = scale(features), score_K2[:, 0] - score_K2[:, 1]
    crowded = len(gain_K) >= _NEIGHBOURS_FROM_LABELS and features.embedding.shape[1] > 0
    return LearnedPairRouter(
        scale,
        _fit_heads(_head_inputs(inputs), score_K2, _HEAD_PENALTY),
        _fit_ridge(inputs, gain_K),
        _fit_heads(_length_inputs(inputs), score_K2, _LENGTH_PENALTY),
        _Neighbours(features.embedding, gain_K) if crowded else None,
    )


def threshold(share: float, gain_B: np.ndarray) -> float:
    """The gain from which on a prompt goes to the strong model, so that this share of such traffic does.

    Take the gains of recent traffic, not of the labels, and refresh it. Equal gains go the same way, so more than the
    share may pass.

    Raises:
        ValueError: the share is not in [0, 1], or there are no gains.
    """
    if not 0 <= share <= 1 or not len(gain_B):
        raise ValueError(f"a share of {share} of {len(gain_B)} prompts cannot be sent")
    strong = round(share * len(gain_B))
    return float(np.sort(gain_B)[-strong]) if strong else float("inf")


@dataclass(frozen=True)
class _Inputs:
    """Features made comparable: embeddings as they are and standardised, standardised figures and parts of items."""

    embedding: np.ndarray
    outputs: np.ndarray
    figures: np.ndarray
    parts: np.ndarray


@dataclass(frozen=True)
class _Standard:
    mean_X: np.ndarray
    scale_X: np.ndarray

    def __call__(self, value_BX: np.ndarray) -> np.ndarray:
        standard_BX: np.ndarray = (value_BX - self.mean_X) / self.scale_X
        return standard_BX


@dataclass(frozen=True)
class _Scale:
    outputs: _Standard
    figures: _Standard
    turn_IP: np.ndarray
    parts: _Standard

    def __call__(self, features: PairFeatures) -> _Inputs:
        return _Inputs(
            features.embedding,
            self.outputs(features.embedding),
            self.figures(features.figures),
            self.parts(features.items @ self.turn_IP),
        )


def _fit_scale(features: PairFeatures) -> _Scale:
    turn_IP = _principal_directions(features.items)
    return _Scale(
        _standard(features.embedding), _standard(features.figures), turn_IP, _standard(features.items @ turn_IP)
    )


def _standard(value_KX: np.ndarray) -> _Standard:
    return _Standard(value_KX.mean(0), np.maximum(value_KX.std(0), _LEAST_SCALE))


def _principal_directions(items_KI: np.ndarray) -> np.ndarray:
    if not items_KI.shape[1]:
        return np.empty((0, 0))
    _, _, turn_PI = np.linalg.svd(items_KI - items_KI.mean(0), full_matrices=False)
    directions_IP: np.ndarray = turn_PI[:ITEM_PARTS].T
    return directions_IP


def _head_inputs(inputs: _Inputs) -> np.ndarray:
    return np.concatenate([inputs.outputs, _FIGURE_WEIGHT * inputs.figures, _FIGURE_WEIGHT * inputs.parts], axis=1)


def _length_inputs(inputs: _Inputs) -> np.ndarray:
    """Length and its square: difficulty may peak in between."""
    length_B = inputs.figures[:, 0]
    return np.stack([length_B, length_B**2], axis=1)


@dataclass(frozen=True)
class _Heads:
    weight_X2: np.ndarray
    bias_2: np.ndarray

    def gain(self, inputs_BX: np.ndarray) -> np.ndarray:
        chance_B2 = sigmoid(inputs_BX @ self.weight_X2 + self.bias_2)
        gain_B: np.ndarray = chance_B2[:, 0] - chance_B2[:, 1]
        return gain_B


def _fit_heads(inputs_KX: np.ndarray, score_K2: np.ndarray, penalty: float) -> _Heads:
    columns = [_logistic(inputs_KX, score_K, penalty) for score_K in score_K2.T]
    return _Heads(np.stack([column[:-1] for column in columns], axis=1), np.array([column[-1] for column in columns]))


def _logistic(inputs_KX: np.ndarray, score_K: np.ndarray, penalty: float) -> np.ndarray:
    """Weights, then the bias, which is not penalised; by Newton's method."""
    design = np.concatenate([inputs_KX, np.ones((len(inputs_KX), 1))], axis=1)
    penalties = np.append(np.full(inputs_KX.shape[1], penalty), 1e-6)
    weight = np.zeros(design.shape[1])
    weight[-1] = logit(score_K.mean())
    for _ in range(_NEWTON_STEPS):
        chance_K = sigmoid(design @ weight)
        slope = design.T @ (chance_K - score_K) + penalties * weight
        # Certain rows keep a little curvature, so that the step stays bounded.
        curvature = (design.T * np.maximum(chance_K * (1 - chance_K), 1e-4)) @ design + np.diag(penalties)
        step = np.linalg.solve(curvature, slope)
        weight -= step
        if np.abs(step).max() < 1e-4:
            break
    return weight


@dataclass(frozen=True)
class _Ridge:
    """Kernel ridge regression of the gain; it keeps the labelled prompts."""

    known: _Inputs
    width: float
    weight_K: np.ndarray
    mean: float

    def gain(self, inputs: _Inputs) -> np.ndarray:
        gain_B: np.ndarray = self.mean + _likeness(inputs, self.known, self.width) @ self.weight_K
        return gain_B


def _fit_ridge(inputs: _Inputs, gain_K: np.ndarray) -> _Ridge:
    """With the noise that makes the labels likeliest (Rasmussen 2006, eq. 5.8); the signal's size is profiled out."""
    width = 2 * _KERNEL_WIDTH * float(2 * inputs.embedding.var(0).sum())
    value_K, vector_KK = np.linalg.eigh(_likeness(inputs, inputs, width))
    value_K, mean = np.maximum(value_K, 0), float(gain_K.mean())
    turned_K = vector_KK.T @ (gain_K - mean)

    def unlikelihood(noise: float) -> float:
        signal = max(float((turned_K**2 / (value_K + noise)).mean()), 1e-12)
        return float(len(gain_K) * np.log(signal) + np.log(value_K + noise).sum())

    noise = min(_NOISES, key=unlikelihood)
    return _Ridge(inputs, width, vector_KK @ (turned_K / (value_K + noise)), mean)


def _likeness(one: _Inputs, other: _Inputs, width: float) -> np.ndarray:
    """A kernel: a Gaussian of the embeddings' distance, plus mean products of figures and of parts of items."""
    total = one.figures @ other.figures.T / one.figures.shape[1]
    if one.parts.shape[1]:
        total += one.parts @ other.parts.T / one.parts.shape[1]
    if width > 0:
        lengths = (one.embedding**2).sum(1)[:, None] + (other.embedding**2).sum(1)
        total += np.exp(-np.maximum(lengths - 2 * one.embedding @ other.embedding.T, 0) / width)
    likeness: np.ndarray = total
    return likeness


@dataclass(frozen=True)
class _Neighbours:
    """The labelled prompts themselves; each step of cosine behind the nearest takes a factor e of the vote."""

    embedding_KD: np.ndarray
    gain_K: np.ndarray

    def gain(self, embedding_BD: np.ndarray) -> np.ndarray:
        likeness_BK = embedding_BD @ self.embedding_KD.T
        nearest_Bn = np.argpartition(-likeness_BK, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        likeness_Bn = np.take_along_axis(likeness_BK, nearest_Bn, axis=1)
        vote_Bn = np.exp((likeness_Bn - likeness_Bn.max(1, keepdims=True)) / _NEIGHBOUR_STEP)
        gain_B: np.ndarray = (vote_Bn * self.gain_K[nearest_Bn]).sum(1) / vote_Bn.sum(1)
        return gain_B
