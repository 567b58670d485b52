"""Outcomes with a split for each prompt, what is said of how they are divided, and what can be measured on the rest."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router_models.outcomes.dataset import OutcomesDataset
    from router_models.outcomes.splits import Division


def divided(name: str, dataset: OutcomesDataset, split: str | None = None) -> OutcomesDataset:
    """A dataset of this name with splits, drawn where it has none; or one of them, and what that leaves out is said.

    Raises:
        OutcomesError: no prompt has that split.
    """
    from router_models.outcomes.splits import division, with_splits

    found = division(dataset)
    if found.drawn or split is not None:
        tell_division(name, found)
    dataset = with_splits(dataset)
    return dataset if split is None else dataset.split(split)


def tell_division(name: str, found: Division) -> None:
    """Say what somebody who does not name each prompt's split may not know of how they are divided."""
    if note := found.note():
        print(f"{name}: {note}", file=sys.stderr)


def how_to_measure(artifact: Path, learned: str, divisions: Mapping[Path, Division]) -> str:
    """The command that makes an artifact's card, on prompts of these folders beside the split that it learned from."""
    from router_models.outcomes.splits import measured_unasked

    unasked = [folder for folder, each in divisions.items() if measured_unasked(each.splits) not in (None, learned)]
    if unasked:
        return f"Next: {_card_command(artifact, unasked)}"
    others = [split for each in divisions.values() for split in each.splits if split != learned]
    if not others:
        return (
            "No prompt with a split is left to measure it on. Give some the split test and train again, or name "
            f"outcomes of others: {_card_command(artifact, ['FOLDER'])}"
        )
    split = measured_unasked(others) or others[0]
    folders = [folder for folder, each in divisions.items() if split in each.splits]
    return f"Next: {_card_command(artifact, folders, split)}"


def _card_command(artifact: Path, folders: Iterable[Path | str], split: str | None = None) -> str:
    data = [word for folder in folders for word in ("--data", str(folder))]
    named = ["--split", split] if split else []
    return shlex.join(["thalamus", "evaluate", "--artifact", str(artifact), *data, *named, "--card"])
