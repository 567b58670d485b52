"""The Tryage head: one predicted quality and one predicted length per model of a library. NumPy only.

How it works: outcomes come in pools. A pool is one set of prompts under one scoring rule, answered by some of the
models; a rule is one model within one pool. For a prompt, each encoder's inputs give

1. the task, guessed softly among all tasks of all pools, and from it the logit of every rule's mean score there;
2. a residual on the logit scale, linear in the inputs: what this prompt adds to its task.

Their sums are averaged over encoders, and one Platt map per pool ends it. A model's quality is the mean
over pools, weighted by how much the prompt looks like each; where a model was not measured in a pool, its mean scores
there were completed from the pools that it shares with others (`complete.logit_TM`), and the residual is that which all
models of the pool share.

Last, logits split into a part common to all models (how hard the prompt is), the standing of each model, and the rest,
which says who is better than usual here. The rest is shrunk, for the best of many noisy estimates is too high; by how
much is each pool's own number, found on tasks that were held out. How unfamiliar a prompt is, a logistic alarm says,
which learned from the same tasks.

Models that joined later (`router_models.heads.joined`) stand behind those that the head was trained on. What an
adaptation to somebody's own prompts corrects (`router_models.heads.correction`) comes last. Both are an amendment.

Length is linear on log tokens, task means first. An interval of quality is where the long-run rate of acceptable
answers lies for prompts of this kind, in nine of ten kinds; an interval of length holds nine of ten answers.

Legend of array suffixes: B prompts, F inputs, D embedding, T tasks, P pools, R rules, M models, O outputs (tasks,
residuals, lengths), S encoders, A alarm figures, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from router_models.heads.amendment import Amendment
from router_models.heads.layout import Layout
from router_models.heads.odds import LEAST_PROBABILITY, logit, shrunk_logit, sigmoid, softmax
from router_models.prediction import LOG_MOST_TOKENS, Z_90, Prediction
from router_models.reading.surface import NAMES as SURFACE_NAMES

Tensors = Mapping[str, np.ndarray]
Speed = Literal["static", "transformer"]
Stage = Literal["static", "full"]

# Standardised inputs beyond this many deviations say no more than that they are far out.
MOST_DEVIATIONS = 6.0
ALARM_FIGURES = ("task_entropy", "embedding_deviation", "surface_deviation", "distance")
"""Per encoder: nats; root mean square of the standardised embedding, and of the surface; 1 - cosine to the nearest
cluster of training prompts."""


@dataclass(frozen=True)
class HeadSettings:
    """The few numbers beside the tensors."""

    speeds: tuple[Speed, ...]
    variance_floor: float
    """Squared error of the predicted rate where the encoders agree."""
    variance_per_disagreement: float
    """What one unit of the encoders' variance adds to it."""
    variance_unfamiliar: float
    """What it grows by on an unfamiliar prompt."""
    static_error: float
    """Standard deviation of what the transformer changes in the predicted quality difference of two models."""
    alarm_static: float
    """A prompt whose alarm is above this is unfamiliar, when the static encoder alone has read it."""
    alarm_full: float


@dataclass(frozen=True)
class Reading:
    """What one encoder's inputs say, before pools are put together."""

    task_BT: np.ndarray
    """Probability of each task."""
    logit_BR: np.ndarray
    """Of each rule."""
    own_BP: np.ndarray
    """What the prompt adds to the logit of its task, for the rules of each pool on average."""
    log_tokens_BR: np.ndarray
    alarm_BA: np.ndarray


class EncoderHead:
    """Inputs of one encoder to a reading; all linear parts are one matrix product."""

    def __init__(self, tensors: Tensors, speed: Speed, layout: Layout) -> None:
        self._mean_F, self._scale_F = tensors[f"{speed}.mean_F"], tensors[f"{speed}.scale_F"]
        self._weight_FO, self._bias_O = tensors[f"{speed}.weight_FO"], tensors[f"{speed}.bias_O"]
        self._center_DK = np.ascontiguousarray(tensors[f"{speed}.center_KD"].T)
        self._layout = layout

    def read(self, inputs_BF: np.ndarray) -> Reading:
        """Tasks, quality logits, lengths and what the alarm looks at."""
        layout, tasks, rules = self._layout, self._layout.tasks, self._layout.rules
        standard_BF = standardised(inputs_BF, self._mean_F, self._scale_F)
        output_BO = standard_BF @ self._weight_FO + self._bias_O
        task_BT = softmax(output_BO[:, :tasks])
        residual_BR = output_BO[:, tasks : tasks + rules]
        table_B2R = layout.within_pools(task_BT) @ layout.tables_T2R
        logit_BR = logit(table_B2R[:, :rules]) + residual_BR
        log_tokens_BR = table_B2R[:, rules:] + output_BO[:, tasks + rules :]
        alarm_BA = alarm_figures(task_BT, standard_BF, inputs_BF[:, : -len(SURFACE_NAMES)] @ self._center_DK)
        return Reading(task_BT, logit_BR, residual_BR @ layout.share_RP, log_tokens_BR, alarm_BA)


@dataclass(frozen=True)
class Blend:
    """Readings of one or both encoders put together, before calibration: what training calibrates on."""

    task_BT: np.ndarray
    logit_SBR: np.ndarray
    """Of each encoder."""
    own_BP: np.ndarray
    log_tokens_BR: np.ndarray
    alarm_BA: np.ndarray

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> Blend:
        """The readings of one prompt after the other, by one encoder or by each."""
        if len(readings) == 1:
            only = readings[0]
            return cls(only.task_BT, only.logit_BR[None], only.own_BP, only.log_tokens_BR, only.alarm_BA)
        return cls(
            np.mean([reading.task_BT for reading in readings], axis=0),
            np.stack([reading.logit_BR for reading in readings]),
            np.mean([reading.own_BP for reading in readings], axis=0),
            np.mean([reading.log_tokens_BR for reading in readings], axis=0),
            np.concatenate([reading.alarm_BA for reading in readings], axis=1),
        )


class TryageHead:
    """Inputs to predictions: from the static encoder alone, or from all encoders that there are."""

    def __init__(self, tensors: Tensors, settings: HeadSettings, models: int) -> None:
        """`models` are those that it was trained on."""
        self.layout = Layout(tensors, models)
        self._amendment = Amendment.of(tensors)
        self.speeds = settings.speeds
        self._tensors, self._settings = tensors, settings
        self._threshold: dict[Stage, float] = {"static": settings.alarm_static, "full": settings.alarm_full}
        self._encoder_heads = {speed: EncoderHead(tensors, speed, self.layout) for speed in settings.speeds}
        self._every_PM = self.layout.counts(np.ones(self.layout.rules))
        self._lengths_known_PM = self.layout.counts(tensors["tokens.known_R"])
        self._length_known_M = (self._lengths_known_PM > 1e-3).any(0)
        self._maps = {
            stage: tensors[f"{stage}.platt_2P"][:, self.layout.pool_R]
            for stage in stages(settings.speeds)
            if f"{stage}.platt_2P" in tensors
        }
        # Most pools are trusted whole; then nothing is shrunk, which is a tenth of a glance.
        self._shrinks = {
            stage: bool((tensors[f"{stage}.trust_P"] != 1).any())
            for stage in stages(settings.speeds)
            if f"{stage}.trust_P" in tensors
        }

    def read(self, speed: Speed, inputs_BF: np.ndarray) -> Reading:
        """What one encoder's inputs say."""
        return self._encoder_heads[speed].read(inputs_BF)

    def predict(self, inputs: Mapping[Speed, np.ndarray]) -> Prediction:
        """Quality, length, intervals and familiarity from the inputs [B, F] of each encoder given."""
        return self.conclude([self.read(speed, inputs_BF) for speed, inputs_BF in inputs.items()])

    def conclude(self, readings: Sequence[Reading]) -> Prediction:
        """One prediction from the readings of one encoder or of all."""
        stage: Stage = "full" if len(readings) == len(self._settings.speeds) else "static"
        blend = Blend.of(readings)
        mixed_BM = self.mixed(stage, blend)
        quality_BM = self.trusted(stage, mixed_BM, blend.task_BT)
        tokens_BM, tokens_BM2 = self._lengths(blend)
        alarm_B = self.alarm(stage, blend)
        interval_BM2 = self._interval(quality_BM, blend, alarm_B)
        prediction = Prediction(quality_BM, interval_BM2, tokens_BM, tokens_BM2, alarm_B > self._threshold[stage])
        return prediction if self._amendment is None else self._amendment.apply(prediction, blend.task_BT)

    def mixed(self, stage: Stage, blend: Blend) -> np.ndarray:
        """Calibrated quality before shrinking [B, M]."""
        slope_R, offset_R = self._maps[stage]
        logit_BR = blend.logit_SBR[0] if len(blend.logit_SBR) == 1 else blend.logit_SBR.mean(0)
        within_BT = self.layout.within_pools(blend.task_BT)
        return self.layout.mix(slope_R * logit_BR + offset_R, blend.own_BP, blend.task_BT, within_BT)

    def alarm(self, stage: Stage, blend: Blend) -> np.ndarray:
        """Probability that nothing like the prompt was learned from [B]."""
        weight_A = self._tensors[f"{stage}.alarm_A"]
        return sigmoid(blend.alarm_BA @ weight_A[1:] + weight_A[0])

    def flagged(self, stage: Stage, blend: Blend) -> np.ndarray:
        """Whether the alarm is above its threshold: bool [B]."""
        flagged_B: np.ndarray = self.alarm(stage, blend) > self._threshold[stage]
        return flagged_B

    def trusted(self, stage: Stage, quality_BM: np.ndarray, task_BT: np.ndarray) -> np.ndarray:
        """Quality as far as it is believed [B, M]: what a prompt says about single models is shrunk.

        A model is held against the pools in which it was measured, wherever the prompt seems to come from.
        """
        if not self._shrinks[stage]:
            kept_BM: np.ndarray = np.clip(quality_BM, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
            return kept_BM
        weight_BM = self.layout.over_own_pools(self._tensors[f"{stage}.trust_P"], task_BT)
        return sigmoid(shrunk_logit(quality_BM, self._tensors[f"{stage}.standing_M"], weight_BM))

    def _interval(self, quality_BM: np.ndarray, blend: Blend, alarm_B: np.ndarray) -> np.ndarray:
        settings = self._settings
        variance_B1 = settings.variance_floor + settings.variance_unfamiliar * alarm_B[:, None]
        half_BM = Z_90 * np.sqrt(variance_B1 + settings.variance_per_disagreement * self.spread(blend))
        interval_BM2 = np.empty((*quality_BM.shape, 2), np.float32)
        np.maximum(quality_BM - half_BM, 0, out=interval_BM2[:, :, 0])
        np.minimum(quality_BM + half_BM, 1, out=interval_BM2[:, :, 1])
        return interval_BM2

    def spread(self, blend: Blend) -> np.ndarray:
        """Variance of the encoders' probabilities [B, M], or [1, 1]: 0 where there is one encoder only."""
        if len(blend.logit_SBR) == 1:
            return np.zeros((1, 1), np.float32)
        return self.layout.mix_known(sigmoid(blend.logit_SBR).var(0), blend.task_BT, self._every_PM)

    def _lengths(self, blend: Blend) -> tuple[np.ndarray, np.ndarray]:
        """Mean [B, M] and the ends of nine of ten answers [B, M, 2]."""
        log_BM = self.layout.mix_known(blend.log_tokens_BR, blend.task_BT, self._lengths_known_PM)
        log_BM[:, ~self._length_known_M] = np.nan
        log_BM3 = np.minimum(log_BM[:, :, None] + self._tensors["tokens.spread_M3"], LOG_MOST_TOKENS)
        tokens_BM3 = np.exp(log_BM3, out=log_BM3)
        return tokens_BM3[:, :, 0], tokens_BM3[:, :, 1:]


def alarm_figures(task_BT: np.ndarray, standard_BF: np.ndarray, cosine_BK: np.ndarray) -> np.ndarray:
    """What tells a familiar prompt from others [B, A]; see `ALARM_FIGURES`."""
    surface = len(SURFACE_NAMES)
    figures_BA = np.empty((len(task_BT), len(ALARM_FIGURES)), np.float32)
    figures_BA[:, 0] = -np.vecdot(task_BT, np.log(task_BT + np.float32(1e-9)))
    for column, part_BF in ((1, standard_BF[:, :-surface]), (2, standard_BF[:, -surface:])):
        figures_BA[:, column] = np.vecdot(part_BF, part_BF) / part_BF.shape[1]
    np.sqrt(figures_BA[:, 1:3], out=figures_BA[:, 1:3])
    figures_BA[:, 3] = 1 - cosine_BK.max(1)
    return figures_BA


def standardised(inputs_BF: np.ndarray, mean_F: np.ndarray, scale_F: np.ndarray) -> np.ndarray:
    """Inputs with mean 0 and deviation 1 on the training prompts, bounded."""
    standard_BF: np.ndarray = (inputs_BF - mean_F) / scale_F
    np.minimum(np.maximum(standard_BF, -MOST_DEVIATIONS, out=standard_BF), MOST_DEVIATIONS, out=standard_BF)
    return standard_BF


def stages(speeds: Sequence[Speed]) -> tuple[Stage, ...]:
    """What predictions can rest on: all encoders, or the static one of several alone."""
    return ("static", "full") if len(speeds) > 1 else ("full",)
