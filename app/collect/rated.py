"""Requests of the journal that were rated, as an outcomes dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.collect.progress import FILE_NAME
from app.errors import UsageError
from router_models.outcomes import OUTCOMES_NAME, PREDICTED_AS, PROMPTS_NAME, OutcomesDataset, write_outcomes

NO_TENANT = "-"
"""What requests of keys without a tenant go by."""
_OWN = "journal"
_NOBODY: Mapping[str, str | None] = MappingProxyType({})


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


@dataclass(frozen=True)
class Written:
    """How many requests were rated, and how many of those a dataset leaves out."""

    rated: int
    broken: int = 0
    """Their answers did not end well."""
    without_text: int = 0
    """Whole, but without text to learn from."""


def write_rated(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    known_as: Mapping[str, str | None] = _NOBODY,
    *,
    all_tenants: bool = False,
) -> Written:
    """Write an outcomes dataset of the rows that were answered and rated, and whose text was kept.

    `known_as` is what an artifact calls the catalogue's models.

    Raises:
        UsageError: prompts of several tenants would be in it, and `all_tenants` does not say that they may.
    """
    rated = [row for row in rows if row["score"] is not None and row["model"] and row["decision_id"]]
    # A rating of an answer that broke is about what broke it, not about the model.
    whole = [row for row in rated if row["outcome"] == "ok"]
    readable = [row for row in whole if _last_of_user(row["messages"])]
    if not all_tenants:
        _refuse_several(folder, tenants_of(readable))
    write_outcomes(folder, OutcomesDataset(_prompts(readable), _outcomes(readable, known_as)))
    return Written(len(rated), len(rated) - len(whole), len(whole) - len(readable))


def tenants_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
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


def _prompts(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    texts = {"prompt_id", "dataset", "task", "prompt", "messages", "reference", "grader", "split", "tenant"}
    schema = pa.schema([(name, pa.string()) for name in sorted(texts)])
    return pa.Table.from_pylist(
        [
            {
                "prompt_id": row["decision_id"],
                "dataset": _OWN,
                "task": row["operation"],
                "prompt": _last_of_user(row["messages"]),
                "messages": row["messages"],
                "tenant": row["tenant"],
            }
            for row in rows
        ],
        schema,
    )


def _outcomes(rows: Sequence[Mapping[str, Any]], known_as: Mapping[str, str | None]) -> pa.Table:
    numbers = ("score", "cost_usd", "latency_s", "mean_logprob", "propensity")
    schema = pa.schema(
        [("prompt_id", pa.string()), ("model", pa.string()), (PREDICTED_AS, pa.string())]
        + [(name, pa.float64()) for name in numbers]
        + [("input_tokens", pa.int64()), ("output_tokens", pa.int64()), ("artifact", pa.string())]
    )
    more = {"prompt_id": "decision_id", "latency_s": "duration_s"}
    return pa.Table.from_pylist(
        [
            {**row, **{name: row[column] for name, column in more.items()}, PREDICTED_AS: known_as.get(row["model"])}
            for row in rows
        ],
        schema,
    )


def _last_of_user(messages: str | None) -> str | None:
    turns = json.loads(messages) if messages else []
    content = next((turn.get("content") for turn in reversed(turns) if turn["role"] == "user"), None)
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part.get("type") == "text")
    return None if content is None else str(content)
