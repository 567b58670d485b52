"""Outcomes with a split for each prompt, and what is said where those were drawn."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router_models.outcomes.dataset import OutcomesDataset


def divided(name: str, dataset: OutcomesDataset, split: str | None = None) -> OutcomesDataset:
    """A dataset of this name with splits, drawn and said to be so where it has none; or one of them.

    Raises:
        OutcomesError: no prompt has that split.
    """
    from router_models.outcomes.splits import DRAWN, is_undivided, with_splits

    if is_undivided(dataset):
        print(f"{name}: {DRAWN}", file=sys.stderr)
        dataset = with_splits(dataset)
    return dataset if split is None else dataset.split(split)
