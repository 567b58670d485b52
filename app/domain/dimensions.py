"""The soft dimensions: what quality may be given up for. Each is one entry of `DIMENSIONS`, and nothing else.

From an entry follow the weight's key in the body and the header, the word of its flag in a prompt, the field of a
model's card that it reads, its scale in the configuration, its part in the utility, and its row in the documentation.

How it works: a dimension turns what is known of a model into a number, and its scale turns that into a share in [0, 1]:
0 at the best end, 1 at the worst, clipped outside. An unknown number counts as the worst end. Scales are constants, so
a share does not depend on which other models there are.

Legend of array suffixes: M models of the catalogue.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from app.domain.quantities import DATE, POSITIVE, SECURITY, Kind

Floats = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]

Stage = Literal["card", "estimate"]
"""When a number is there: before a request, from the catalogue, or with it, from a prediction."""

# At this weight a twentieth of a scale outweighs all the quality there is; the tabulated weights end here too.
MOST_WEIGHT = 20.0


class Source(Enum):
    """Who asks, from the least explicit to the most."""

    OPERATOR = "operator"
    PROMPT = "prompt"
    HEADER = "header"
    BODY = "body"


class Labels:
    """One of few values per model, such as its licence or its set of regions."""

    def __init__(self, values: list[Any]) -> None:
        """`values` has one entry per model."""
        self.distinct = tuple(dict.fromkeys(values))
        number = {value: code for code, value in enumerate(self.distinct)}
        self._codes_M = np.array([number[value] for value in values], dtype=np.intp)

    def __getitem__(self, model: int) -> Any:
        return self.distinct[self._codes_M[model]]

    def where(self, test: Callable[[Any], bool]) -> Truths:
        """Which models have a value that passes, [M]; asked once for each distinct value."""
        passes = np.array([test(value) for value in self.distinct], dtype=np.bool_)
        result: Truths = passes[self._codes_M]
        return result


class Columns(Protocol):
    """What is known and expected of the catalogue's M models for one request; arrays [M], NaN is unknown."""

    @property
    def cards(self) -> Mapping[str, Floats]:
        """Numbers of the cards, by the name of their `CardField`."""
        ...

    @property
    def names(self) -> Labels: ...

    @property
    def licenses(self) -> Labels:
        """A name, or None where the card states none."""
        ...

    @property
    def regions(self) -> Labels:
        """All regions where a model may be running, as a frozenset; empty where not stated."""
        ...

    @property
    def capabilities(self) -> Labels:
        """As a frozenset."""
        ...

    @property
    def uses(self) -> frozenset[str]:
        """Capabilities that the request uses, but whose absence leaves an answer."""
        ...

    @property
    def spared(self) -> Labels:
        """Parameters that a model's backend refuses, and so is not sent, as a frozenset."""
        ...

    @property
    def parameters(self) -> frozenset[str]:
        """What the request states, where all of it is required."""
        ...

    @property
    def input_tokens(self) -> int: ...

    @property
    def quality(self) -> Floats: ...

    @property
    def output_tokens(self) -> Floats:
        """Expected length of an answer: what is predicted, no shorter and no longer than the caller wants it."""
        ...

    @property
    def uncut_tokens(self) -> Floats:
        """The same were it not for the limit `max_output_tokens`."""
        ...

    @property
    def most_uncut_tokens(self) -> float:
        """What an answer may have by everything but that limit; NaN where nothing else limits it."""
        ...

    @property
    def written_tokens(self) -> Floats:
        """The same of all choices together."""
        ...

    @property
    def cost_usd(self) -> Floats: ...

    @property
    def ttft_s(self) -> Floats: ...

    @property
    def latency_s(self) -> Floats: ...


@dataclass(frozen=True)
class CardField:
    """A number on a model's card that a dimension or a constraint reads."""

    name: str
    unit: str
    kind: Kind

    @property
    def expected(self) -> str:
        """Continues "must be ..."."""
        return self.kind.expected

    def parse(self, value: object) -> float:
        """The number behind what the catalogue says.

        Raises:
            ValueError: it is not what is expected.
        """
        parsed: float = self.kind.parse(value)
        return parsed

    def show(self, value: float) -> str:
        return self.kind.show(value)


@dataclass(frozen=True)
class Scale:
    """Where the shares 1 and 0 lie."""

    worst: float
    best: float
    curve: Literal["log", "linear"] = "linear"

    def __post_init__(self) -> None:
        if self.curve == "log" and not (self.worst > 0 and self.best > 0):
            raise ValueError("both ends of a logarithmic scale must be above 0")
        worst, best = self._ends
        if worst == best:
            raise ValueError("the worst and the best end must differ")

    @property
    def slope(self) -> float:
        """By how much the share rises with the value, or with its logarithm, between the ends."""
        return self._line[0]

    def rises_like(self, other: Scale) -> bool:
        """Whether both have their worst end on the same side."""
        return (self.slope > 0) == (other.slope > 0)

    @property
    def _ends(self) -> tuple[float, float]:
        """The worst and the best one, or their logarithms, which may be equal where they are not."""
        return (math.log(self.worst), math.log(self.best)) if self.curve == "log" else (self.worst, self.best)

    @cached_property
    def _line(self) -> tuple[float, float]:
        """Slope and offset of the share over the value, or over its logarithm."""
        worst, best = self._ends
        slope = 1.0 / (worst - best)
        return slope, -best * slope

    def share(self, value_M: Floats) -> Floats:
        """0 at the best end, 1 at the worst, clipped outside; NaN counts as the worst end."""
        slope, offset = self._line
        if self.curve == "log":
            # Free is as good as it gets, and a logarithm of 0 would warn.
            value_M = np.log(np.maximum(value_M, 5e-324))
        share_M: Floats = value_M * slope
        share_M += offset
        # fmin and fmax take the number where the other is NaN.
        np.fmin(share_M, 1.0, out=share_M)
        np.maximum(share_M, 0.0, out=share_M)
        return share_M


@dataclass(frozen=True)
class Dimension:
    """Something that quality may be traded for."""

    name: str
    """Key of its weight."""
    word: str
    """Its flag in a prompt."""
    gain: str
    """What a model with a smaller share is, in a word."""
    unit: str
    scale_key: str
    """Key of its ends in the operator's `scales`."""
    scale: Scale
    """Unless the operator sets other ends."""
    stage: Stage
    value: Callable[[Columns], Floats]
    source: str
    """Where the number comes from, in words."""
    card: CardField | None = None
    """The field of the card that it reads, if any."""
    ends: Kind = POSITIVE
    """How the ends of the scale are written."""
    sources: frozenset[Source] = frozenset(Source)
    """Who may set its weight."""

    def rescaled(self, worst: object, best: object) -> Scale:
        """Its scale with other ends.

        Raises:
            ValueError: the ends are not what `ends` expects, or equal.
        """
        return Scale(self.ends.parse(worst), self.ends.parse(best), self.scale.curve)


def _day(year: int, month: int, day: int) -> float:
    return float(dt.date(year, month, day).toordinal())


PARAMETERS_B = CardField("parameters_b", "billion parameters", POSITIVE)
RELEASED = CardField("released", "day", DATE)
SECURITY_LEVEL = CardField("security", "level", SECURITY)
READABILITY_GRADE = CardField("readability_grade", "US school grade", POSITIVE)
WH_PER_1K_TOKENS = CardField("wh_per_1k_tokens", "Wh per 1,000 tokens", POSITIVE)

# The ends are those of what is on the market: from a model of a few million parameters to one of 700 billion, from a
# ten-millionth of a dollar for a request to ten cents. They are constants so that a share means the same tomorrow.
DIMENSIONS = (
    Dimension(
        name="cost",
        word="cheap",
        gain="cheaper",
        unit="USD per request",
        scale_key="cost_usd",
        scale=Scale(0.1, 1e-7, "log"),
        stage="estimate",
        value=lambda columns: columns.cost_usd,
        source="tokens read and predicted, times the price",
    ),
    Dimension(
        name="latency",
        word="fast",
        gain="faster",
        unit="seconds",
        scale_key="latency_s",
        scale=Scale(30.0, 0.3, "log"),
        stage="estimate",
        value=lambda columns: columns.latency_s,
        source="expected wait, prefill, and predicted tokens times the time of one",
    ),
    Dimension(
        name="size",
        word="small",
        gain="smaller",
        unit="billion parameters",
        scale_key="size_b",
        scale=Scale(700.0, 0.05, "log"),
        stage="card",
        value=lambda columns: columns.cards["parameters_b"],
        source="card.parameters_b",
        card=PARAMETERS_B,
    ),
    Dimension(
        name="recency",
        word="recent",
        gain="more recent",
        unit="day of release",
        scale_key="released",
        scale=Scale(_day(2023, 1, 1), _day(2027, 1, 1)),
        stage="card",
        value=lambda columns: columns.cards["released"],
        source="card.released",
        card=RELEASED,
        ends=DATE,
    ),
    Dimension(
        name="security",
        word="secure",
        gain="more secure",
        unit="level",
        scale_key="security",
        scale=Scale(0.0, 3.0),
        stage="card",
        value=lambda columns: columns.cards["security"],
        source="card.security",
        card=SECURITY_LEVEL,
        ends=SECURITY,
    ),
    Dimension(
        name="verbosity",
        word="brief",
        gain="briefer",
        unit="tokens",
        scale_key="output_tokens",
        scale=Scale(4000.0, 10.0, "log"),
        stage="estimate",
        value=lambda columns: columns.output_tokens,
        source="predicted tokens of the answer, no more than may be written",
    ),
    Dimension(
        name="readability",
        word="readable",
        gain="easier to read",
        unit="US school grade",
        scale_key="readability_grade",
        scale=Scale(16.0, 4.0),
        stage="card",
        value=lambda columns: columns.cards["readability_grade"],
        source="card.readability_grade",
        card=READABILITY_GRADE,
    ),
    Dimension(
        name="energy",
        word="green",
        gain="greener",
        unit="Wh per request",
        scale_key="energy_wh",
        scale=Scale(10.0, 0.0001, "log"),
        stage="estimate",
        value=lambda columns: (
            columns.cards["wh_per_1k_tokens"] * ((columns.input_tokens + columns.written_tokens) / 1000)
        ),
        source="card.wh_per_1k_tokens times tokens read and predicted",
        card=WH_PER_1K_TOKENS,
    ),
)
