"""Which of an artifact's models those of a dataset are, and what is said of those that are none.

A dataset has the names of the catalogue that it was collected with, and what that said of them in `predicted_as`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router_models.outcomes.dataset import OutcomesDataset
    from router_models.storage.artifact import Artifact


def names_in(
    name: str, dataset: OutcomesDataset, aliases: Path | None, artifact: Artifact, apart: Collection[str] = ()
) -> dict[str, str]:
    """What an artifact calls models of a dataset of this name: what `aliases` says goes before what was collected.

    Models that are to have a column of their own stay `apart` from what was collected.

    Raises:
        OutcomesError: `aliases` cannot be read.
    """
    from router_models.outcomes.dataset import aliases_of

    collected = dataset.known_as({*artifact.models, *artifact.aliases})
    names = {model: column for model, column in collected.items() if model not in apart}
    return names | (aliases_of(aliases, name) if aliases else {})


def tell_strangers(name: str, models: Sequence[str], artifact: Artifact) -> None:
    """Say which of a dataset's models an artifact does not know, and what to do about it."""
    strangers = [model for model in models if model not in artifact.models and model not in artifact.aliases]
    if not strangers:
        return
    from app.setup.known import column_of

    found = {model: column_of(model, artifact.models, artifact.aliases) for model in strangers}
    alike = {model: column for model, column in found.items() if column} or {strangers[0]: "NAME THERE"}
    example = json.dumps({column: {name: [model]} for model, column in alike.items()}, ensure_ascii=False)
    print(
        f"{name}: the artifact does not know {', '.join(strangers)}; left out. If it has another name for one, say "
        f"which: --aliases FILE with {example}, or `predicted_as` in the catalogue and `thalamus collect` once more, "
        "which sends nothing again. Others join it with `thalamus onboard`.",
        file=sys.stderr,
    )


def how_to_serve(output: Path, columns: Iterable[tuple[str, str]] = ()) -> str:
    """What to write into the gateway's files so that an artifact is used; a column for each name that a model has."""
    lines = [f"To use it, say in gateway.yaml: artifact: {output.resolve()}"]
    named = [f"  {model}: predicted_as: {column}" for model, column in columns]
    if named:
        lines += ["and in the catalogue, at each of these models:"]
    return "\n".join([*lines, *named])
