"""An outcomes dataset: what real models answered to real prompts, and how good the answers were.

A folder with `prompts.parquet` (prompt_id, dataset, task, prompt, messages, reference, grader, split) and
`outcomes.parquet` (prompt_id, model, score in [0, 1], cost_usd, input_tokens, output_tokens, latency_s, mean_logprob).
Everything after the score may be null, NaN or absent; extra columns are kept. A model without an outcome on a prompt is
missing there, never 0. Texts may be of any type of text, ids and splits whole numbers too, and a score true or false. A
split that is an empty text is none, as where prompts are collected. `messages` is a list of {role, content}, as JSON
too, or nothing where the prompt was sent alone. `predicted_as`, where it is there, is what an artifact calls the row's
model.

Legend of array suffixes: B prompts, M models.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from router_models.reading.conversation import Conversation

PROMPTS_NAME, OUTCOMES_NAME = "prompts.parquet", "outcomes.parquet"
PROMPT_COLUMNS = ("prompt_id", "prompt")
OUTCOME_COLUMNS = ("prompt_id", "model", "score")
PREDICTED_AS = "predicted_as"
NAMES = ("prompt_id", "prompt", "model")
"""Texts that a dataset cannot do without."""
NUMBERED = ("prompt_id", "split")
"""Texts that may be whole numbers."""
TEXTS = (*NAMES, "dataset", "task", "messages", "reference", "grader", "split", PREDICTED_AS)
NUMBERS = ("score", "cost_usd", "input_tokens", "output_tokens", "latency_s", "mean_logprob")


class OutcomesError(ValueError):
    """A dataset cannot be used; the message is one line that names the file and what is wrong."""


@dataclass(frozen=True)
class OutcomesDataset:
    """Prompts, and one row per (prompt, model) that was graded."""

    prompts: pa.Table
    outcomes: pa.Table

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Names of all models with an outcome, sorted."""
        return tuple(sorted(pc.unique(self.outcomes["model"]).to_pylist()))

    def known_as(self, names: Collection[str]) -> dict[str, str]:
        """Which of these names its models have, as far as was said when they were asked; by their names here."""
        if PREDICTED_AS not in self.outcomes.column_names:
            return {}
        pairs = self.outcomes.select(["model", PREDICTED_AS]).group_by(["model", PREDICTED_AS]).aggregate([])
        said = zip(pairs["model"].to_pylist(), pairs[PREDICTED_AS].to_pylist(), strict=True)
        return {model: column for model, column in said if column in names}

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {prompt_id: row for row, prompt_id in enumerate(self.prompts["prompt_id"].to_pylist())}

    def matrix(self, column: str, models: Sequence[str]) -> np.ndarray:
        """One number per prompt and model as float64 [B, M], in the order of `prompts` and `models`; NaN is missing.

        Raises:
            OutcomesError: the column is not one of numbers.
        """
        values_BM = np.full((self.prompts.num_rows, len(models)), np.nan)
        if column not in self.outcomes.column_names:
            if column in NUMBERS:
                return values_BM
            raise OutcomesError(f"outcomes have no column {column}")
        column_of = {model: index for index, model in enumerate(models)}
        columns = np.array([column_of.get(model, -1) for model in self.outcomes["model"].to_pylist()], dtype=int)
        rows = np.array([self._row_of[prompt_id] for prompt_id in self.outcomes["prompt_id"].to_pylist()], dtype=int)
        values = self.outcomes[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
        wanted = columns >= 0
        values_BM[rows[wanted], columns[wanted]] = values[wanted]
        return values_BM

    def split(self, name: str) -> OutcomesDataset:
        """The part whose prompts have this split.

        Raises:
            OutcomesError: there is none.
        """
        known = self.prompts["split"].to_pylist() if "split" in self.prompts.column_names else []
        keep = np.array([value == name for value in known], dtype=bool)
        if not keep.any():
            there = ", ".join(sorted({str(value) for value in known if value is not None})) or "no splits at all"
            raise OutcomesError(f"no prompt has split {name}; there are {there}")
        return self.select(keep)

    def select(self, keep_B: np.ndarray) -> OutcomesDataset:
        """The part with the prompts for which `keep_B` (bool [B]) is true."""
        prompts = self.prompts.filter(pa.array(keep_B))
        return OutcomesDataset(
            prompts, self.outcomes.filter(pc.is_in(self.outcomes["prompt_id"], prompts["prompt_id"].combine_chunks()))
        )

    def renamed(self, names: Mapping[str, str]) -> OutcomesDataset:
        """The same with other names of models; where several become one, its numbers are their means per prompt."""
        old = self.outcomes["model"].to_pylist()
        new = [names.get(model, model) for model in old]
        outcomes = self.outcomes.set_column(
            self.outcomes.column_names.index("model"), "model", pa.array(new, pa.string())
        )
        if len(set(zip(self.outcomes["prompt_id"].to_pylist(), new, strict=True))) < len(new):
            outcomes = mean_outcomes(outcomes)
        return OutcomesDataset(self.prompts, outcomes)

    def conversations(self) -> list[Conversation]:
        """What the models read, as (role, text) pairs, in prompt order."""
        prompts = self.prompts["prompt"].to_pylist()
        rows = (
            self.prompts["messages"].to_pylist() if "messages" in self.prompts.column_names else [None] * len(prompts)
        )
        return [_conversation(messages, prompt) for messages, prompt in zip(rows, prompts, strict=True)]


def mean_outcomes(outcomes: pa.Table) -> pa.Table:
    """One row per prompt and model, with the means of its numbers as far as they are known; other columns go."""
    numbers = [name for name in NUMBERS if name in outcomes.column_names]
    means = outcomes.group_by(["prompt_id", "model"], use_threads=False).aggregate([(n, "mean") for n in numbers])
    return means.rename_columns([name.removesuffix("_mean") for name in means.column_names])


def _conversation(messages: str | None, prompt: str) -> Conversation:
    if not messages:
        return (("user", prompt),)
    return tuple((str(turn["role"]), _text(turn.get("content"))) for turn in json.loads(messages))


def tasks_of(dataset: OutcomesDataset) -> list[str]:
    """The task of each prompt, as text also where it is a number; "" where there is none."""
    if "task" not in dataset.prompts.column_names:
        return [""] * dataset.prompts.num_rows
    return ["" if task is None else str(task) for task in dataset.prompts["task"].to_pylist()]


def _text(content: object) -> str:
    """The text of a message; parts that are not text are left out."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def read_outcomes(folder: Path, *, may_be_empty: bool = False) -> OutcomesDataset:
    """The dataset in a folder, checked.

    Raises:
        OutcomesError: a file or column is missing, a column is of another type, a score lies outside [0, 1], a prompt
            is unknown, a row is there twice, a model has no name, messages are no conversation, a number is none, or
            there are no rows and it may not be empty.
    """
    dataset = OutcomesDataset(
        _read(folder / PROMPTS_NAME, PROMPT_COLUMNS), _read(folder / OUTCOMES_NAME, OUTCOME_COLUMNS)
    )
    for table, name in ((dataset.prompts, PROMPTS_NAME), (dataset.outcomes, OUTCOMES_NAME)):
        if not (table.num_rows or may_be_empty):
            raise OutcomesError(f"{folder / name} has no rows")
    _check_prompts(dataset.prompts, folder / PROMPTS_NAME)
    _check_outcomes(dataset, folder / OUTCOMES_NAME)
    return OutcomesDataset(_without_empty_splits(dataset.prompts), _with_nulls(dataset.outcomes))


def _read(path: Path, required: Sequence[str]) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise OutcomesError(f"{path}: No such file; name a dataset folder") from exc
    except (OSError, pa.ArrowException) as exc:
        raise OutcomesError(f"{path} cannot be read as Parquet: {str(exc).splitlines()[0]}") from exc
    if missing := [column for column in required if column not in table.column_names]:
        raise OutcomesError(f"{path} has no column {missing[0]}")
    return _in_one_form(table, path)


def _in_one_form(table: pa.Table, path: Path) -> pa.Table:
    """The same with texts as strings and numbers as numbers, in whichever of their types the file has them.

    Raises:
        OutcomesError: a column holds something that would have to be guessed.
    """
    for place, name in enumerate(table.column_names):
        if name in TEXTS or name in NUMBERS:
            values = table[name]
            if pa.types.is_dictionary(values.type):
                values = values.cast(values.type.value_type)
            read = _numbers if name in NUMBERS else _texts
            table = table.set_column(place, name, read(values, name, path))
    return table


def _texts(values: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    kind, may_be_number = values.type, name in NUMBERED
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or (may_be_number and pa.types.is_integer(kind)):
        return values.cast(pa.string())
    if name == "messages" and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        sent = [json.dumps(turns, default=str) if turns else None for turns in values.to_pylist()]
        return pa.chunked_array([sent], pa.string())
    if name in (*NAMES, "split", PREDICTED_AS) and not (pa.types.is_string(kind) or pa.types.is_null(kind)):
        expected = "texts or whole numbers" if may_be_number else "texts"
        raise OutcomesError(f"{path}: {name} is of type {kind}; write {expected}")
    return values


def _numbers(values: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    kind, is_score = values.type, name == "score"
    if pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return values
    is_number = pa.types.is_float16(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    if is_number or (is_score and pa.types.is_boolean(kind)):
        return values.cast(pa.float64())
    expected = "numbers from 0 to 1, or true and false" if is_score else "numbers"
    raise OutcomesError(f"{path}: {name} is of type {kind}; write {expected}")


def _check_prompts(prompts: pa.Table, path: Path) -> None:
    ids = prompts["prompt_id"].to_pylist()
    if None in ids:
        raise OutcomesError(f"{path}: a prompt has no prompt_id")
    if len(set(ids)) != len(ids):
        raise OutcomesError(f"{path}: prompt {_first_double(ids)} is there twice")
    texts = prompts["prompt"].to_pylist()
    if silent := [name for name, text in zip(ids, texts, strict=True) if not isinstance(text, str)]:
        raise OutcomesError(f"{path}: prompt {silent[0]} has no text; leave it out")
    sent = prompts["messages"].to_pylist() if "messages" in prompts.column_names else []
    if odd := [name for name, messages in zip(ids, sent, strict=False) if messages and not _is_conversation(messages)]:
        raise OutcomesError(f"{path}: messages of prompt {odd[0]} are not a JSON list of {{role, content}}")


def _is_conversation(messages: object) -> bool:
    try:
        turns = json.loads(messages) if isinstance(messages, str) else None
    except (ValueError, RecursionError):
        return False
    return isinstance(turns, list) and bool(turns) and all(_is_turn(turn) for turn in turns)


def _is_turn(turn: object) -> bool:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        return False
    # A message that only calls tools has no content.
    return isinstance(turn.get("content"), str | list | None)


def _check_outcomes(dataset: OutcomesDataset, path: Path) -> None:
    asked = list(zip(dataset.outcomes["prompt_id"].to_pylist(), dataset.outcomes["model"].to_pylist(), strict=True))
    if not all(isinstance(model, str) and model for _, model in asked):
        raise OutcomesError(f"{path}: a model has no name; leave the row out")
    if unknown := {prompt_id for prompt_id, _ in asked} - set(dataset.prompts["prompt_id"].to_pylist()):
        raise OutcomesError(f"{path}: prompt {min(map(str, unknown))} is not in {PROMPTS_NAME}")
    if len(set(asked)) != len(asked):
        raise OutcomesError(f"{path}: (prompt, model) {_first_double(asked)} is there twice")
    _check_scores(dataset.outcomes["score"], asked, path)
    for column in NUMBERS:
        if column in dataset.outcomes.column_names:
            _check_numbers(dataset.outcomes[column], column, path)


def _check_scores(values: pa.ChunkedArray, asked: Sequence[tuple[str, str]], path: Path) -> None:
    scores = values.cast(pa.float64()).to_numpy()
    wrong = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if not len(wrong):
        return
    (prompt_id, model), score = asked[wrong[0]], scores[wrong[0]]
    if np.isnan(score):
        raise OutcomesError(f"{path}: a score is missing, of {model} on prompt {prompt_id}; leave the row out")
    raise OutcomesError(
        f"{path}: a score lies outside 0 to 1, {score:g} of {model} on prompt {prompt_id}; divide percentages by 100"
    )


def _check_numbers(values: pa.ChunkedArray, column: str, path: Path) -> None:
    numbers = values.cast(pa.float64()).drop_null().to_numpy()
    if np.isinf(numbers).any():
        raise OutcomesError(f"{path}: an infinite {column}")
    if column not in ("score", "mean_logprob") and np.any(numbers < 0):
        raise OutcomesError(f"{path}: a negative {column}")


def _without_empty_splits(prompts: pa.Table) -> pa.Table:
    """The same with null for a split that is an empty text."""
    if "split" not in prompts.column_names or not pa.types.is_string(prompts["split"].type):
        return prompts
    splits = prompts["split"]
    named = pc.if_else(pc.equal(splits, ""), None, splits)
    return prompts.set_column(prompts.column_names.index("split"), "split", named)


def _with_nulls(outcomes: pa.Table) -> pa.Table:
    """The same with null for NaN, which would spread to whatever is averaged with it."""
    for place, name in enumerate(outcomes.column_names):
        values = outcomes[name]
        if name in NUMBERS and pa.types.is_floating(values.type):
            outcomes = outcomes.set_column(place, name, pc.if_else(pc.is_nan(values), None, values))
    return outcomes


def _first_double(values: Sequence[object]) -> object:
    counted = Counter(values)
    return next(value for value in values if counted[value] > 1)


def write_outcomes(folder: Path, dataset: OutcomesDataset) -> None:
    """Write both files; each appears whole or not at all.

    Raises:
        OSError: one cannot be written, with its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in ((PROMPTS_NAME, dataset.prompts), (OUTCOMES_NAME, dataset.outcomes)):
        path = folder / name
        unfinished = path.with_suffix(".parquet.part")
        try:
            pq.write_table(table, unfinished, compression="zstd")
            os.replace(unfinished, path)  # noqa: PTH105  # one atomic step
        except OSError as exc:
            # pyarrow's own errors have no file name, and a text of their own where the system has one.
            reason = os.strerror(exc.errno) if exc.errno else str(exc)
            raise OSError(exc.errno, reason, str(unfinished)) from exc


def aliases_of(path: Path, dataset: str) -> dict[str, str]:
    """Canonical names by the names of one dataset, from a file {canonical: {dataset: [names there]}}.

    Raises:
        OutcomesError: the file cannot be read or has another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = {canonical: sets.get(dataset, []) for canonical, sets in content.items()}
        if not all(isinstance(names, list) for names in listed.values()):
            raise TypeError("expected lists of names")
        return {str(name): str(canonical) for canonical, names in listed.items() for name in names}
    except OSError as exc:
        raise OutcomesError(f"{path}: {exc.strerror}; name the file of aliases") from exc
    except (ValueError, AttributeError, TypeError) as exc:
        raise OutcomesError(f"{path} is not {{canonical name: {{dataset: [names there]}}}}") from exc
