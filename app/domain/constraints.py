"""The hard constraints: what is never traded. Each is one entry of `CONSTRAINTS`, and nothing else.

From an entry follow the field in the body and its header, the filter, what an exclusion says, the smallest change that
would have admitted a model, how limits of several sources become one, and the row in the documentation.

An unknown number fails a limit; it never passes it.

Legend of array suffixes: M models of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.domain.dimensions import (
    PARAMETERS_B,
    RELEASED,
    SECURITY_LEVEL,
    CardField,
    Columns,
    Floats,
    Source,
    Stage,
    Truths,
)
from app.domain.models import Model
from app.domain.quantities import (
    DATE,
    NAMES,
    NUMBER,
    SECURITY,
    SHARE,
    TRUTH,
    Kind,
    rounded_down,
    rounded_up,
)
from app.domain.request import OPERATIONS

UPGRADE = "route:upgrade"
"""Scope of a key that may ask for better, and so dearer, models than would be chosen for it."""


@dataclass(frozen=True)
class Constraint:
    """A limit that excludes models."""

    name: str
    """Its field in `routing`."""
    stage: Stage
    kind: Kind
    means: str
    """For the documentation: what it demands of a model."""
    passes: Callable[[Columns, Any], Truths]
    combine: Callable[[Any, Any], Any]
    """The limit that holds when both do."""
    found: Callable[[Columns, int], str]
    """What a model has instead, in words."""
    relaxed: Callable[[Columns, int, Any], Any]
    """The limit nearest to this one that admits a model; None: only leaving it out does."""
    card: CardField | None = None
    listed: Callable[[Model], Iterable[str]] | None = None
    """Of a list of names: those of a model that can stand in it. Others change nothing."""
    reads_quality: bool = False
    """Encoders differ about quality, so a glance does not settle it."""
    ignores_case: bool = False
    """Of a list of names: whether `EU` is `eu`. What is shown stays as it was written."""
    of_answers: bool = False
    """Nothing is known where nothing is written, so it says nothing of embeddings."""
    scope: str | None = None
    """What a caller's key needs to set it."""
    sources: frozenset[Source] = frozenset({Source.OPERATOR, Source.HEADER, Source.BODY})
    """Who may set it. A prompt's text never does."""

    def relaxation(self, limit: Any) -> str:
        """What to change, given what `relaxed` said."""
        if limit is None:
            return f"leave out routing.{self.name}"
        return f"set routing.{self.name} to {self.kind.show(limit)}"


@dataclass(frozen=True)
class Reading:
    """The number that a limit is compared with."""

    of: Callable[[Columns], Floats]
    words: str
    """With a place for the number: "is expected to cost {} USD"."""
    unknown: str
    kind: Kind = NUMBER
    is_quality: bool = False
    of_answers: bool = False

    def found(self, columns: Columns, model: int) -> str:
        value = self.of(columns)[model]
        return self.words.format(self.kind.show(value)) if value == value else self.unknown


def at_most(
    name: str, stage: Stage, reading: Reading, means: str, card: CardField | None = None, scope: str | None = None
) -> Constraint:
    """An upper limit; of two the smaller holds."""

    def relaxed(columns: Columns, model: int, limit: float) -> float | None:
        value = float(reading.of(columns)[model])
        return max(limit, rounded_up(value)) if value == value else None

    return Constraint(
        name=name,
        stage=stage,
        kind=reading.kind,
        means=means,
        passes=lambda columns, limit: reading.of(columns) <= limit,
        combine=min,
        found=reading.found,
        relaxed=relaxed,
        card=card,
        reads_quality=reading.is_quality,
        of_answers=reading.of_answers,
        scope=scope,
    )


def at_least(
    name: str, stage: Stage, reading: Reading, means: str, card: CardField | None = None, scope: str | None = None
) -> Constraint:
    """A lower limit; of two the larger holds."""

    def relaxed(columns: Columns, model: int, limit: float) -> float | None:
        value = float(reading.of(columns)[model])
        exact = reading.kind is not NUMBER and reading.kind is not SHARE
        return min(limit, value if exact else rounded_down(value)) if value == value else None

    return Constraint(
        name=name,
        stage=stage,
        kind=reading.kind,
        means=means,
        passes=lambda columns, limit: reading.of(columns) >= limit,
        combine=max,
        found=reading.found,
        relaxed=relaxed,
        card=card,
        reads_quality=reading.is_quality,
        of_answers=reading.of_answers,
        scope=scope,
    )


def _intersection(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    return one & other


def _union(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    return one | other


def folded(names: Iterable[str]) -> frozenset[str]:
    """The same for names that differ by case alone."""
    return frozenset([name.casefold() for name in names])


def _folded_intersection(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    return _within(one, folded(other))


def _within(names: frozenset[str], known: frozenset[str]) -> frozenset[str]:
    return frozenset([name for name in names if name.casefold() in known])


def _with(limit: frozenset[str], names: Iterable[str]) -> frozenset[str]:
    """Both, in the words of the catalogue where they have a name in common."""
    return (limit - _within(limit, folded(names))) | frozenset(names)


def _inside(limit: frozenset[str]) -> Callable[[frozenset[str]], bool]:
    """Whether there are regions, and none is another one: a model that runs in two may answer from either."""
    allowed = folded(limit)
    return lambda regions: bool(regions) and folded(regions) <= allowed


def _one_of(limit: frozenset[str]) -> Callable[[str | None], bool]:
    allowed = folded(limit)
    return lambda name: name is not None and name.casefold() in allowed


def _either(one: bool, other: bool) -> bool:
    return one or other


def _ignored(columns: Columns, model: int) -> frozenset[str]:
    """What of a request leaves a mark on no answer of this model."""
    capabilities: frozenset[str] = columns.capabilities[model]
    spared: frozenset[str] = columns.spared[model]
    return (_used(columns) - capabilities) | (columns.parameters & spared)


def _used(columns: Columns) -> frozenset[str]:
    """Capabilities that parameters of the request use; who does not do its kind of request at all is told so."""
    return columns.uses - OPERATIONS


def _named(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


CONSTRAINTS = (
    at_most(
        "max_cost_usd",
        "estimate",
        Reading(
            lambda columns: columns.cost_usd,
            "is expected to cost {} USD",
            "has no known cost: it states no price, or its answer's length is not predicted",
        ),
        "expected cost of the request in USD, at most",
    ),
    at_most(
        "max_latency_s",
        "estimate",
        Reading(
            lambda columns: columns.latency_s,
            "is expected to take {} s",
            "has no known duration: it states no speed, or its answer's length is not predicted",
        ),
        "expected seconds to the end of the answer, at most",
    ),
    at_most(
        "max_ttft_s",
        "estimate",
        Reading(
            lambda columns: columns.ttft_s,
            "is expected to begin after {} s",
            "has no known time to the first token: it states no speed",
        ),
        "expected seconds to the first token, at most",
    ),
    at_most(
        "max_size_b",
        "card",
        Reading(lambda columns: columns.cards["parameters_b"], "has {} billion parameters", "states no parameters_b"),
        "billion parameters, at most",
        card=PARAMETERS_B,
    ),
    at_most(
        "max_output_tokens",
        "estimate",
        Reading(
            # What an answer may have is known also where no length is predicted: fmin takes the number beside a NaN.
            lambda columns: np.fmin(columns.uncut_tokens, columns.most_uncut_tokens),
            "is expected to write {} tokens",
            "has no predicted length of its answer",
            of_answers=True,
        ),
        "tokens of an answer, at most: who is predicted to write more, and may, is left out; all others are cut there",
    ),
    at_least(
        "min_quality",
        "estimate",
        Reading(
            lambda columns: columns.quality,
            "has a predicted quality of {}",
            "has no predicted quality",
            kind=SHARE,
            is_quality=True,
            of_answers=True,
        ),
        "predicted quality, at least",
        scope=UPGRADE,
    ),
    at_least(
        "released_after",
        "card",
        Reading(lambda columns: columns.cards["released"], "was released on {}", "states no release date", kind=DATE),
        "released on this day or later",
        card=RELEASED,
    ),
    at_least(
        "min_security",
        "card",
        Reading(lambda columns: columns.cards["security"], "is {}", "states no security level", kind=SECURITY),
        "security level, at least",
        card=SECURITY_LEVEL,
    ),
    Constraint(
        name="regions",
        stage="card",
        kind=NAMES,
        means="runs nowhere but in these regions; case does not matter",
        passes=lambda columns, limit: columns.regions.where(_inside(limit)),
        combine=_folded_intersection,
        found=lambda columns, model: (
            f"may run in {_named(columns.regions[model])}" if columns.regions[model] else "states no regions"
        ),
        relaxed=lambda columns, model, limit: _with(limit, columns.regions[model]) if columns.regions[model] else None,
        listed=lambda model: model.card.regions,
        ignores_case=True,
    ),
    Constraint(
        name="licenses",
        stage="card",
        kind=NAMES,
        means="has one of these licences; case does not matter",
        passes=lambda columns, limit: columns.licenses.where(_one_of(limit)),
        combine=_folded_intersection,
        found=lambda columns, model: (
            f"has the licence {columns.licenses[model]}" if columns.licenses[model] else "states no licence"
        ),
        relaxed=lambda columns, model, limit: limit | {columns.licenses[model]} if columns.licenses[model] else None,
        listed=lambda model: (model.card.license,) if model.card.license else (),
        ignores_case=True,
    ),
    Constraint(
        name="models",
        stage="card",
        kind=NAMES,
        means="is one of these models",
        passes=lambda columns, limit: columns.names.where(limit.__contains__),
        combine=_intersection,
        found=lambda *_: "is not among the models asked for",
        relaxed=lambda columns, model, limit: limit | {columns.names[model]},
        listed=lambda model: (model.name,),
    ),
    Constraint(
        name="exclude",
        stage="card",
        kind=NAMES,
        means="is none of these models",
        passes=lambda columns, limit: ~columns.names.where(limit.__contains__),
        combine=_union,
        found=lambda *_: "is excluded by name",
        relaxed=lambda columns, model, limit: limit - {columns.names[model]} or None,
        listed=lambda model: (model.name,),
    ),
    Constraint(
        name="require_parameters",
        stage="card",
        kind=TRUTH,
        means="honours every parameter of the request, also those whose absence leaves an answer",
        passes=lambda columns, limit: (
            columns.capabilities.where(lambda has: not limit or _used(columns) <= has)
            & columns.spared.where(lambda names: not limit or names.isdisjoint(columns.parameters))
        ),
        combine=_either,
        found=lambda columns, model: f"ignores {_named(_ignored(columns, model))}",
        relaxed=lambda *_: False,
    ),
)
