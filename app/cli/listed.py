"""What a catalogue or the command line says of an artifact's models: prices, and sizes in billions of parameters.

How it works: an entry is the column that its `predicted_as` names, and what it says holds for every name of that
column. Of several entries of one column, the same model at several providers, the cheapest counts, for a gateway would
choose that one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import UsageError

if TYPE_CHECKING:
    from app.domain.models import Model
    from router_models.evaluation.costs import Price
    from router_models.storage.artifact import Artifact

_SIZE = "parameters_b"


@dataclass(frozen=True)
class Listed:
    """By every name of a column; what is not stated is absent."""

    prices: Mapping[str, Price] = field(default_factory=dict)
    sizes_b: Mapping[str, float] = field(default_factory=dict)


def listed_in(path: Path | None, artifact: Artifact) -> Listed:
    """What a catalogue says; entries that are not used are named."""
    if path is None:
        return Listed()
    from app.forms.catalog_file import load_catalog

    models = load_catalog(path).models
    entries = {column: _cheapest_first(models, column) for column in artifact.models}
    _tell_strangers(path, models, artifact)
    _tell_dearer(path, entries)
    by_name = {name: entries[column] for name, column in columns_of(artifact).items()}
    return Listed(
        prices={name: price for name, each in by_name.items() if (price := _price(each)) is not None},
        sizes_b={name: size for name, each in by_name.items() if (size := _size_b(each)) is not None},
    )


def columns_of(artifact: Artifact) -> dict[str, str]:
    """The column of every name that an artifact knows."""
    return {**artifact.aliases, **{model: model for model in artifact.models}}


def sizes_given(sizes: str, columns: Mapping[str, str], there: Collection[str]) -> dict[str, float]:
    """Sizes as given on the command line, by every name of a column; `there` are the models of the data.

    Raises:
        UsageError: they have another form, or name a model that is neither known nor there.
    """
    given = _parsed(sizes)
    if unknown := [name for name in given if name not in columns and name not in there]:
        known = ", ".join(sorted(name for name in there if name in columns)) or "none that the artifact knows"
        raise UsageError(f"--sizes names no model with {', '.join(unknown)}; the data has {known}")
    by_column = {columns[name]: size for name, size in given.items() if name in columns}
    return {name: by_column[column] for name, column in columns.items() if column in by_column} | given


def _parsed(sizes: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in sizes.split(",") if part]
        found = {name.strip(): float(value) for name, value in pairs}
        if not all(0 < size < math.inf for size in found.values()):
            raise ValueError("not a size")
        return found
    except ValueError as exc:
        raise UsageError(f"--sizes should look like small=0.071,large=0.135, not {sizes!r}") from exc


def _cheapest_first(models: Iterable[Model], column: str) -> list[Model]:
    return sorted((model for model in models if model.predicted_as == column), key=_usd_per_m)


def _usd_per_m(model: Model) -> float:
    """Of a million tokens read and as many written; without a price it is after all others."""
    return model.price.input_usd_per_m + model.price.output_usd_per_m if model.price else math.inf


def _price(entries: Iterable[Model]) -> Price | None:
    return next(((each.price.input_usd_per_m, each.price.output_usd_per_m) for each in entries if each.price), None)


def _size_b(entries: Iterable[Model]) -> float | None:
    return next((each.card.values[_SIZE] for each in entries if _SIZE in each.card.values), None)


def _tell_dearer(path: Path, entries: Mapping[str, Sequence[Model]]) -> None:
    """Say which entry counts where others of its column have other prices."""
    differing = [models for models in entries.values() if len({model.price for model in models}) > 1]
    counted = [f"{first.name} before {', '.join(other.name for other in others)}" for first, *others in differing]
    if counted:
        said = "; ".join(counted)
        print(f"{path}: of entries with the same predicted_as the cheapest counts: {said}", file=sys.stderr)


def _tell_strangers(path: Path, models: Iterable[Model], artifact: Artifact) -> None:
    """Say which entries are no column of the artifact, and which column they may have meant."""
    strangers = [_stranger(model, artifact) for model in models if model.predicted_as not in artifact.models]
    if strangers:
        unused = f"prices and sizes are not used of {', '.join(strangers)}"
        print(f"{path}: {unused}: predicted_as is no model of {artifact.name}", file=sys.stderr)


def _stranger(model: Model, artifact: Artifact) -> str:
    from app.setup.known import column_of

    if model.predicted_as is None:
        return f"{model.name} (absent)"
    meant = column_of(model.predicted_as, artifact.models, artifact.aliases)
    return f"{model.name} ({model.predicted_as}{f', write {meant}' if meant else ''})"
