"""All policies on one set: what each chose, and what that was worth on every prompt.

How it works: the router model takes the best single model on prompts that it flags as unfamiliar, and elsewhere the
model with the largest predicted quality, minus a weight times the expected cost (`pricing`). The baselines that predict
quality are given the costs that its first seed expects, so that only the prediction of quality differs.

Legend of array suffixes: S seeds, B prompts measured, P models of the pool, C coverages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from router_models.evaluation.areas import Figure, above_zero_router, areas
from router_models.evaluation.bootstrap import Draws
from router_models.evaluation.held_out import PROMISED_LOSS
from router_models.evaluation.lengths import Lengths
from router_models.evaluation.metrics import per_prompt, worth
from router_models.evaluation.policies import (
    BEST_SINGLE,
    CHEAPEST,
    ORACLE,
    RANDOM,
    at_random,
    chosen_column,
    oracle,
    shares,
    take,
)
from router_models.evaluation.pricing import Belief, Priced, price
from router_models.evaluation.sets import Trial
from router_models.operating.curve import largest_weight, operating_curve
from router_models.operating.rows import CostScale
from router_models.prediction import Prediction
from router_models.storage.calibration import Calibration

OURS = "router model"
OURS_PROMISED = f"{OURS}, max_quality_loss {PROMISED_LOSS:g}"
COVERAGES = tuple(share / 10 for share in range(11))


@dataclass(frozen=True)
class Stratum:
    """One set, played through."""

    trial: Trial
    draws: Draws
    results: Mapping[str, Mapping[str, np.ndarray]]
    """For each policy the metrics of `metrics.METRICS` per prompt [S, B]."""
    most_chosen: Mapping[str, float]
    """How often a policy chooses the model it chooses most; 1 is a policy that does not route."""
    predictions: Sequence[Prediction]
    """For the pool, one for each seed."""
    beliefs: Sequence[Belief]
    """What follows from them."""
    lengths: Sequence[Lengths]
    coverage: np.ndarray
    """Quality where only a share of the prompts, those with the widest margin, is routed [C, B]."""
    priced: Priced | None
    left_out: Mapping[str, str]
    """Baselines that could not learn here, and why."""

    @property
    def prompts(self) -> int:
        """How many were measured."""
        return len(self.trial.truth.score)

    @cached_property
    def areas(self) -> Mapping[str, Mapping[str, Figure]]:
        """By axis and policy; {} without costs."""
        if self.priced is None:
            return {}
        return areas(self.priced.curves, self.priced.singles, self.priced.ends, self.draws.only(self.priced.rows))

    @cached_property
    def above_zero_router(self) -> Figure:
        """Quality of the router model without a weight on cost, minus the Zero router's at the same cost."""
        if self.priced is None:
            return float("nan"), np.full(len(self.draws.counts_RB), np.nan)
        draws = self.draws.only(self.priced.rows)
        return above_zero_router(self.priced.curves[OURS], self.priced.singles, draws)


def play(
    trial: Trial,
    said: Sequence[Prediction],
    calibrations: Sequence[Calibration | None],
    baselines: tuple[Mapping[str, np.ndarray], Mapping[str, str]],
    scale: CostScale,
    draws: Draws,
) -> Stratum:
    """Let all policies choose; `said` holds each seed's prediction for all columns, `calibrations` its own outcomes."""
    values, left_out = baselines
    predictions = [_for_pool(prediction, trial.columns) for prediction in said]
    beliefs = {OURS: [_belief(trial, *pair) for pair in zip(predictions, said, strict=True)]}
    known_B, expected_BP = np.zeros(len(trial.truth.score), dtype=bool), beliefs[OURS][0].expected_usd
    beliefs |= {name: [Belief(value, expected_BP, known_B)] for name, value in values.items()}
    choices = {name: [_by_quality(trial, belief) for belief in seeds] for name, seeds in beliefs.items()}
    choices |= _promised(trial, calibrations, beliefs[OURS], scale) | _fixed(trial)
    results = {
        name: _stacked([per_prompt(worth(s, trial.truth), trial.truth) for s in c]) for name, c in choices.items()
    }
    return Stratum(
        trial=trial,
        draws=draws,
        results=results,
        most_chosen={name: float(np.mean([s.mean(0).max() for s in seeds])) for name, seeds in choices.items()},
        predictions=predictions,
        beliefs=beliefs[OURS],
        lengths=[_lengths(trial, prediction) for prediction in predictions],
        coverage=_coverage(trial, beliefs[OURS]),
        priced=price(trial, beliefs, OURS, scale),
        left_out=left_out,
    )


def _belief(trial: Trial, prediction: Prediction, said: Prediction) -> Belief:
    """Of the pool; `said` has all columns."""
    return Belief(prediction.quality, trial.expected_usd(said)[:, trial.pool], prediction.unfamiliar)


def _by_quality(trial: Trial, belief: Belief) -> np.ndarray:
    return shares(chosen_column(belief.value(trial.default_column), trial.truth.available), len(trial.pool))


def _for_pool(prediction: Prediction, columns: np.ndarray) -> Prediction:
    return Prediction(
        prediction.quality[:, columns],
        prediction.quality_interval[:, columns],
        prediction.output_tokens[:, columns],
        prediction.output_tokens_interval[:, columns],
        prediction.unfamiliar,
    )


def _fixed(trial: Trial) -> dict[str, list[np.ndarray]]:
    """Policies that do not read the prompt, and the oracle."""
    truth, size = trial.truth, len(trial.pool)
    cost_P = trial.mean_usd[trial.pool]
    by_cost_BP = np.broadcast_to(-np.nan_to_num(cost_P, nan=np.inf), truth.score.shape)
    fixed = {RANDOM: [at_random(truth)], BEST_SINGLE: [shares(trial.default_column, size)], ORACLE: [oracle(truth)]}
    if np.isfinite(cost_P).any():
        fixed[CHEAPEST] = [shares(chosen_column(by_cost_BP, truth.available), size)]
    return fixed


def _promised(
    trial: Trial, calibrations: Sequence[Calibration | None], beliefs: Sequence[Belief], scale: CostScale
) -> dict[str, list[np.ndarray]]:
    """As cheap as the promised loss allows, by the weight that each seed's own calibration rows allow."""
    if not np.isfinite(trial.truth.cost_usd).any():
        return {}
    chosen = []
    for calibration, belief in zip(calibrations, beliefs, strict=True):
        weight = promised_weight(trial, calibration, scale)
        column_B = trial.default_column
        if weight is not None:
            value_BP = belief.value(trial.default_column) - weight * scale.share(belief.expected_usd)
            column_B = chosen_column(value_BP, trial.truth.available)
        chosen.append(shares(column_B, len(trial.pool)))
    return {OURS_PROMISED: chosen}


def promised_weight(trial: Trial, calibration: Calibration | None, scale: CostScale) -> float | None:
    """The weight on cost that calibration rows allow for this pool at these prices; None where none is."""
    if calibration is None or not len(calibration.score):
        return None
    return largest_weight(operating_curve(trial.priced_here(calibration), scale), PROMISED_LOSS)


def _stacked(seeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([seed[name] for seed in seeds]) for name in seeds[0]}


def _lengths(trial: Trial, prediction: Prediction) -> Lengths:
    return Lengths.of(
        prediction.output_tokens, prediction.output_tokens_interval, trial.output_tokens, trial.usual_log_tokens
    )


def _coverage(trial: Trial, beliefs: Sequence[Belief]) -> np.ndarray:
    """Quality per prompt where only the share of prompts with the widest margin over the default is routed [C, B]."""
    truth, default_B = trial.truth, trial.default_column
    curves = []
    for belief in beliefs:
        value_BP = belief.value(default_B)
        column_B = chosen_column(value_BP, truth.available)
        rank_B = np.argsort(np.argsort(take(value_BP, default_B) - take(value_BP, column_B), kind="stable"))
        routed_CB = rank_B < np.array(COVERAGES)[:, None] * len(rank_B)
        curves.append(np.where(routed_CB, take(truth.score, column_B), take(truth.score, default_B)))
    mean_CB: np.ndarray = np.mean(curves, axis=0)
    return mean_CB
