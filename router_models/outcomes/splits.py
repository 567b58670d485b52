"""Which prompts are learned from and which are measured on, where a dataset does not say: drawn by what they ask.

How it works: a hash of the text, or of the whole conversation that it ends, without spacing and capitals, falls into
one of the shares. So the same question is always on the same side, in whatever dataset it stands, and more prompts move
none. A dataset of which any prompt has a split is left as it is.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

from router_models.outcomes.dataset import OutcomesDataset
from router_models.outcomes.questions import question_hash, question_texts

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
DRAWN = "no prompt has a split, so each was given one by its text: " + ", ".join(
    f"{share:.0%} {name}" for name, share in SHARES.items()
)
"""What is said of a dataset whose splits were drawn."""


def is_undivided(dataset: OutcomesDataset) -> bool:
    """Whether no prompt has a split."""
    prompts = dataset.prompts
    return "split" not in prompts.column_names or prompts["split"].null_count == prompts.num_rows


def split_names(dataset: OutcomesDataset) -> list[str]:
    """The splits a dataset has, sorted."""
    known = dataset.prompts["split"].to_pylist() if "split" in dataset.prompts.column_names else []
    return sorted({str(name) for name in known if name is not None})


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
