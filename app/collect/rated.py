"""Requests of the journal that were rated, as an outcomes dataset.

How it works: a rating is worth something where a model answered one prompt whose text is known; `REASONS` has what is
left out. Length and cost are those of one answer: of several choices the mean length, and no length where `max_tokens`
cut it; the cost of that and of the prompt, which was read once for all of them.

A name of the catalogue may have been another model's when it answered. Where the artifact's name for it was another one
then, or that is not known, the backend's, its rows have that behind their model's name: `fast@llama-8b`.

What an earlier export wrote into the folder stays, as far as this one has not read it again: a journal forgets.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from app.collect.progress import FILE_NAME
from app.domain.models import Model
from app.domain.usage import Usage
from app.errors import UsageError
from app.store.journal.rows import MOST_TEXT_CHARS
from router_models.outcomes.dataset import (
    OUTCOMES_NAME,
    PREDICTED_AS,
    PROMPTS_NAME,
    OutcomesDataset,
    OutcomesError,
    read_outcomes,
    write_outcomes,
)

NO_TENANT = "-"
"""What requests of keys without a tenant go by."""
Row = Mapping[str, Any]
"""Of the journal, as `app.store.journal.flat` makes it."""
_OWN = "journal"
_TEXTS_OF_PROMPTS = ("dataset", "task", "prompt", "messages", "reference", "grader", "split", "tenant")
_NUMBERS = ("score", "cost_usd", "latency_s", "mean_logprob", "propensity")
_PROMPTS = pa.schema([(name, pa.string()) for name in ("prompt_id", *_TEXTS_OF_PROMPTS)])
_OUTCOMES = pa.schema(
    [(name, pa.string()) for name in ("prompt_id", "model", PREDICTED_AS, "served_as")]
    + [(name, pa.float64()) for name in _NUMBERS]
    + [("input_tokens", pa.int64()), ("output_tokens", pa.int64()), ("artifact", pa.string())]
)


def refuse_foreign(folder: Path) -> None:
    """Let a folder be if there is nothing of a dataset in it, or only what an earlier export wrote.

    Raises:
        UsageError: it holds something that was collected, which writing would replace.
    """
    there = [name for name in (PROMPTS_NAME, OUTCOMES_NAME, FILE_NAME) if (folder / name).exists()]
    if there and (FILE_NAME in there or not _is_exported(folder / PROMPTS_NAME)):
        raise UsageError(f"{folder} holds a dataset that no export wrote; name another folder with --outcomes")


def _is_exported(prompts: Path) -> bool:
    try:
        return set(pq.read_table(prompts, columns=["dataset"])["dataset"].to_pylist()) <= {_OWN}
    except (OSError, KeyError, pa.ArrowException):
        return False


class Reason(NamedTuple):
    """Why a rated request is left out."""

    name: str
    words: str
    """How it goes on after "Not in it: 3, for"."""
    holds: Callable[[Row, Mapping[str, Any]], bool]
    """Asked with a row and what was asked for in it."""


# Of several the first counts.
REASONS = (
    # Such a rating is about what broke it, not about the model.
    Reason("broken", "their answers broke off or failed", lambda row, _: row["outcome"] != "ok"),
    Reason("embeddings", "embeddings are no answers", lambda row, _: row["operation"] == "embeddings"),
    Reason("batches", "they had several prompts each", lambda _, asked: asked.get("prompts", 1) > 1),
    # Of a question about a picture the text says next to nothing.
    Reason("pictures", "their prompts have pictures", lambda _, asked: "vision" in asked.get("needs", ())),
    # There was no room for more, or another release wrote it.
    Reason(
        "incomplete", "only parts of their records are kept", lambda row, _: not (row["asked"] and row["operation"])
    ),
    Reason("without_text", "their keys keep no text", lambda row, _: not row["keeps_text"]),
    Reason(
        "too_long",
        f"their prompts have more than {MOST_TEXT_CHARS:,} characters",
        lambda row, _: row["messages"] is None,
    ),
    Reason("empty", "no user says anything in them", lambda row, _: not _last_of_user(row["messages"])),
)


@dataclass(frozen=True)
class Written:
    """How many requests were rated, and how many of those a dataset leaves out."""

    rated: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    """By the name of the reason, where there are any."""
    kept: int = 0
    """What it has of earlier exports beside those."""
    by_name: int = 0
    """What their models were is not in their records: it is taken for what the catalogue calls so now."""


def write_rated(
    folder: Path,
    rows: Sequence[Row],
    models: Iterable[Model] = (),
    *,
    all_tenants: bool = False,
) -> Written:
    """Write an outcomes dataset of the rows that were answered and rated, and whose text was kept.

    `models` are those of the catalogue. Rows of an earlier export stay, unless they are among these.

    Raises:
        UsageError: prompts of several tenants would be in it, and `all_tenants` does not say that they may; or the
            earlier export cannot be read.
    """
    rated = [row for row in rows if row["score"] is not None and row["model"] and row["decision_id"]]
    reasons = [_reason(row) for row in rated]
    usable = [row for row, reason in zip(rated, reasons, strict=True) if reason is None]
    read_again = {row["decision_id"] for row in rated}
    kept = [one for one in _earlier(folder) if one["prompt_id"] not in read_again]
    catalog = {model.name: model for model in models}
    fresh = [_example(row, catalog.get(row["model"])) for row in usable]
    examples = _named([*kept, *fresh], catalog.values())
    if not all_tenants:
        _refuse_several(folder, tenants_of(examples))
    tables = (pa.Table.from_pylist(examples, schema) for schema in (_PROMPTS, _OUTCOMES))
    write_outcomes(folder, OutcomesDataset(*tables))
    return Written(
        rated=len(rated),
        left_out=Counter(reason for reason in reasons if reason),
        kept=len(kept),
        by_name=sum(row["served_as"] is None for row in usable),
    )


def _earlier(folder: Path) -> list[Row]:
    """What an export wrote there, one row for each prompt.

    Raises:
        UsageError: it cannot be read.
    """
    # One that was stopped before it had written the second file left nothing to keep.
    if not (folder / OUTCOMES_NAME).exists():
        return []
    try:
        dataset = read_outcomes(folder, may_be_empty=True)
    except OutcomesError as exc:
        raise UsageError(f"{exc}; what was exported there would be lost: name another folder with --outcomes") from exc
    prompts = {prompt["prompt_id"]: prompt for prompt in dataset.prompts.to_pylist()}
    nothing = dict.fromkeys([*_PROMPTS.names, *_OUTCOMES.names])
    return [{**nothing, **prompts[one["prompt_id"]], **one} for one in dataset.outcomes.to_pylist()]


def _reason(row: Row) -> str | None:
    asked = _asked(row)
    return next((reason.name for reason in REASONS if reason.holds(row, asked)), None)


def _asked(row: Row) -> Mapping[str, Any]:
    asked: Mapping[str, Any] = json.loads(row["asked"] or "{}")
    return asked


def tenants_of(rows: Iterable[Row]) -> list[str]:
    """Whose they are, sorted."""
    return sorted({row["tenant"] or NO_TENANT for row in rows})


def _refuse_several(folder: Path, tenants: Sequence[str]) -> None:
    """Nothing, where all that a dataset would have is one tenant's: what one taught is used for no other.

    Raises:
        UsageError: it is not.
    """
    if len(tenants) > 1:
        unnamed = f" ({NO_TENANT}: of keys without one)" if NO_TENANT in tenants else ""
        raise UsageError(
            f"{folder} would have rated prompts of several tenants: {', '.join(tenants)}{unnamed}; make a folder for "
            "each with --tenant NAME, or mix them with --all-tenants"
        )


class _Meant(NamedTuple):
    """The model that a name stands for."""

    served_as: str
    predicted_as: str | None

    def is_the_same_as(self, other: _Meant) -> bool:
        """What an artifact calls both decides where it knows both; else what their backends call them."""
        if self.predicted_as is None or other.predicted_as is None:
            return self.served_as == other.served_as
        return self.predicted_as == other.predicted_as


def _named(examples: Sequence[Row], models: Iterable[Model]) -> list[Row]:
    """The same under names each of which is one model's: what the catalogue says, or said last, has the plain one."""
    now = {one["model"]: _Meant(one["served_as"], one[PREDICTED_AS]) for one in examples if one["served_as"]}
    now |= {model.name: _Meant(model.served_as, model.predicted_as) for model in models}
    return [{**one, **_name(one, now.get(one["model"]))} for one in examples]


def _name(example: Row, now: _Meant | None) -> Mapping[str, str | None]:
    if now is None:
        return {}
    if example["served_as"] is None:
        return now._asdict()
    then = _Meant(example["served_as"], example[PREDICTED_AS])
    if then.is_the_same_as(now):
        return {PREDICTED_AS: now.predicted_as}
    return {"model": f"{example['model']}@{then.predicted_as or then.served_as}"}


def _example(row: Row, model: Model | None) -> Row:
    """All columns of both files; `model` has the name of who answered in the catalogue."""
    return {
        **row,
        "prompt_id": row["decision_id"],
        "dataset": _OWN,
        "task": row["operation"],
        "prompt": _last_of_user(row["messages"]),
        "latency_s": row["duration_s"],
        **_of_one_answer(row, model),
    }


def _of_one_answer(row: Row, model: Model | None) -> dict[str, Any]:
    """What one of its choices took; how long an answer would be that was cut is not known."""
    choices, most = _asked(row).get("choices", 1), row["max_tokens"]
    tokens = row["output_tokens"]
    is_known = tokens is not None and (most is None or tokens < most * choices)
    return {
        "output_tokens": round(tokens / choices) if is_known else None,
        "cost_usd": row["cost_usd"] if choices == 1 else _usd_of_one(row, choices, model),
    }


def _usd_of_one(row: Row, choices: int, model: Model | None) -> float | None:
    """Of the cost the share of the prompt, and of one of several answers; None where no price tells them apart."""
    paid_usd, read, written = row["cost_usd"], row["input_tokens"], row["output_tokens"]
    if model is None or row["served_as"] not in (None, model.served_as) or None in (paid_usd, read, written):
        return None
    cached = row["cached_input_tokens"] or 0
    prompt_usd, all_usd = (Usage(read, tokens, cached).cost_usd(model.price) for tokens in (0, written))
    if prompt_usd is None or not all_usd:
        return None
    share = prompt_usd / all_usd
    return float(paid_usd * (share + (1 - share) / choices))


def _last_of_user(messages: str | None) -> str | None:
    turns = json.loads(messages) if messages else []
    content = next((turn.get("content") for turn in reversed(turns) if turn["role"] == "user"), None)
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part.get("type") == "text")
    return None if content is None else str(content)
