"""How a router model does on questions, on tasks, and on whole sets that it was not trained on: held-out predictions.

    python -m router_models.studies.generalisation CONFIG --data DIR --data DIR --aliases FILE --output FOLDER

How it works: as training does it, but with honest calibration: what a fold's heads predict is calibrated on the other
folds only. A set is held out by training on the others; then only models that those know are predicted. Writes
`questions.npz`, `tasks.npz` and `sets.npz`, which `router_models.studies.report` turns into figures: for every prompt
and model what the static encoder alone and what both encoders predict, beside what happened; and how much the prompt
looks like each task.

Legend of array suffixes: B rows, M models.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from router_models.prediction import Prediction
from router_models.predictor import ArtifactPredictor
from router_models.studies.screen import bar
from router_models.training import calibration
from router_models.training.config import TrainingConfig, load_config
from router_models.training.encoder import exported_encoder
from router_models.training.head import evidence, finish
from router_models.training.parts import use_one_thread
from router_models.training.rows import Library, Reading, Rows, read_pools, training_pools
from router_models.training.train import read_inputs, train
from router_models.training.trials import Fold, held_out_questions, held_out_tasks, joined

KINDS = ("questions", "tasks", "sets")


def predicted(
    config: TrainingConfig,
    library: Library,
    rows: Rows,
    judged: Sequence[Fold],
    questions: Sequence[Fold],
    tasks: Sequence[Fold],
) -> dict[str, np.ndarray]:
    """Predictions on the rows of the judged folds; each fold calibrated without its own rows, groups and tasks."""
    familiar, unfamiliar = joined(questions), joined(tasks)
    found: list[dict[str, np.ndarray]] = []
    for fold in judged:
        own_groups, own_tasks = np.unique(rows.group[fold.trial.rows]), np.unique(rows.task[fold.trial.rows])
        is_tasks = any(fold is one for one in tasks)

        def others(places: np.ndarray) -> np.ndarray:
            is_own = np.isin(rows.group[places], own_groups)  # noqa: B023 - used within this round
            if is_tasks:  # noqa: B023
                is_own |= np.isin(rows.task[places], own_tasks)  # noqa: B023
            return ~is_own

        finished = finish(
            config,
            library,
            fold.parts,
            evidence(rows, familiar.take(others(familiar.rows))),
            evidence(rows, unfamiliar.take(others(unfamiliar.rows))),
        )
        head = finished.head(len(library.models))
        own = evidence(rows, fold.trial)
        full, static = (head.conclude(own.readings(stage)) for stage in ("full", "static"))
        usual_M = finished.tensors["full.standing_M"]
        usual_BM = np.broadcast_to(usual_M, full.quality.shape)
        of_rows = {"row": fold.trial.rows, "usual": usual_BM, "kind": own.blend("full").task_BT}
        found.append({**of_rows, **_named("full", full), **_named("static", static)})
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _named(stage: str, prediction: Prediction) -> dict[str, np.ndarray]:
    return {
        f"{stage}_quality": prediction.quality,
        f"{stage}_interval": prediction.quality_interval,
        f"{stage}_tokens": prediction.output_tokens,
        f"{stage}_tokens_interval": prediction.output_tokens_interval,
        f"{stage}_unfamiliar": prediction.unfamiliar,
    }


def run(config: TrainingConfig, split: str | None, kinds: Sequence[str], cache: Path, output: Path) -> None:
    """The studies asked for, into a folder."""
    use_one_thread()
    encoder = exported_encoder(cache)
    pools = read_pools(config.data, split, config.aliases, config.models)
    rows, library = pools.rows, pools.library
    output.mkdir(parents=True, exist_ok=True)
    if {"questions", "tasks"} & set(kinds):
        _, inputs = read_inputs(config, encoder, pools, cache, bar)
        questions = held_out_questions(config, library, rows, inputs, bar("held-out questions", config.folds))
        tasks = held_out_tasks(config, library, rows, inputs, bar("held-out tasks", config.task_folds))
        for name, folds in (("questions", questions), ("tasks", tasks)):
            arrays = predicted(config, library, rows, folds, questions, tasks)
            _save(output / f"{name}.npz", arrays, _truth(library, rows, pools.prompt_ids, arrays["row"]))
    if "sets" in kinds:
        arrays = held_out_sets(config, pools, encoder, cache)
        _save(output / "sets.npz", arrays, _truth(library, rows, pools.prompt_ids, arrays["row"]))


def held_out_sets(
    config: TrainingConfig, pools: Reading, encoder: tuple[bytes, bytes], cache: Path
) -> dict[str, np.ndarray]:
    """Predictions on every set by a router model of the other sets; NaN for models that those do not know."""
    found = []
    for number, folder in enumerate(config.data):
        others = config.model_copy(update={"data": tuple(path for path in config.data if path != folder)})
        artifact = train(others, training_pools(others), encoder, cache, bar)
        predictor = ArtifactPredictor(artifact)
        judged = np.flatnonzero((pools.rows.pool == number) & ~pools.rows.is_second)
        conversations = [pools.conversations[row] for row in judged]
        columns = np.array([pools.library.models.index(model) for model in artifact.models])
        usual_BM = np.broadcast_to(artifact.heads["full.standing_M"], (len(judged), len(columns)))
        said = {
            "usual": usual_BM,
            **_named("full", predictor.predict(conversations, bar(f"{folder.name}, held out", len(judged)))),
            **_named("static", predictor.glance(conversations)),
        }
        models = len(pools.library.models)
        found.append({"row": judged, **{name: _spread(value, columns, models) for name, value in said.items()}})
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _spread(value: np.ndarray, columns: np.ndarray, models: int) -> np.ndarray:
    """Numbers of some models among those of all [B, M, ...]; what is not by model stays as it is."""
    if value.ndim == 1:
        return value
    spread_BM = np.full((len(value), models, *value.shape[2:]), np.nan, np.float32)
    spread_BM[:, columns] = value
    return spread_BM


def _save(path: Path, arrays: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays, **truth)


def _truth(library: Library, rows: Rows, prompt_ids: Sequence[str], row_B: np.ndarray) -> dict[str, np.ndarray]:
    judged = rows.take(row_B)
    return {
        "models": np.array(library.models),
        "pools": np.array(library.pools),
        "tasks": np.array(library.tasks),
        "pool": judged.pool,
        "task": judged.task,
        "group": judged.group,
        "prompt_id": np.array(prompt_ids)[row_B],
        "score": calibration.by_model(judged, library, judged.score),
        "output_tokens": calibration.by_model(judged, library, judged.output_tokens),
        "input_tokens": calibration.by_model(judged, library, judged.input_tokens),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--aliases", type=Path)
    parser.add_argument("--split", help="all splits together if absent; held-out sets train on `train` in any case")
    parser.add_argument("--kind", choices=KINDS, action="append", help="all of them if absent")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("var/cache"))
    given = parser.parse_args()
    config = load_config(given.config).model_copy(update={"data": tuple(given.data), "aliases": given.aliases})
    run(config, given.split, given.kind or KINDS, given.cache, given.output)


if __name__ == "__main__":
    main()
