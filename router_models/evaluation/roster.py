"""Which model of a dataset is which column of an artifact.

How it works: a dataset's own names are made canonical first, where a list of aliases says so
(`OutcomesDataset.renamed`). A name is then a column of the artifact, or one of the names the artifact knows a column
by. What it does not know is no candidate anywhere, for the baselines and the oracle neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router_models.outcomes.dataset import OutcomesError


@dataclass(frozen=True)
class Roster:
    """A dataset's models, as far as an artifact knows them."""

    models: tuple[str, ...]
    columns: tuple[int, ...]
    """Of the artifact, one for each of `models`; two models may share one."""
    unknown: tuple[str, ...]


def roster(models: Sequence[str], artifact_models: Sequence[str], artifact_aliases: Mapping[str, str]) -> Roster:
    """Match a dataset's models with an artifact's columns, by name or by one of the artifact's own aliases.

    Raises:
        OutcomesError: it knows none of them.
    """
    place = {name: column for column, name in enumerate(artifact_models)}
    found = {model: place.get(model, place.get(artifact_aliases.get(model, ""))) for model in models}
    columns = {model: column for model, column in found.items() if column is not None}
    if not columns:
        raise OutcomesError(
            f"the artifact knows none of the models {', '.join(models)}; it knows {', '.join(artifact_models)}"
        )
    return Roster(tuple(columns), tuple(columns.values()), tuple(model for model in models if model not in columns))
