"""From outcomes datasets to an artifact: rows, trials on what was held out, parts, calibration.

How it works: see `rows` for what is learned from, `trials` for how it is judged, `parts` for what is fitted,
`calibration` for what makes it mean something. The same configuration, data and seed give the same numbers.

Legend of array suffixes: B rows, F inputs, T tasks, R rules, M models, P pools.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from router_models.aptitude import why_ungradable
from router_models.heads.tryage import Blend, Speed
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError
from router_models.reading.conversation import parts
from router_models.reading.features import Encoder, TransformerEncoder
from router_models.reading.spelling import common_words
from router_models.reading.static_encoder import StaticEncoder
from router_models.reading.surface import NAMES as SURFACE_NAMES
from router_models.reading.wordpiece import FastWordPiece
from router_models.storage.artifact import Artifact
from router_models.storage.calibration import Calibration
from router_models.training import calibration
from router_models.training.config import TrainingConfig
from router_models.training.encoder import cached_inputs, static_table
from router_models.training.head import Finished, evidence, finish
from router_models.training.parts import fit_parts, kmeans
from router_models.training.rows import Inputs, Library, Reading, Rows
from router_models.training.tables import never_asked
from router_models.training.trials import held_out_questions, held_out_tasks, joined

Bar = Callable[[str, int], Callable[[], object]]
"""Opens a progress bar with a name and a number of steps; what it returns is called after each step."""


@dataclass(frozen=True)
class Encoders:
    """Files of the encoders of a run."""

    transformer: bytes | None
    tokenizer: bytes
    static: Mapping[str, np.ndarray] | None
    words: tuple[str, ...]
    """Common in the prompts, which slips are mended to."""

    @property
    def speeds(self) -> tuple[Speed, ...]:
        """In the order in which they read."""
        return (*(("static",) if self.static is not None else ()), *(("transformer",) if self.transformer else ()))


def train(config: TrainingConfig, pools: Reading, encoder: tuple[bytes, bytes], cache: Path, bar: Bar) -> Artifact:
    """An artifact from what `training_pools` read.

    Raises:
        OutcomesError: a prompt marked `anchor` cannot be graded.
    """
    torch.set_num_threads(1)
    rows, library = pools.rows, pools.library
    encoders, inputs = read_inputs(config, encoder, pools, cache, bar)
    if config.wording_groups:
        embedding_BD = inputs[encoders.speeds[-1]][:, : -len(SURFACE_NAMES)]
        wording_B = kmeans(embedding_BD, config.wording_groups, config.seed)[1]
        # Rows of one question stay together: all go where its first one goes.
        _, first, question_B = np.unique(rows.group, return_index=True, return_inverse=True)
        rows = replace(rows, group=wording_B[first][question_B])
    if len(np.unique(rows.group)) < 2:
        raise OutcomesError(f"all {len(rows)} prompts are one question; at least two are needed, to hold one back")
    questions = held_out_questions(config, library, rows, inputs, bar("trials on held-out questions", config.folds))
    tasks = held_out_tasks(config, library, rows, inputs, bar("trials on held-out tasks", config.task_folds))
    parts = fit_parts(config, library, rows, inputs, config.seed)
    familiar, unfamiliar = (evidence(rows, joined(folds)) for folds in (questions, tasks))
    finished = finish(config, library, parts, familiar, unfamiliar)
    return Artifact(
        name=config.name,
        models=library.models,
        settings=finished.settings,
        encoder=encoders.transformer,
        static=encoders.static,
        tokenizer=encoders.tokenizer,
        heads={name: _stored(tensor) for name, tensor in finished.tensors.items()},
        calibration=_calibration_rows(config, library, pools.rows.group, finished),
        about=_about(config, pools, finished.figures),
        pools=library.pools,
        tasks=library.tasks,
        aliases=library.aliases,
        words=encoders.words,
        anchors=_anchors(pools) if config.anchors else (),
    )


def read_inputs(
    config: TrainingConfig, encoder: tuple[bytes, bytes], pools: Reading, cache: Path, bar: Bar
) -> tuple[Encoders, Inputs]:
    """The encoders of a run, and what they read of its rows."""
    model, tokenizer = encoder
    static = static_table(pools.conversations, tokenizer, config.static.smoothing, cache) if config.static else None
    words = common_words(map(parts, pools.conversations))
    encoders = Encoders(model if config.transformer else None, tokenizer, static, words)
    wordpiece, read_as = FastWordPiece(tokenizer, words), "\n".join(words).encode()
    readers: dict[Speed, tuple[Encoder, bytes]] = {}
    if static is not None:
        identity = static["table_VD"].tobytes() + static["scale_V"].tobytes()
        readers["static"] = (StaticEncoder(static["table_VD"], static["scale_V"], wordpiece), identity + read_as)
    if encoders.transformer is not None:
        identity = encoders.transformer + read_as
        readers["transformer"] = (TransformerEncoder(encoders.transformer, wordpiece), identity)
    conversations = pools.conversations
    return encoders, {
        speed: cached_inputs(
            reader, identity, conversations, cache, bar(f"reading prompts, {speed}", len(conversations))
        )
        for speed, (reader, identity) in readers.items()
    }


def _stored(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(np.float32) if tensor.dtype == np.float64 else tensor


def _calibration_rows(
    config: TrainingConfig, library: Library, question_B: np.ndarray, finished: Finished
) -> Calibration:
    """Predictions on held-out questions beside what happened, drawn evenly from the pools: a row for each question.

    `question_B` has equal numbers for equal questions of the rows of the run. Where several rows of a pool ask one, it
    is read as the first of them is, and what happened is their mean.
    """
    familiar, rng = finished.familiar, np.random.default_rng(config.seed)
    asked_2B = np.stack([familiar.rows.pool, question_B[familiar.trial.rows]])
    _, first, place_B = np.unique(asked_2B, axis=1, return_index=True, return_inverse=True)
    share = config.calibration_rows / len(library.pools)
    ends = np.round(np.arange(len(library.pools) + 1) * share).astype(int)
    drawn = [
        rng.permutation(np.sort(first[familiar.rows.pool[first] == pool]))[: ends[pool + 1] - ends[pool]]
        for pool in range(len(library.pools))
    ]
    kept = np.sort(np.concatenate(drawn))
    rows, readings = familiar.rows.take(kept), familiar.trial.take(kept).readings
    happened = [
        calibration.by_model(rows, library, _means(value_BR, place_B)[place_B[kept]])
        for value_BR in (familiar.rows.score, familiar.rows.output_tokens, familiar.rows.input_tokens)
    ]
    head = finished.head(len(library.models))
    read = [readings[speed] for speed in head.speeds]
    prediction = head.conclude(read)
    return Calibration(
        quality=prediction.quality,
        score=happened[0],
        output_tokens=prediction.output_tokens,
        real_output_tokens=happened[1],
        input_tokens=happened[2],
        dataset=rows.pool.astype(np.int32),
        datasets=library.pools,
        kind=Blend.of(read).task_BT,
    )


def _means(value_BR: np.ndarray, place_B: np.ndarray) -> np.ndarray:
    """Means over the rows with the same place, as far as they are known [places, R]."""
    known_BR = np.isfinite(value_BR)
    total_QR, count_QR = (np.zeros((place_B.max() + 1, value_BR.shape[1])) for _ in range(2))
    np.add.at(total_QR, place_B, np.where(known_BR, value_BR, 0))
    np.add.at(count_QR, place_B, known_BR)
    means_QR: np.ndarray = np.divide(total_QR, count_QR, out=np.full_like(total_QR, np.nan), where=count_QR > 0)
    return means_QR


def _anchors(pools: Reading) -> tuple[dict[str, Any], ...]:
    """The prompts marked as free to travel, with what it takes to grade an answer, and the old models' scores."""
    anchors = []
    for pool, dataset in zip(pools.library.pools, pools.datasets, strict=True):
        if "anchor" in dataset.prompts.column_names:
            marked = [bool(mark) for mark in dataset.prompts["anchor"].to_pylist()]
            anchors += _anchors_of(pool, dataset.select(np.array(marked)))
    return tuple(anchors)


def _anchors_of(pool: str, dataset: OutcomesDataset) -> list[dict[str, Any]]:
    if not dataset.prompts.num_rows:
        return []
    score_BM = dataset.matrix("score", dataset.models)
    anchors = []
    for row, prompt in enumerate(dataset.prompts.to_pylist()):
        if not prompt.get("grader"):
            raise OutcomesError(f"{pool}: prompt {prompt['prompt_id']} is marked `anchor` and has no grader")
        scores = {m: round(float(s), 4) for m, s in zip(dataset.models, score_BM[row], strict=True) if np.isfinite(s)}
        messages = json.loads(prompt["messages"]) if prompt.get("messages") else None
        kept = {name: prompt.get(name) for name in ("prompt_id", "task", "prompt", "reference", "grader")}
        anchors.append({"pool": pool, **kept, "messages": messages, "scores": scores})
    _refuse_ungradable(pool, anchors)
    return anchors


def _refuse_ungradable(pool: str, anchors: Sequence[Mapping[str, Any]]) -> None:
    found = why_ungradable([(pool, anchor["grader"], anchor["reference"] or "") for anchor in anchors])
    if found is not None:
        raise OutcomesError(
            f"{pool}: prompt {anchors[found[0]]['prompt_id']} is marked `anchor`, and an exam cannot grade it: "
            f"{found[1]}; take the mark away, or mend its grader and reference"
        )


def _about(config: TrainingConfig, pools: Reading, figures: Mapping[str, Any]) -> dict[str, Any]:
    rows, library = pools.rows, pools.library
    means = np.nanmean(np.where(rows.is_second[:, None], np.nan, rows.score), axis=0)
    return {
        "about": config.about,
        "licences": list(config.licences),
        "limits": list(config.limits),
        "seed": config.seed,
        "code_commit": _code_commit(),
        "data": {
            "split": config.split,
            **({"drawn_splits": drawn} if (drawn := pools.undivided) else {}),
            "sha256": _data_fingerprint(pools),
            "pools": {
                name: {
                    "prompts": int(((rows.pool == pool) & ~rows.is_second).sum()),
                    "outcomes": int(np.isfinite(rows.score[(rows.pool == pool) & ~rows.is_second]).sum()),
                    "models": int((library.pool_R == pool).sum()),
                    "tasks": int((library.pool_T == pool).sum()),
                    **({"never_asked": unasked} if (unasked := _never_asked(library, rows, pool)) else {}),
                }
                for pool, name in enumerate(library.pools)
            },
        },
        "tuning": dict(figures),
        "mean_score": {
            name: {
                library.models[library.model_R[rule]]: round(float(means[rule]), 4)
                for rule in np.flatnonzero(library.pool_R == pool)
            }
            for pool, name in enumerate(library.pools)
        },
    }


def _never_asked(library: Library, rows: Rows, pool: int) -> dict[str, list[str]]:
    """The models of a pool without any outcome on one of its tasks, by task."""
    missing_TR = never_asked(library, rows)[library.pool_T == pool]
    tasks = [task.split("/", 1)[1] for task, own in zip(library.tasks, library.pool_T == pool, strict=True) if own]
    return {
        task: [library.models[library.model_R[rule]] for rule in np.flatnonzero(missing_R)]
        for task, missing_R in zip(tasks, missing_TR, strict=True)
        if missing_R.any()
    }


def _data_fingerprint(pools: Reading) -> str:
    """SHA-256 over what was learned from, in order: names, prompts, which are the same question, and outcomes."""
    library, rows, total = pools.library, pools.rows, hashlib.sha256()
    total.update(json.dumps([library.models, library.pools, library.tasks, library.model_R.tolist()]).encode())
    for prompt_id, conversation in zip(pools.prompt_ids, pools.conversations, strict=True):
        total.update(f"{prompt_id}\0{conversation}\0".encode(errors="replace"))
    for values in (rows.task, rows.group, rows.weight, rows.score, rows.output_tokens, rows.input_tokens):
        total.update(np.ascontiguousarray(values).tobytes())
    return total.hexdigest()


def _code_commit() -> str:
    """The checkout's commit, with a plus where this package was changed since; "unknown" outside of one."""
    package = Path(__file__).resolve().parents[1]
    commit, changes = _git(package, "rev-parse", "--short=12", "HEAD"), _git(package, "status", "--porcelain", "*.py")
    return "unknown" if commit is None or changes is None else commit + ("+" if changes else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git, no checkout or no answer."""
    try:
        said = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
