"""What held-out predictions are worth, set by set and pooled, as `thalamus evaluate` measures artifacts.

    python -m router_models.studies.report FOLDER --data DIR --data DIR --aliases FILE [--stage static] [--json]

How it works: `FOLDER` comes from `router_models.studies.generalisation`. Each fold (or held-out task) is played as
a split of its own against baselines that learn from the rest of its set, and the folds of a set make its figures.

Legend of array suffixes: B prompts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from router_models.evaluation.bootstrap import Draws
from router_models.evaluation.contest import Stratum, play
from router_models.evaluation.costs import read_prices
from router_models.evaluation.figures import figures
from router_models.evaluation.policies import TASK_TABLE, Known, prompt_length, task_table
from router_models.evaluation.roster import roster
from router_models.evaluation.sets import Source, Trial, prepare
from router_models.operating.rows import CostScale
from router_models.outcomes.dataset import OutcomesDataset, aliases_of, read_outcomes, tasks_of
from router_models.prediction import Prediction
from router_models.reading.conversation import parts
from router_models.training.rows import folds_of

DRAWS = 1_000
SCALE = CostScale(worst_usd=0.1, best_usd=1e-7)
SHOWN = (
    "prompts",
    "quality_minus_best_single",
    "quality_minus_task_table",
    "daiq",
    "cost_at_best_single",
    "cost_at_minus_1_point",
    "ece",
    "abstained",
    "top_model_share",
)


@dataclass(frozen=True)
class HeldOut:
    """Predictions of one kind of study, and how its questions were divided."""

    kind: str
    arrays: Mapping[str, np.ndarray]
    part: np.ndarray
    """Which rows were held out together [B]."""

    @classmethod
    def read(cls, path: Path, folds: int, seed: int) -> HeldOut:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        part_B = arrays["task"] if path.stem == "tasks" else folds_of(arrays["group"], folds, seed)
        return cls(path.stem, arrays, part_B)

    def prediction(self, rows: np.ndarray, stage: str) -> Prediction:
        """What was said of these rows."""
        names = ("quality", "interval", "tokens", "tokens_interval", "unfamiliar")
        return Prediction(*(self.arrays[f"{stage}_{name}"][rows] for name in names))


def strata(held_out: HeldOut, pool: int, source: Source, stage: str, place: int) -> Iterator[Stratum]:
    """One for each part of a set that was held out."""
    own = np.flatnonzero(held_out.arrays["pool"] == pool)
    row_of = dict(zip(held_out.arrays["prompt_id"][own].tolist(), own.tolist(), strict=True))
    ids = source.dataset.prompts["prompt_id"].to_pylist()
    part_of = [int(held_out.part[row_of[prompt_id]]) if prompt_id in row_of else -1 for prompt_id in ids]
    models = held_out.arrays["models"].tolist()
    for part in sorted(set(part_of) - {-1}):
        split = ["dev" if each == part else "train" for each in part_of]
        divided = replace(source, dataset=_with_split(source.dataset, split), splits=("dev",))
        found = roster(divided.dataset.models, models, {})
        trial = prepare(divided, "dev", found, "train", None)
        rows = np.array([row_of[prompt_id] for prompt_id in trial.measured.prompts["prompt_id"].to_pylist()])
        said = [held_out.prediction(rows, stage)]
        draws = Draws.of(len(rows), 1_000 * place + part, DRAWS)
        yield play(trial, said, [None], (_baselines(trial), {}), SCALE, draws)


def _with_split(dataset: OutcomesDataset, split: Sequence[str]) -> OutcomesDataset:
    place = dataset.prompts.column_names.index("split")
    return OutcomesDataset(dataset.prompts.set_column(place, "split", pa.array(split)), dataset.outcomes)


def _baselines(trial: Trial) -> dict[str, np.ndarray]:
    """Those that need no encoder; a table cannot know a task that was held out."""
    if trial.train is None:
        return {}
    nothing = np.zeros((1, 1), np.float32)
    known = Known(
        score=trial.train_score,
        tasks=tasks_of(trial.train),
        new_tasks=trial.tasks,
        texts=[parts(conversation) for conversation in trial.train.conversations()],
        new_texts=[parts(conversation) for conversation in trial.conversations],
        embedding=nothing,
        new_embedding=nothing,
    )
    return {TASK_TABLE: task_table(known), "prompt length": prompt_length(known)}


def report(folder: Path, data: Sequence[Path], aliases: Path | None, stage: str, setting: tuple[int, int]) -> Any:
    """Figures by kind of study, for each set and for all of them."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.npz")):
        if path.stem == "sets":
            continue
        held_out, everything = HeldOut.read(path, *setting), []
        found[path.stem] = {}
        for place, one in enumerate(data):
            names = aliases_of(aliases, one.name) if aliases else {}
            source = Source(one.name, read_outcomes(one).renamed(names), ("dev",), read_prices(one, names))
            pool = held_out.arrays["pools"].tolist().index(one.name)
            played = list(strata(held_out, pool, source, stage, place))
            found[path.stem][one.name] = figures(played, [{}] * len(played))
            everything += played
        found[path.stem]["pooled"] = figures(everything, [{}] * len(everything))
    return found


def held_out_sets(folder: Path, stage: str) -> dict[str, Any]:
    """Where whole sets were held out: gain over the model that was usually the best in the others, per set."""
    with np.load(folder / "sets.npz", allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    found = {}
    for pool, name in enumerate(arrays["pools"].tolist()):
        own = arrays["pool"] == pool
        score, quality = arrays["score"][own], arrays[f"{stage}_quality"][own]
        known = np.isfinite(score) & np.isfinite(quality)
        asked = known.sum(1) > 1
        usual = np.where(known, arrays["usual"][own], -np.inf).argmax(1)[:, None]
        best = np.where(known, quality, -np.inf).argmax(1)[:, None]
        flagged = arrays[f"{stage}_unfamiliar"][own]
        gain = np.take_along_axis(score, best, 1)[:, 0] - np.take_along_axis(score, usual, 1)[:, 0]
        found[name] = {
            "prompts": int(asked.sum()),
            "models": int(known.any(0).sum()),
            "gain": float(gain[asked].mean()),
            "gain_after_abstention": float(np.where(flagged, 0, gain)[asked].mean()),
            "abstained": float(flagged[asked].mean()),
        }
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--aliases", type=Path)
    parser.add_argument("--stage", choices=("full", "static"), default="full")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = report(given.folder, given.data, given.aliases, given.stage, (given.folds, given.seed))
    if (given.folder / "sets.npz").exists():
        found["sets"] = held_out_sets(given.folder, given.stage)
    if given.json:
        print(json.dumps(found, default=float))
        return
    for kind, sets in found.items():
        for name, content in sets.items():
            print(kind, name, {key: content[key] for key in (SHOWN if kind != "sets" else content)})


if __name__ == "__main__":
    main()
