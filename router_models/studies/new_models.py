"""How much of a new model's routing gain an exam recovers, leaving one model out; and whether its intervals hold.

    python -m router_models.studies.new_models --study FOLDER --data DIR [--aliases FILE] [--json] [--pools N]

How it works: `FOLDER` comes from `router_models.studies.generalisation --kind questions`, whose predictions are out of
fold: every prompt was read by heads that had not seen it. A pool is seven models drawn at random, one of which is new:
it is described by the logits of *all* other models of the set, as an artifact would know them, and joins six of them.
For each fold, its exam is drawn from the prompts of the other folds and what it scores is predicted on the fold. Three
routers are compared on the same prompts: without the new model, with it known from its exam, and with it known as well
as the others, from its own head. All take the model with the largest quality less weight times cost, the cost being
each model's mean on the task in the other folds; AIQ is the area below the hull of what the weights reach, over the
costs from the pool's cheapest to its dearest model.

    recovered = (AIQ of exam - AIQ without) / (AIQ in full - AIQ without)

Gains are averaged over pools and draws before they are divided: many pools have next to nothing to gain. Coverage is
the share of groups of 30 or more like prompts on which the new model's rate lies in the mean 90 % interval, chance
allowed for.

Legend of array suffixes: B prompts, M models, D figures of likeness, G kinds of prompt, S the models of a pool, the
last one new, P pools, T draws, R resamplings, W weights on cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.table import Table

from router_models.evaluation.costs import Prices, paid_usd, read_prices
from router_models.evaluation.frontier import LINEAR, SETTINGS, hulls
from router_models.evaluation.metrics import brier, like_prompts, rate_coverage
from router_models.evaluation.policies import chosen_column, take
from router_models.heads.newcomer import Newcomer, fit_newcomer, is_admissible, population
from router_models.heads.odds import logit, sigmoid
from router_models.heads.population import Population, Rows
from router_models.outcomes.dataset import OutcomesError, aliases_of, read_outcomes
from router_models.training.rows import folds_of

SHOTS = (20, 50, 100, 200)
ANCHORS = "anchors"
POOLS, OLD_IN_POOL, DRAWS = 40, 6, 3
RESAMPLINGS = 2_000
GROUP_PROMPTS = 30
Z_90 = 1.645
WEIGHTS = tuple(weight for form, weight in SETTINGS if form == LINEAR)
# Changes of AIQ below this are no change.
NO_CHANGE = 1e-4


@dataclass(frozen=True)
class OutOfFold:
    """Outcomes of all models and what heads that had not seen the prompts predict; NaN where there is no outcome."""

    score_BM: np.ndarray
    cost_BM: np.ndarray
    logit_BM: np.ndarray
    fold_B: np.ndarray
    task_B: np.ndarray
    like_BD: np.ndarray
    """Of length 1; alike where prompts are."""
    anchor_B: np.ndarray | None = None
    kind_BG: np.ndarray | None = None

    @cached_property
    def groups(self) -> np.ndarray:
        """Groups of like prompts within each fold [B], numbered through."""
        group_B, groups = np.zeros(len(self.fold_B), dtype=int), 0
        for fold in np.unique(self.fold_B):
            rows = np.flatnonzero(self.fold_B == fold)
            group_B[rows] = like_prompts(self.like_BD[rows], GROUP_PROMPTS) + groups
            groups = group_B[rows].max() + 1
        return group_B

    @cached_property
    def expected_cost(self) -> np.ndarray:
        """Each model's mean cost on the prompt's task in the other folds [B, M]; on all tasks where it has none."""
        expected_BM = np.full(self.cost_BM.shape, np.nan)
        for fold in np.unique(self.fold_B):
            for task in np.unique(self.task_B):
                here_B, there_B = (self.fold_B == fold) & (self.task_B == task), self.fold_B != fold
                on_task_M = _mean(self.cost_BM[there_B & (self.task_B == task)])
                expected_BM[here_B] = np.where(np.isfinite(on_task_M), on_task_M, _mean(self.cost_BM[there_B]))
        return expected_BM

    def rows(self, models: np.ndarray) -> Rows:
        """All prompts as these models see them."""
        return Rows.of(self.logit_BM[:, models], self.score_BM[:, models], self.kind_BG)


@dataclass(frozen=True)
class Joined:
    """A new model as its exams describe it, each fold by the exam in the others."""

    quality_B: np.ndarray
    deviation_B: np.ndarray
    admitted: float
    """Share of folds in which a fifth of the exam, held back, says that the rest taught something."""


class Leaver:
    """One model left out: the population of the others per fold, and its exams."""

    def __init__(self, data: OutOfFold, model: int) -> None:
        self._data, self._score_B, self._model = data, data.score_BM[:, model], model
        self._rows = data.rows(np.delete(np.arange(data.score_BM.shape[1]), model))
        self._folds = np.unique(data.fold_B)
        self._populations = {fold: self._population(fold) for fold in self._folds}

    def _population(self, fold: int) -> Population:
        return population(self._rows.take(self._data.fold_B != fold))

    def join(self, shots: int | str, draw: int) -> Joined:
        """With this many graded prompts per exam, or with the anchors."""
        quality_B, deviation_B = np.full((2, len(self._score_B)), np.nan)
        admitted: list[bool] = []
        for fold, old in self._populations.items():
            exam = self._exam(shots, draw, int(fold))
            newcomer = self._fit(exam, old)
            here = self._rows.take(self._data.fold_B == fold)
            quality_B[self._data.fold_B == fold], deviation_B[self._data.fold_B == fold] = newcomer.predict(
                here.logit_BR, here.kind_BG
            )
            admitted.append(self._admitted(exam, old))
        return Joined(quality_B, deviation_B, float(np.mean(admitted)))

    def _exam(self, shots: int | str, draw: int, fold: int) -> np.ndarray:
        there_B = (self._data.fold_B != fold) & np.isfinite(self._score_B)
        if shots == ANCHORS and self._data.anchor_B is not None:
            there_B &= self._data.anchor_B
        rng = np.random.default_rng((draw, fold, self._model))
        order = rng.permutation(np.flatnonzero(there_B))
        return order if isinstance(shots, str) else order[:shots]

    def _fit(self, exam: np.ndarray, old: Population) -> Newcomer:
        return fit_newcomer(self._rows.take(exam), self._score_B[exam], old)

    def _admitted(self, exam: np.ndarray, old: Population) -> bool:
        held_back, sat = exam[: len(exam) // 5], exam[len(exam) // 5 :]
        nothing = exam[:0]
        rows, score = self._rows.take(held_back), self._score_B[held_back]
        return is_admissible(self._fit(sat, old), self._fit(nothing, old), rows, score)


class Outcomes(Protocol):
    """What happened on some prompts, and what is predicted there."""

    @property
    def score_BM(self) -> np.ndarray: ...  # noqa: N802 - the name of an array

    @property
    def cost_BM(self) -> np.ndarray: ...  # noqa: N802 - the name of an array

    @property
    def logit_BM(self) -> np.ndarray: ...  # noqa: N802 - the name of an array

    @property
    def expected_cost(self) -> np.ndarray: ...


class Pool:
    """Seven models, the last one new, and the area below what a router over them reaches."""

    def __init__(self, data: Outcomes, models_S: np.ndarray) -> None:
        self.models_S, self.new = models_S, int(models_S[-1])
        self._score_BS, self._cost_BS = data.score_BM[:, models_S], data.cost_BM[:, models_S]
        self._quality_BS = sigmoid(data.logit_BM[:, models_S])
        mean_S = _mean(self._cost_BS)
        self._low, self._high = float(mean_S.min()), float(mean_S.max())
        self._penalty_BS = data.expected_cost[:, models_S] / self._high
        self._available_BS = np.isfinite(self._score_BS) & np.isfinite(self._cost_BS)
        self.without = self._area(self._quality_BS, joins=False)
        self.full_gain = self._area(self._quality_BS, joins=True) - self.without

    def gain(self, quality_B: np.ndarray) -> float:
        """What the router gains by the new model when this is what is thought of it."""
        return self._area(np.column_stack([self._quality_BS[:, :-1], quality_B]), joins=True) - self.without

    def _area(self, quality_BS: np.ndarray, joins: bool) -> float:
        available_BS = self._available_BS.copy()
        available_BS[:, -1] &= joins
        rows = available_BS[:, :-1].any(1)
        column_WB = np.stack(
            [
                chosen_column(quality_BS[rows] - weight * self._penalty_BS[rows], available_BS[rows])
                for weight in WEIGHTS
            ]
        )
        reached = (take(values_BS[rows], column_WB).mean(1)[None] for values_BS in (self._cost_BS, self._score_BS))
        return float(hulls(*reached).area(self._low, self._high)[0])


@dataclass(frozen=True)
class Figures:
    """What exams of one size achieve."""

    recovered: float
    """Share of the full gain in AIQ, sums over pools."""
    recovered_low: float
    """The ends of its 95 % interval over pools."""
    recovered_high: float
    gain: float
    """In AIQ, mean over pools and draws."""
    full_gain: float
    worse_than_without: float
    """Share of (pool, draw) in which the new model lowers AIQ."""
    full_worse_than_without: float
    """The same with the new model's own head: what cannot be blamed on the exam."""
    brier: float
    coverage: float
    admitted: float
    shots: float
    """Mean number of graded prompts."""


def new_models(
    data: OutOfFold,
    exams: Sequence[int | str] = SHOTS,
    pools: int = POOLS,
    draws: int = DRAWS,
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> Mapping[str, Figures]:
    """The figures of each exam size, by its name; `advance` is called once per model left out."""
    drawn = [Pool(data, models_S) for models_S in _pools(data.score_BM.shape[1], pools, seed)]
    joined: dict[int, dict[int | str, list[Joined]]] = {}
    for model in sorted({pool.new for pool in drawn}):
        leaver = Leaver(data, model)
        joined[model] = {
            exam: [leaver.join(exam, draw) for draw in range(1 if exam == ANCHORS else draws)] for exam in exams
        }
        advance()
    return {str(exam): _figures(data, drawn, {m: found[exam] for m, found in joined.items()}, exam) for exam in exams}


def _figures(
    data: OutOfFold, pools: Sequence[Pool], joined: Mapping[int, Sequence[Joined]], exam: int | str
) -> Figures:
    gain_PT = np.array([[pool.gain(each.quality_B) for each in joined[pool.new]] for pool in pools])
    full_P = np.array([pool.full_gain for pool in pools])
    drawn = [(data.score_BM[:, model], each) for model, found in joined.items() for each in found]
    low, high = _interval(gain_PT.mean(1), full_P)
    anchors = 0 if data.anchor_B is None else data.anchor_B.sum() * (1 - 1 / len(np.unique(data.fold_B)))
    return Figures(
        recovered=float(gain_PT.mean(1).sum() / full_P.sum()),
        recovered_low=low,
        recovered_high=high,
        gain=float(gain_PT.mean()),
        full_gain=float(full_P.mean()),
        worse_than_without=float((gain_PT < -NO_CHANGE).mean()),
        full_worse_than_without=float((full_P < -NO_CHANGE).mean()),
        brier=float(np.mean([brier(each.quality_B, score_B) for score_B, each in drawn])),
        coverage=float(np.mean([_coverage(data, each, score_B) for score_B, each in drawn])),
        admitted=float(np.mean([each.admitted for _, each in drawn])),
        shots=float(anchors if isinstance(exam, str) else exam),
    )


def _interval(gain_P: np.ndarray, full_P: np.ndarray) -> tuple[float, float]:
    """95 % interval of a ratio of sums, by resampling pools."""
    picked_RP = np.random.default_rng(0).integers(len(full_P), size=(RESAMPLINGS, len(full_P)))
    low, high = np.quantile(gain_P[picked_RP].sum(1) / full_P[picked_RP].sum(1), (0.025, 0.975))
    return float(low), float(high)


def _coverage(data: OutOfFold, joined: Joined, score_B: np.ndarray) -> float:
    sides_2 = np.array([-Z_90, Z_90])
    interval_B2 = np.clip(joined.quality_B[:, None] + sides_2 * joined.deviation_B[:, None], 0, 1)
    return rate_coverage(interval_B2[:, None], score_B[:, None], data.groups)


def _pools(models: int, count: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.permutation(models)[: OLD_IN_POOL + 1]


def _mean(values_BM: np.ndarray) -> np.ndarray:
    """Mean of what is known in each column, NaN where nothing is."""
    known_BM = np.isfinite(values_BM)
    total_M = np.where(known_BM, values_BM, 0.0).sum(0)
    mean_M: np.ndarray = np.divide(total_M, known_BM.sum(0), out=np.full(len(total_M), np.nan), where=known_BM.any(0))
    return mean_M


def out_of_fold(study: Path, data: Path, aliases: Path | None, folds: int = 5, seed: int = 1) -> OutOfFold:
    """The predictions of a study on one of its sets, with what happened; `folds` and `seed` are the study's.

    Raises:
        OutcomesError: the set cannot be read, or the study is not about it.
    """
    with np.load(study / "questions.npz", allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    if data.name not in arrays["pools"].tolist():
        raise OutcomesError(f"{study} is about {', '.join(arrays['pools'].tolist())}, not about {data.name}")
    own_B = arrays["pool"] == arrays["pools"].tolist().index(data.name)
    names = aliases_of(aliases, data.name) if aliases else {}
    dataset, models = read_outcomes(data).renamed(names), arrays["models"].tolist()
    row_of = {prompt_id: row for row, prompt_id in enumerate(dataset.prompts["prompt_id"].to_pylist())}
    rows = np.array([row_of[prompt_id] for prompt_id in arrays["prompt_id"][own_B].tolist()])
    score_BM = arrays["score"][own_B]
    cost_BM = paid_usd(dataset, models, Prices.of(read_prices(data, names), models))[rows]
    # A model without any cost has no place on a curve of quality over cost.
    kept_M = (np.isfinite(score_BM) & np.isfinite(cost_BM)).any(0)
    quality_BM, kind_BG = arrays["full_quality"][own_B][:, kept_M], arrays["kind"][own_B]
    like_BD = np.concatenate([np.sqrt(kind_BG), 2 * quality_BM.mean(1, keepdims=True)], axis=1)
    has_anchors = "anchor" in dataset.prompts.column_names
    return OutOfFold(
        score_BM=score_BM[:, kept_M],
        cost_BM=cost_BM[:, kept_M],
        logit_BM=logit(quality_BM),
        fold_B=folds_of(arrays["group"][own_B], folds, seed),
        task_B=arrays["task"][own_B],
        like_BD=like_BD / np.linalg.norm(like_BD, axis=1, keepdims=True),
        anchor_B=np.array([bool(each) for each in dataset.prompts["anchor"].to_pylist()])[rows]
        if has_anchors
        else None,
        kind_BG=kind_BG,
    )


def _table(figures: Mapping[str, Figures]) -> Table:
    table = Table("graded prompts", *(each.name.replace("_", " ") for each in fields(Figures)[:-1]), box=None)
    for name, row in figures.items():
        values = [getattr(row, each.name) for each in fields(Figures)[:-1]]
        table.add_row(name if name != ANCHORS else f"{name} ({row.shots:.0f})", *(f"{value:.4f}" for value in values))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures of one set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--aliases", type=Path)
    parser.add_argument("--pools", type=int, default=POOLS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    data = out_of_fold(options.study, options.data, options.aliases)
    exams: tuple[int | str, ...] = (*SHOTS, ANCHORS) if data.anchor_B is not None and data.anchor_B.any() else SHOTS
    found = new_models(data, exams, options.pools, options.draws, options.seed)
    if options.json:
        print(json.dumps({name: row.__dict__ for name, row in found.items()}, indent=2))
    else:
        Console().print(_table(found))


if __name__ == "__main__":
    main()
