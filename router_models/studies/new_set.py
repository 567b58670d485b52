"""Whether a set that nobody trained on is routed well once its models have joined from a few of its prompts.

    python -m router_models.studies.new_set --artifact A --data DIR --known DIR --known DIR [--shots 200] [--draws 5]

How it works: all models of the set join the artifact from prompts of its `train` split, drawn at random, and are
measured on `test`. Prompts that stand in `--known` sets too are dropped from both. The best single
model is that of the same graded prompts, since nothing else was known; a task-name table learns from them too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from router_models.evaluation.contest import OURS
from router_models.evaluation.costs import read_prices
from router_models.evaluation.evaluate import Setting, evaluate
from router_models.evaluation.policies import BEST_SINGLE, TASK_TABLE
from router_models.evaluation.sets import Entrant, Source
from router_models.joining.exam import exam_of
from router_models.joining.onboarding import onboard
from router_models.outcomes.dataset import OutcomesDataset, read_outcomes
from router_models.outcomes.questions import question_keys
from router_models.storage.artifact import Artifact, load_artifact
from router_models.studies.screen import bar

SHOTS, DRAWS = 200, 5
FIGURES = ("quality_minus_best_single", "daiq", "cost_at_best_single", "cost_at_minus_1_point", "abstained", "ece")


def unseen(dataset: OutcomesDataset, known: Sequence[OutcomesDataset]) -> OutcomesDataset:
    """The prompts whose question stands in none of the others."""
    keys = {key for one in known for key in question_keys(one)}
    return dataset.select(np.array([key not in keys for key in question_keys(dataset)]))


def measured(artifact: Artifact, dataset: OutcomesDataset, folder: Path, shots: int, seed: int) -> dict[str, Any]:
    """Figures on `test` after an exam on so many prompts of `train`."""
    models = dataset.models
    exam = exam_of(artifact, models, folder.name, dataset.split("train"), shots, seed)
    extended, _ = onboard(artifact, models, exam, f"{artifact.name}-extended", seed)
    ids = set(exam.prompt_ids)
    place = dataset.prompts.column_names.index("split")
    split = [
        each if each == "test" else ("train" if prompt_id in ids else "unused")
        for prompt_id, each in zip(
            dataset.prompts["prompt_id"].to_pylist(), dataset.prompts["split"].to_pylist(), strict=True
        )
    ]
    divided = OutcomesDataset(dataset.prompts.set_column(place, "split", pa.array(split)), dataset.outcomes)
    source = Source(folder.name, divided, ("test",), read_prices(folder, {}))
    report, _ = evaluate([Entrant.of(extended)], [source], Setting(train_split="train"), bar)
    (figures,) = report["sets"].values()
    policies = {name: figures["policies"][name]["quality"][1] for name in (OURS, BEST_SINGLE, TASK_TABLE)}
    return {"seed": seed, **policies, **{name: figures[name] for name in FIGURES}}


def main() -> None:
    """Print a line of JSON for each draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--known", type=Path, action="append", default=[])
    parser.add_argument("--shots", type=int, default=SHOTS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args()
    artifact = load_artifact(given.artifact)
    dataset = unseen(read_outcomes(given.data), [read_outcomes(folder) for folder in given.known])
    for seed in range(given.draws):
        print(json.dumps(measured(artifact, dataset, given.data, given.shots, seed), default=float), flush=True)


if __name__ == "__main__":
    main()
