"""Which prompts are learned from and which are measured on, where a dataset does not say: drawn by what they ask.

How it works: a hash of the text, or of the whole conversation that it ends, without spacing and capitals, falls into
one of the shares. So the same question is always on the same side, in whatever dataset it stands, and more prompts move
none. A dataset of which any prompt has a split is left as it is: its prompts without one are in no part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from router_models.outcomes.dataset import OutcomesDataset
from router_models.outcomes.questions import question_hash, question_texts

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
DRAWN = "no prompt has a split, so each was given one by its text: " + ", ".join(
    f"{share:.0%} {name}" for name, share in SHARES.items()
)
"""What is said of a dataset whose splits were drawn."""
MEASURED = ("dev", "test")
"""Splits that are measured on where none is named: the first of them that is there."""


@dataclass(frozen=True)
class Division:
    """How the prompts of a dataset are divided."""

    drawn: bool
    """Whether no prompt has a split, so that each was given one."""
    splits: tuple[str, ...]
    apart: int
    """Prompts without a split where others have one."""
    prompts: int

    def note(self) -> str | None:
        """What an operator may not know of it, if anything."""
        if self.apart:
            return f"{self.apart} of {self.prompts} prompts are left out: they have no split, and others have one"
        return DRAWN if self.drawn else None


def is_undivided(dataset: OutcomesDataset) -> bool:
    """Whether no prompt has a split."""
    prompts = dataset.prompts
    return "split" not in prompts.column_names or prompts["split"].null_count == prompts.num_rows


def split_names(dataset: OutcomesDataset) -> list[str]:
    """The splits a dataset has, sorted."""
    known = dataset.prompts["split"].to_pylist() if "split" in dataset.prompts.column_names else []
    return sorted({str(name) for name in known if name is not None})


def division(dataset: OutcomesDataset) -> Division:
    """How a dataset is divided, also where that has to be drawn."""
    divided = with_splits(dataset)
    prompts = divided.prompts
    return Division(
        drawn=is_undivided(dataset),
        splits=tuple(split_names(divided)),
        apart=prompts["split"].null_count,
        prompts=prompts.num_rows,
    )


def measured_unasked(splits: Collection[str]) -> str | None:
    """Which of these splits is measured on where none is named; None where somebody has to name one."""
    return next((split for split in MEASURED if split in splits), None)


def with_splits(dataset: OutcomesDataset) -> OutcomesDataset:
    """The dataset, with a split for each prompt if none has one."""
    if not is_undivided(dataset):
        return dataset
    prompts = dataset.prompts
    drawn = pa.array([drawn_split(text) for text in question_texts(dataset)], pa.string())
    others = prompts.drop_columns(["split"]) if "split" in prompts.column_names else prompts
    return OutcomesDataset(others.append_column("split", drawn), dataset.outcomes)


def drawn_split(text: str) -> str:
    """The split of a question with this text."""
    place = int.from_bytes(hashlib.sha256(f"split/{question_hash(text)}".encode()).digest()[:8]) / 2**64
    for name, share in SHARES.items():
        if place < share:
            return name
        place -= share
    return name
