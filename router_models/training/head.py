"""Parts and trials to a finished head: which members stay, what is trusted, how everything is calibrated.

Legend of array suffixes: B rows, R rules, M models, P pools, T tasks, Q figures of likeness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router_models.layout import Layout
from router_models.odds import shrunk_logit, sigmoid
from router_models.training import calibration
from router_models.training.config import TrainingConfig
from router_models.training.members import kmeans
from router_models.training.rows import Library, Rows
from router_models.training.trials import Trial
from router_models.tryage import Blend, HeadSettings, Speed, Stage, TryageHead, network_names, stages

# What a pool's held-out tasks may lose on average, or beyond the least that they can lose, for its familiar prompts.
BEARABLE_LOSS = 0.004


@dataclass(frozen=True)
class Evidence:
    """Rows that a trial's heads had not seen, and what they made of them."""

    rows: Rows
    trial: Trial

    def blend(self, stage: Stage, speeds: Sequence[Speed]) -> Blend:
        """The readings that a stage puts together."""
        used = speeds if stage == "full" else ("static",)
        return Blend.of([self.trial.readings[speed] for speed in used])

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
    """Held-out questions as the finished head's members read them."""
    figures: Mapping[str, Any]

    def head(self, models: int) -> TryageHead:
        return TryageHead(self.tensors, self.settings, models)


def finish(
    config: TrainingConfig,
    library: Library,
    parts: Mapping[str, np.ndarray],
    speeds: tuple[Speed, ...],
    familiar: Evidence,
    unfamiliar: Evidence,
) -> Finished:
    """Calibrate parts on questions and tasks that trials held out."""
    tensors = dict(parts)
    familiar, unfamiliar, losses = _without_useless_networks(config, tensors, speeds, familiar, unfamiliar)
    tensors["tokens.spread_M3"] = calibration.length_spread(
        familiar.blend("full", speeds), familiar.rows, library, tensors["tokens.known_R"]
    )
    settings = _stages(config, library, tensors, speeds, familiar, unfamiliar)
    sides = (familiar, unfamiliar)
    gains = {stage: _trust(config, library, tensors, settings, stage, sides) for stage in stages(speeds)}
    settings = _intervals(config, library, tensors, settings, familiar, unfamiliar)
    return Finished(tensors, settings, familiar, {**losses, "trusted": gains})


def _without_useless_networks(
    config: TrainingConfig,
    tensors: dict[str, np.ndarray],
    speeds: Sequence[Speed],
    familiar: Evidence,
    unfamiliar: Evidence,
) -> tuple[Evidence, Evidence, dict[str, Any]]:
    """Take the networks out where the average is no better with them; returns the losses that decided."""
    if config.network is None:
        return familiar, unfamiliar, {}
    members_SBR = familiar.blend("full", speeds).member_SBR
    losses = {
        "with networks": calibration.cross_entropy(members_SBR.mean(0), familiar.rows.score),
        "without": calibration.cross_entropy(members_SBR[:-1].mean(0), familiar.rows.score),
    }
    if losses["without"] <= losses["with networks"]:
        for name in network_names(speeds[-1]):
            del tensors[name]
        familiar, unfamiliar = (
            replace(each, trial=each.trial.without_network(speeds[-1])) for each in (familiar, unfamiliar)
        )
    return familiar, unfamiliar, {"held_out_loss": calibration.rounded(losses)}


def _stages(
    config: TrainingConfig,
    library: Library,
    tensors: dict[str, np.ndarray],
    speeds: tuple[Speed, ...],
    familiar: Evidence,
    unfamiliar: Evidence,
) -> HeadSettings:
    """Maps, standings and alarms of each stage, into the tensors; everything is trusted, nothing has width yet."""
    layout = Layout(tensors, len(library.models))
    standing_M = calibration.standings(familiar.rows, library, layout, tensors["complete.logit_TM"])
    settings = HeadSettings(speeds, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    for stage in stages(speeds):
        blend = familiar.blend(stage, speeds)
        tensors[f"{stage}.platt_2P"] = calibration.fit_platt_maps(blend, familiar.rows, library)
        tensors[f"{stage}.standing_M"] = standing_M
        tensors[f"{stage}.trust_P"] = np.ones(layout.pools, np.float32)
        strange_BA = unfamiliar.blend(stage, speeds).alarm_BA if len(unfamiliar) else np.zeros((0, 0))
        tensors[f"{stage}.alarm_A"] = calibration.fit_alarm(blend.alarm_BA, strange_BA)
        alarm_B = TryageHead(tensors, settings, len(library.models)).alarm(stage, blend)
        threshold = float(np.quantile(alarm_B, 1 - config.false_alarms))
        settings = (
            replace(settings, alarm_full=threshold) if stage == "full" else replace(settings, alarm_static=threshold)
        )
    return settings


def _trust(
    config: TrainingConfig,
    library: Library,
    tensors: dict[str, np.ndarray],
    settings: HeadSettings,
    stage: Stage,
    sides: tuple[Evidence, Evidence],
) -> dict[str, Any]:
    """How much of the residual each pool trusts, into the tensors.

    Of the weights under which the pool's held-out tasks lose no more than `BEARABLE_LOSS` against the usual best model
    (or than that beyond the least loss of any weight), the one that answers best on familiar prompts. Where nothing was
    held out, the smallest.
    """
    head, weights = TryageHead(tensors, settings, len(library.models)), config.residual_weights
    familiar, unfamiliar = (_gains(head, library, tensors, stage, side, weights) for side in sides)
    shown = {}
    for pool, name in enumerate(library.pools):
        gain, strange = familiar[pool], unfamiliar[pool]
        if np.isnan(strange).any():
            chosen = int(np.argmin(weights))
        else:
            bearable = strange >= min(0.0, strange.max()) - BEARABLE_LOSS
            chosen = int(np.where(bearable, gain, -np.inf).argmax())
        tensors[f"{stage}.trust_P"][pool] = weights[chosen]
        figures = {"weight": weights[chosen], "gain": gain[chosen], "gain_on_held_out_tasks": strange[chosen]}
        shown[name] = calibration.rounded(figures)
    return shown


def _gains(
    head: TryageHead,
    library: Library,
    tensors: Mapping[str, np.ndarray],
    stage: Stage,
    evidence: Evidence,
    weights: Sequence[float],
) -> np.ndarray:
    """Mean score of what each weight W chooses, less that of the pool's usual best model [P, W]; NaN without rows.

    Prompts that the alarm flags go to the usual best one, as they do in the gateway.
    """
    gain_PW = np.full((len(library.pools), len(weights)), np.nan)
    if not len(evidence):
        return gain_PW
    blend = evidence.blend(stage, head.speeds)
    mixed_BM, flagged_B = head.mixed(stage, blend), head.flagged(stage, blend)
    standing_M = tensors[f"{stage}.standing_M"]
    score_BM = calibration.by_model(evidence.rows, library, evidence.rows.score)
    for number, weight in enumerate(weights):
        shrunk_BM = sigmoid(shrunk_logit(mixed_BM, standing_M, weight))
        gain_B = calibration.gain_over_usual(shrunk_BM, standing_M, score_BM, flagged_B)
        for pool in np.unique(evidence.rows.pool):
            gain_PW[pool, number] = gain_B[evidence.rows.pool == pool].mean()
    return gain_PW


def _intervals(
    config: TrainingConfig,
    library: Library,
    tensors: Mapping[str, np.ndarray],
    settings: HeadSettings,
    familiar: Evidence,
    unfamiliar: Evidence,
) -> HeadSettings:
    head = TryageHead(tensors, settings, len(library.models))
    rows, readings = familiar.rows, familiar.trial.readings
    score_BM = calibration.by_model(rows, library, rows.score)
    blend = familiar.blend("full", head.speeds)
    quality_BM = head.conclude([readings[speed] for speed in head.speeds]).quality
    spread_BM = np.broadcast_to(head.spread(blend), quality_BM.shape)
    group_B = _like_prompts(blend, quality_BM, config.seed)
    floor, slope = calibration.fit_interval(quality_BM, spread_BM, score_BM, group_B)
    error = 0.0
    if len(head.speeds) > 1:
        static_BM = head.conclude([readings["static"]]).quality
        error = calibration.static_error(static_BM, quality_BM, score_BM)
    return replace(
        settings,
        variance_floor=floor,
        variance_per_disagreement=slope,
        variance_unfamiliar=_unfamiliar_variance(library, head, floor, unfamiliar),
        static_error=error,
    )


def _like_prompts(blend: Blend, quality_BM: np.ndarray, seed: int) -> np.ndarray:
    """A group for every row [B]: the same tasks guessed, as hard to this head."""
    like_BQ = np.concatenate([np.sqrt(blend.task_BT), 2 * quality_BM.mean(1, keepdims=True)], axis=1)
    groups = max(2, len(like_BQ) // calibration.GROUP_PROMPTS)
    return kmeans(like_BQ / np.linalg.norm(like_BQ, axis=1, keepdims=True), groups, seed)[1]


def _unfamiliar_variance(library: Library, head: TryageHead, floor: float, unfamiliar: Evidence) -> float:
    """What the squared error of a rate grows by from alarm 0 to alarm 1: from whole held-out tasks."""
    if not len(unfamiliar):
        return 0.0
    rows = unfamiliar.rows
    quality_BM = head.conclude([unfamiliar.trial.readings[speed] for speed in head.speeds]).quality
    score_BM = calibration.by_model(rows, library, rows.score)
    excess, _, weight = calibration.rate_errors(quality_BM, np.zeros_like(quality_BM), score_BM, rows.task)
    if not len(excess):
        return 0.0
    alarm = float(head.alarm("full", unfamiliar.blend("full", head.speeds)).mean())
    return max(0.0, (float(np.average(excess, weights=weight)) - floor) / max(alarm, 0.05))
