"""How many items of the exam are worth their price: what is known of a new model, and what it is worth, by items asked.

    python -m router_models.studies.exam --artifact HELD_OUT --full FULL --data DIR ... [--aliases FILE] [--plot FILE]

How it works: `HELD_OUT` was trained without some models of `FULL`. Each of them is the new model in turn: its exam is
the anchors of `HELD_OUT` that it answered, scored as it scored then; what they say of it is held against the `dev`
prompts of its sets, none of which is an anchor. Items are asked in a random order in which every beginning has the same
shares of each task (`in_quotas`), or adaptively: within the same quotas, the one next that is expected to narrow the
mean quality most (`most_telling`), from what the answers so far say.

Routers are compared as in `new_models`, in pools of six models that the artifact knows and the new one: without it,
with what its exam says, and with what `FULL` predicts of it, which is full data.

Legend of array suffixes: K anchors, B dev prompts, M models of a set, S the models of a pool, the last one new.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from router_models.evaluation.costs import Prices, paid_usd, read_prices
from router_models.evaluation.metrics import brier, like_prompts, rate_coverage
from router_models.heads.newcomer import Newcomer
from router_models.heads.odds import logit, sigmoid
from router_models.heads.population import Rows
from router_models.joining.exam import Questions, in_quotas, old_scores_of, parts_of
from router_models.outcomes.dataset import OutcomesDataset, aliases_of, read_outcomes
from router_models.prediction import Z_90
from router_models.predictor import ArtifactPredictor
from router_models.storage.artifact import Artifact, load_artifact
from router_models.studies.new_models import GROUP_PROMPTS, OLD_IN_POOL, Pool
from router_models.studies.screen import bar

ASKED = (20, 40, 60, 80, 100, 150, 200, 300)
BATCH = 10
"""Items between two looks at the answers."""
POOLS_EACH, DRAWS = 20, 3


@dataclass(frozen=True)
class Measured:
    """The dev prompts of one set: what happened, and what is predicted of the models that are known."""

    name: str
    models: tuple[str, ...]
    """All of the set with prices; the new ones among them."""
    is_new_M: np.ndarray
    score_BM: np.ndarray
    cost_BM: np.ndarray
    expected_cost: np.ndarray
    """[B, M]: the mean on the task, in train."""
    logit_BM: np.ndarray
    """Of known models as the artifact predicts them; of new ones as full data does."""
    old: Rows
    """The prompts as all models of the artifact see them."""
    covered_B: np.ndarray
    """Whether some anchor is of the same task."""

    @cached_property
    def groups(self) -> np.ndarray:
        like_BD = np.concatenate(
            [np.sqrt(self.old.kind_BG), 2 * sigmoid(self.old.logit_BR).mean(1, keepdims=True)], axis=1
        )
        return like_prompts(like_BD / np.linalg.norm(like_BD, axis=1, keepdims=True), GROUP_PROMPTS)

    def only_covered(self) -> Measured:
        """The prompts of tasks that anchors are about."""
        kept_B = self.covered_B
        arrays = {
            name: getattr(self, name)[kept_B]
            for name in ("score_BM", "cost_BM", "expected_cost", "logit_BM", "covered_B")
        }
        return Measured(self.name, self.models, self.is_new_M, **arrays, old=self.old.take(kept_B))


@dataclass(frozen=True)
class Figures:
    """What so many items achieve, over all new models and draws."""

    items: float
    """Asked of a model, on average."""
    half_width: float
    """Of the 90 % interval of the mean quality on the artifact's calibration prompts."""
    mean_error: float
    """Of the mean score on dev prompts, absolute."""
    brier: float
    coverage: float
    """Share of groups of like prompts whose rate lies in the 90 % interval, chance allowed for."""
    recovered: float
    """Of the gain in AIQ that full data brings, sums over pools."""
    gain: float
    full_gain: float


class Study:
    """The new models of some sets and their exams."""

    def __init__(self, artifact: Artifact, full: Artifact, folders: Sequence[Path], aliases: Path | None) -> None:
        self.artifact = artifact
        self.anchors = artifact.anchors
        old_KM = old_scores_of(artifact, self.anchors)
        conversations = [_conversation(anchor) for anchor in self.anchors]
        self.questions = Questions(
            artifact, conversations, old_KM, parts_of(self.anchors), bar("anchors", len(conversations))
        )
        self.stratum_K = np.array([f"{anchor['pool']}/{anchor['task']}" for anchor in self.anchors])
        self.new = [model for model in full.trained_models if model not in artifact.trained_models]
        self.sets: list[Measured] = []
        self.score_KJ = np.full((len(self.anchors), len(self.new)), np.nan)
        for folder in folders:
            names = aliases_of(aliases, folder.name) if aliases else {}
            dataset = read_outcomes(folder).renamed(names)
            self._take_scores(folder.name, dataset.split("train"))
            if folder.name in {anchor["pool"] for anchor in self.anchors}:
                self.sets.append(self._measured(folder, dataset, names, full))

    def _take_scores(self, pool: str, train: OutcomesDataset) -> None:
        row_of = {prompt_id: row for row, prompt_id in enumerate(train.prompts["prompt_id"].to_pylist())}
        known = [j for j, model in enumerate(self.new) if model in train.models]
        score_BJ = train.matrix("score", [self.new[j] for j in known])
        for place, anchor in enumerate(self.anchors):
            if anchor["pool"] == pool:
                self.score_KJ[place, known] = score_BJ[row_of[anchor["prompt_id"]]]

    def _measured(self, folder: Path, dataset: OutcomesDataset, names: Mapping[str, str], full: Artifact) -> Measured:
        dev, train, models = dataset.split("dev"), dataset.split("train"), dataset.models
        prices = Prices.of(read_prices(folder, names), models)
        cost_BM, train_cost_BM = (paid_usd(part, models, prices) for part in (dev, train))
        priced_M = np.isfinite(cost_BM).any(0) & np.isfinite(train_cost_BM).any(0)
        models = tuple(model for model, is_priced in zip(models, priced_M, strict=True) if is_priced)
        conversations = dev.conversations()
        step = bar(f"{folder.name} dev", 2 * len(conversations))
        own, kind_BG = ArtifactPredictor(self.artifact).predict_with_tasks(conversations, step)
        in_full = ArtifactPredictor(full).predict(conversations, step)
        is_new_M = np.array([model in self.new for model in models])
        quality_BM = np.column_stack(
            [
                in_full.quality[:, full.models.index(m)] if m in self.new else own.quality[:, self._column(m)]
                for m in models
            ]
        )
        covered = {anchor["task"] for anchor in self.anchors if anchor["pool"] == folder.name}
        task_B, train_task_B = (np.array(part.prompts["task"].to_pylist()) for part in (dev, train))
        return Measured(
            name=folder.name,
            models=models,
            is_new_M=is_new_M,
            score_BM=dev.matrix("score", models),
            cost_BM=cost_BM[:, priced_M],
            expected_cost=_task_means(train_cost_BM[:, priced_M], train_task_B, task_B),
            logit_BM=logit(quality_BM),
            old=Rows.of(logit(own.quality), None, kind_BG),
            covered_B=np.isin(task_B, list(covered)),
        )

    def _column(self, model: str) -> int:
        return self.artifact.models.index(model)

    def order(self, number: int, draw: int, adaptive: bool) -> np.ndarray:
        """The items of one new model's exam as they are asked."""
        answered = np.flatnonzero(np.isfinite(self.score_KJ[:, number]))
        rng = np.random.default_rng((draw, number))
        order = answered[in_quotas(self.stratum_K[answered], rng)]
        return self._adaptive(order, number) if adaptive else order

    def _adaptive(self, order: np.ndarray, number: int) -> np.ndarray:
        """The same tasks in the same order, each time with its most telling item."""
        score_K, asked = np.full(len(self.anchors), np.nan), np.zeros(0, dtype=int)
        for start in range(0, len(order), BATCH):
            telling_K = self.questions.telling(self.questions.described(score_K))
            telling_K[asked] = -np.inf
            for stratum in self.stratum_K[order[start : start + BATCH]]:
                pick = _best_of(telling_K, np.intersect1d(order, np.flatnonzero(self.stratum_K == stratum)))
                telling_K[pick] = -np.inf
                asked = np.append(asked, pick)
            score_K[asked] = self.score_KJ[asked, number]
        return asked

    def figures(self, asked: int, draws: int, adaptive: bool, covered: bool = False) -> Figures:
        """After so many items."""
        rows = [
            row for number in range(len(self.new)) for row in self._of_model(number, asked, draws, adaptive, covered)
        ]
        total = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        mean = {name: float(value.mean()) for name, value in total.items()}
        recovered = float(total["gain"].sum() / total["full_gain"].sum())
        return Figures(**mean, recovered=recovered)

    def _of_model(
        self, number: int, asked: int, draws: int, adaptive: bool, covered: bool
    ) -> Iterator[Mapping[str, float]]:
        for draw in range(draws):
            items = self._orders(number, draw, adaptive)[:asked]
            score_K = np.full(len(self.anchors), np.nan)
            score_K[items] = self.score_KJ[items, number]
            newcomer = self.questions.described(score_K)
            low, high = self.questions.expected_quality(newcomer)[1]
            for each in self.sets:
                if self.new[number] in each.models:
                    measured = each.only_covered() if covered else each
                    found = _against(measured, self.new[number], newcomer, number)
                    yield {"items": float(len(items)), "half_width": (high - low) / 2, **found}

    def _orders(self, number: int, draw: int, adaptive: bool) -> np.ndarray:
        key = (number, draw, adaptive)
        if key not in self._known_orders:
            self._known_orders[key] = self.order(*key)
        return self._known_orders[key]

    @cached_property
    def _known_orders(self) -> dict[tuple[int, int, bool], np.ndarray]:
        return {}


def _best_of(value_K: np.ndarray, among: np.ndarray) -> int:
    return int(among[value_K[among].argmax()])


def _conversation(anchor: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    messages = anchor["messages"] or [{"role": "user", "content": anchor["prompt"]}]
    return tuple((message["role"], message["content"]) for message in messages)  # type: ignore[attr-defined]


def _task_means(cost_BM: np.ndarray, task_B: np.ndarray, wanted_B: np.ndarray) -> np.ndarray:
    """Mean cost of each model on the tasks wanted; over all tasks where it has none there."""
    mean_BM = np.broadcast_to(np.nanmean(cost_BM, axis=0), (len(wanted_B), cost_BM.shape[1])).copy()
    for task in np.unique(wanted_B):
        known_M = np.isfinite(cost_BM[task_B == task]).any(0)
        mean_BM[np.ix_(wanted_B == task, known_M)] = np.nanmean(cost_BM[task_B == task][:, known_M], axis=0)
    return mean_BM


def _against(measured: Measured, model: str, newcomer: Newcomer, seed: int) -> Mapping[str, float]:
    """What is thought of a model, held against what it did on the dev prompts of one set."""
    column = measured.models.index(model)
    score_B = measured.score_BM[:, column]
    quality_B, deviation_B = newcomer.predict(measured.old.logit_BR, measured.old.kind_BG)
    known_B = np.isfinite(score_B)
    sides_2 = np.array([-Z_90, Z_90])
    interval_B2 = np.clip(quality_B[:, None] + sides_2 * deviation_B[:, None], 0, 1)
    pools = [Pool(measured, models_S) for models_S in _pools(measured, column, seed)]
    return {
        "mean_error": abs(float(quality_B[known_B].mean() - score_B[known_B].mean())),
        "brier": brier(quality_B, score_B),
        "coverage": rate_coverage(interval_B2[:, None], score_B[:, None], measured.groups),
        "gain": float(np.mean([pool.gain(quality_B) for pool in pools])),
        "full_gain": float(np.mean([pool.full_gain for pool in pools])),
    }


def _pools(measured: Measured, new: int, seed: int) -> Iterator[np.ndarray]:
    """The same ones for every exam of a model."""
    rng = np.random.default_rng(seed)
    old = np.flatnonzero(~measured.is_new_M)
    for _ in range(POOLS_EACH):
        yield np.append(rng.permutation(old)[:OLD_IN_POOL], new)


def _plot(found: Mapping[str, Sequence[Figures]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    error_axes, gain_axes = figure.subplots(1, 2)
    for (name, rows), colour in zip(found.items(), ("tab:blue", "tab:orange"), strict=True):
        items = [row.items for row in rows]
        error_axes.plot(items, [row.mean_error for row in rows], "o-", color=colour, label=f"{name}: error of the mean")
        error_axes.plot(items, [row.half_width for row in rows], "--", color=colour, label=f"{name}: 90 % half width")
        gain_axes.plot(items, [row.recovered for row in rows], "o-", color=colour, label=name)
    error_axes.set(xlabel="items asked", ylabel="of the mean score", ylim=(0, None))
    gain_axes.set(xlabel="items asked", ylabel="share of full data's routing gain")
    for axes in (error_axes, gain_axes):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _table(found: Mapping[str, Sequence[Figures]]) -> Table:
    names = [each.name for each in fields(Figures)]
    table = Table("order", *(name.replace("_", " ") for name in names), box=None)
    for order, rows in found.items():
        for row in rows:
            table.add_row(order, *(f"{getattr(row, name):.4f}" for name in names))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures for each number of items."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--full", type=Path, required=True)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--aliases", type=Path)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--covered", action="store_true", help="only prompts of tasks that anchors are about")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    study = Study(load_artifact(given.artifact), load_artifact(given.full), given.data, given.aliases)
    kinds: Mapping[str, bool] = {"random within quotas": False, "adaptive within quotas": True}
    figures: Callable[[int, bool], Figures] = lambda asked, adaptive: study.figures(  # noqa: E731
        asked, given.draws, adaptive, given.covered
    )
    found = {name: [figures(asked, adaptive) for asked in ASKED] for name, adaptive in kinds.items()}
    if given.plot:
        _plot(found, given.plot)
    if given.json:
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in found.items()}, indent=1))
    else:
        Console().print(_table(found))


if __name__ == "__main__":
    main()
