"""Everything that `routing` may say, as one table: dimensions, constraints and context, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.domain.constraints import CONSTRAINTS, Constraint
from app.domain.dimensions import DIMENSIONS, MOST_WEIGHT, CardField, Dimension
from app.domain.quantities import NAMES, POSITIVE, PRIORITY, SESSION, SHARE, TRUTH, Kind

HEADER_PREFIX = "x-thalamus-"
FLAG_WEIGHT = 0.3
"""Of a flag that states none."""
LOSS_MEANS = (
    "as cheap as possible, on average over prompts at most this far below always the best single eligible model; a "
    "single prompt may lose more; not with `weights.cost`"
)
"""Of `max_quality_loss`."""


@dataclass(frozen=True)
class ContextField:
    """What a caller says about the request itself rather than about models."""

    name: str
    kind: Kind
    means: str


CONTEXT = (
    ContextField("session_id", SESSION, "requests with the same one belong together"),
    ContextField("deadline_s", POSITIVE, "seconds until the answer is worthless; no attempt begins after them"),
    ContextField(
        "priority", PRIORITY, "who waits for whom when it is crowded; above the `max_priority` of the key it is refused"
    ),
    ContextField(
        "explain",
        TRUTH,
        "adds the record of the decision to the answer, and has the transformer encoder read every prompt, so that "
        "some choices (0 to 5 %, by the weights) differ from those without it; needs the scope route:explain",
    ),
)


@dataclass(frozen=True)
class Vocabulary:
    """The one table. Its parts are found by name, and in the order of their declaration."""

    dimensions: tuple[Dimension, ...]
    constraints: tuple[Constraint, ...]
    context: tuple[ContextField, ...] = CONTEXT

    @cached_property
    def dimension(self) -> Mapping[str, Dimension]:
        return {each.name: each for each in self.dimensions}

    @cached_property
    def word(self) -> Mapping[str, Dimension]:
        """By the flag in a prompt."""
        return {each.word: each for each in self.dimensions}

    @cached_property
    def constraint(self) -> Mapping[str, Constraint]:
        return {each.name: each for each in self.constraints}

    @cached_property
    def card_fields(self) -> Mapping[str, CardField]:
        """All numbers of a card, by name."""
        fields = [each.card for each in self.dimensions] + [each.card for each in self.constraints]
        return {field.name: field for field in fields if field is not None}

    @cached_property
    def kinds(self) -> Mapping[str, Kind]:
        """How each field of `routing` but `weights` is read."""
        kinds = {each.name: each.kind for each in self.constraints}
        return {"max_quality_loss": SHARE, **kinds, **{each.name: each.kind for each in self.context}}

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """The field of `routing` that each header mirrors."""
        return {_header(name): name for name in ("weights", *self.kinds)}

    @cached_property
    def single(self) -> frozenset[str]:
        """Headers of one value; those of lists may be sent in parts."""
        of_lists = {"weights", *(name for name, kind in self.kinds.items() if kind is NAMES)}
        return frozenset(header for header, name in self.headers.items() if name not in of_lists)

    @cached_property
    def body_schema(self) -> Mapping[str, Any]:
        """JSON Schema of `routing`. Every field may be null, which is the same as leaving it out."""
        weight = {"type": ["number", "null"], "minimum": 0, "maximum": MOST_WEIGHT}
        weights = {
            "type": "object",
            "properties": {each.name: weight for each in self.dimensions},
            "additionalProperties": False,
        }
        fields = {"weights": weights, **{name: kind.schema for name, kind in self.kinds.items()}}
        return {
            "type": "object",
            "properties": {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in fields.items()},
            "additionalProperties": False,
        }

    def markdown(self) -> str:
        """The reference of `routing`, in three sections."""
        sections = {
            "Weights: what is traded against quality": self._soft_markdown(),
            "Limits: what is never traded": self._hard_markdown(),
            "The rest": self._context_markdown(),
        }
        return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())

    def _soft_markdown(self) -> str:
        rows = [
            (
                f"`weights.{each.name}`",
                f"`{each.word}`",
                f"{each.unit}: {each.source}",
                f"`{each.scale_key}`: {_ends(each)}",
            )
            for each in self.dimensions
        ]
        head = ("weight", "flag in a prompt", "what it is about", "scale, from worst to best")
        note = (
            f"A weight, 0 to {MOST_WEIGHT:g}, is the predicted quality that one would give up to go from the worst to "
            "the best end of a scale; the operator may set other ends. An unknown number counts as the worst end. "
            f"A flag without a number weighs {FLAG_WEIGHT:g}."
        )
        return f"{_table(head, rows)}\n\n{note}"

    def _hard_markdown(self) -> str:
        rows = [
            (
                f"`{each.name}`",
                each.kind.expected,
                each.means + (f"; needs the scope `{each.scope}`" if each.scope else ""),
                f"`{_header(each.name)}`",
            )
            for each in self.constraints
        ]
        note = "An unknown number fails a limit. Limits of several sources all hold."
        return f"{_table(('limit', 'value', 'a model passes if', 'header'), rows)}\n\n{note}"

    def _context_markdown(self) -> str:
        loss = ContextField("max_quality_loss", SHARE, LOSS_MEANS)
        rows = [
            (f"`{each.name}`", each.kind.expected, each.means, f"`{_header(each.name)}`")
            for each in (loss, *self.context)
        ]
        return _table(("field", "value", "meaning", "header"), rows)


def _header(name: str) -> str:
    return HEADER_PREFIX + name.replace("_", "-")


def _ends(dimension: Dimension) -> str:
    scale, show = dimension.scale, dimension.ends.show
    return f"{show(scale.worst)} to {show(scale.best)}, {scale.curve}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


VOCABULARY = Vocabulary(DIMENSIONS, CONSTRAINTS)
