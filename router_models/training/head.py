"""Parts and trials to a finished head: what is trusted, how everything is calibrated.

Legend of array suffixes: B rows, R rules, M models, P pools, T tasks, A alarm figures, W weights, Q figures of
likeness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router_models.heads.layout import Layout
from router_models.heads.odds import shrunk_logit, sigmoid
from router_models.heads.static_error import static_error
from router_models.heads.tryage import Blend, HeadSettings, Reading, Speed, Stage, TryageHead, stages
from router_models.training import calibration
from router_models.training.config import TrainingConfig
from router_models.training.parts import kmeans
from router_models.training.rows import Library, Rows
from router_models.training.trials import Trial

# What a pool's held-out tasks may lose on average, or beyond the least that they can lose, for its familiar prompts.
BEARABLE_LOSS = 0.004


@dataclass(frozen=True)
class Evidence:
    """Rows that a trial's heads had not seen, and what they made of them."""

    rows: Rows
    trial: Trial

    @property
    def speeds(self) -> tuple[Speed, ...]:
        """Of the encoders that read, in their order."""
        return tuple(self.trial.readings)

    def readings(self, stage: Stage) -> list[Reading]:
        """Those that a stage puts together."""
        return list(self.trial.readings.values()) if stage == "full" else [self.trial.readings["static"]]

    def blend(self, stage: Stage) -> Blend:
        """The same, put together."""
        return Blend.of(self.readings(stage))

    def __len__(self) -> int:
        return len(self.rows)


def evidence(rows: Rows, trial: Trial) -> Evidence:
    """A trial with its rows out of all."""
    return Evidence(rows.take(trial.rows), trial)


@dataclass(frozen=True)
class Finished:
    """A head that predicts, and what decided about it."""

    tensors: Mapping[str, np.ndarray]
    settings: HeadSettings
    familiar: Evidence
    """Held-out questions, as trials read them."""
    figures: Mapping[str, Any]

    def head(self, models: int) -> TryageHead:
        return TryageHead(self.tensors, self.settings, models)


def finish(
    config: TrainingConfig,
    library: Library,
    parts: Mapping[str, np.ndarray],
    familiar: Evidence,
    unfamiliar: Evidence,
) -> Finished:
    """Calibrate parts on questions and tasks that trials held out."""
    return _Finishing(config, library, dict(parts), familiar, unfamiliar).run()


class _Finishing:
    """One head on its way: each step puts tensors in, or numbers into the settings, that the next ones read."""

    def __init__(
        self,
        config: TrainingConfig,
        library: Library,
        tensors: dict[str, np.ndarray],
        familiar: Evidence,
        unfamiliar: Evidence,
    ) -> None:
        self._config, self._library, self._tensors = config, library, tensors
        self._familiar, self._unfamiliar = familiar, unfamiliar
        self._stages = stages(familiar.speeds)
        # Everything is trusted, nothing has width yet.
        self._settings = HeadSettings(familiar.speeds, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)

    def run(self) -> Finished:
        self._tensors["tokens.spread_M3"] = calibration.length_spread(
            self._familiar.blend("full"), self._familiar.rows, self._library, self._tensors["tokens.known_R"]
        )
        self._calibrate_stages()
        trusted = {stage: self._trust(stage) for stage in self._stages}
        self._widen()
        return Finished(self._tensors, self._settings, self._familiar, {"trusted": trusted})

    def _head(self) -> TryageHead:
        return TryageHead(self._tensors, self._settings, len(self._library.models))

    def _score(self, evidence: Evidence) -> np.ndarray:
        """By model [B, M]."""
        return calibration.by_model(evidence.rows, self._library, evidence.rows.score)

    def _calibrate_stages(self) -> None:
        """Maps, standings and alarms of each stage."""
        tensors, library, rows = self._tensors, self._library, self._familiar.rows
        layout = Layout(tensors, len(library.models))
        standing_M = calibration.standings(rows, library, layout, tensors["complete.logit_TM"])
        for stage in self._stages:
            blend = self._familiar.blend(stage)
            tensors[f"{stage}.platt_2P"] = calibration.fit_platt_maps(blend, rows, library)
            tensors[f"{stage}.standing_M"] = standing_M
            tensors[f"{stage}.trust_P"] = np.ones(layout.pools, np.float32)
            strange_BA = self._unfamiliar.blend(stage).alarm_BA if len(self._unfamiliar) else np.zeros((0, 0))
            tensors[f"{stage}.alarm_A"] = calibration.fit_alarm(blend.alarm_BA, strange_BA)
            alarm_B = self._head().alarm(stage, blend)
            threshold = float(np.quantile(alarm_B, 1 - self._config.false_alarms))
            self._settings = (
                replace(self._settings, alarm_full=threshold)
                if stage == "full"
                else replace(self._settings, alarm_static=threshold)
            )

    def _trust(self, stage: Stage) -> dict[str, Any]:
        """How much of the residual each pool trusts.

        Of the weights under which the pool's held-out tasks lose no more than `BEARABLE_LOSS` against the usual best
        model (or than that beyond the least loss of any weight), the one that answers best on familiar prompts. Where
        nothing was held out, the smallest.
        """
        weights = self._config.residual_weights
        familiar, unfamiliar = (self._gains(stage, side) for side in (self._familiar, self._unfamiliar))
        shown = {}
        for pool, name in enumerate(self._library.pools):
            gain, strange = familiar[pool], unfamiliar[pool]
            if np.isnan(strange).any():
                chosen = int(np.argmin(weights))
            else:
                bearable = strange >= min(0.0, strange.max()) - BEARABLE_LOSS
                chosen = int(np.where(bearable, gain, -np.inf).argmax())
            self._tensors[f"{stage}.trust_P"][pool] = weights[chosen]
            figures = {"weight": weights[chosen], "gain": gain[chosen], "gain_on_held_out_tasks": strange[chosen]}
            shown[name] = calibration.rounded(figures)
        return shown

    def _gains(self, stage: Stage, evidence: Evidence) -> np.ndarray:
        """Mean score of what each weight W chooses, less that of the pool's usual best model [P, W]; NaN without rows.

        Prompts that the alarm flags go to the usual best one, as they do in the gateway.
        """
        weights = self._config.residual_weights
        gain_PW = np.full((len(self._library.pools), len(weights)), np.nan)
        if not len(evidence):
            return gain_PW
        head, blend = self._head(), evidence.blend(stage)
        mixed_BM, flagged_B = head.mixed(stage, blend), head.flagged(stage, blend)
        standing_M, score_BM = self._tensors[f"{stage}.standing_M"], self._score(evidence)
        for number, weight in enumerate(weights):
            shrunk_BM = sigmoid(shrunk_logit(mixed_BM, standing_M, weight))
            gain_B = calibration.gain_over_usual(shrunk_BM, standing_M, score_BM, flagged_B)
            for pool in np.unique(evidence.rows.pool):
                gain_PW[pool, number] = gain_B[evidence.rows.pool == pool].mean()
        return gain_PW

    def _widen(self) -> None:
        """How wide intervals are, and how far the static encoder is from all of them together."""
        head, score_BM, blend = self._head(), self._score(self._familiar), self._familiar.blend("full")
        quality_BM = head.conclude(self._familiar.readings("full")).quality
        spread_BM = np.broadcast_to(head.spread(blend), quality_BM.shape)
        group_B = _like_prompts(blend, quality_BM, self._config.seed)
        floor, slope = calibration.fit_interval(quality_BM, spread_BM, score_BM, group_B)
        error = 0.0
        if "static" in self._stages:
            static_BM = head.conclude(self._familiar.readings("static")).quality
            error = static_error(static_BM, quality_BM, score_BM)
        self._settings = replace(
            self._settings,
            variance_floor=floor,
            variance_per_disagreement=slope,
            variance_unfamiliar=self._unfamiliar_variance(head, floor),
            static_error=error,
        )

    def _unfamiliar_variance(self, head: TryageHead, floor: float) -> float:
        """What the squared error of a rate grows by from alarm 0 to alarm 1: from whole held-out tasks."""
        if not len(self._unfamiliar):
            return 0.0
        quality_BM = head.conclude(self._unfamiliar.readings("full")).quality
        score_BM, task_B = self._score(self._unfamiliar), self._unfamiliar.rows.task
        excess, _, weight = calibration.rate_errors(quality_BM, np.zeros_like(quality_BM), score_BM, task_B)
        if not len(excess):
            return 0.0
        alarm = float(head.alarm("full", self._unfamiliar.blend("full")).mean())
        return max(0.0, (float(np.average(excess, weights=weight)) - floor) / max(alarm, 0.05))


def _like_prompts(blend: Blend, quality_BM: np.ndarray, seed: int) -> np.ndarray:
    """A group for every row [B]: the same tasks guessed, as hard to this head."""
    like_BQ = np.concatenate([np.sqrt(blend.task_BT), 2 * quality_BM.mean(1, keepdims=True)], axis=1)
    groups = max(2, len(like_BQ) // calibration.GROUP_PROMPTS)
    return kmeans(like_BQ / np.linalg.norm(like_BQ, axis=1, keepdims=True), groups, seed)[1]
