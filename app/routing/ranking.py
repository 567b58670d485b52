"""The ranked candidates of a decision, each put together when somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import overload

from app.domain.decision import Candidate, Estimate
from app.domain.dimensions import Floats
from app.routing.estimates import Case, Expected, known
from app.routing.objective import utility
from app.routing.view import View
from app.routing.why import Ground


class Ranking(Sequence[Candidate]):
    """Most useful first. The first is there at once; nearly no request ever looks at another.

    Arrays over the catalogue are not kept for long, as decisions are: they follow from the case again.
    """

    __slots__ = ("_case", "_expected", "_first", "_made", "_order", "_weights")

    def __init__(self, view: View, ground: Ground) -> None:
        self._case, self._order, self._weights = view.case, ground.order, ground.terms.weights
        usefulness_M = view.usefulness if ground.terms is view.terms else utility(view.expected, self._weights)
        self._expected: Expected | None = view.expected
        self._first = self._make(0, view.expected, usefulness_M)
        self._made: tuple[Candidate, ...] | None = None

    def take_expected(self) -> Expected:
        """What the ranking was made from, as far as it was worked out: for who asks first, soon after."""
        expected, self._expected = self._expected, None
        return expected or Expected(self._case)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Candidate]: ...

    def __getitem__(self, index: int | slice) -> Candidate | Sequence[Candidate]:
        if index == 0:
            return self._first
        if isinstance(index, slice):
            return tuple(self)[index]
        if self._made is None:
            self._made = self._make_all()
        return self._made[index]

    def __iter__(self) -> Iterator[Candidate]:
        return (self[place] for place in range(len(self._order)))

    def _make_all(self) -> tuple[Candidate, ...]:
        expected = Expected(self._case)
        utility_M = utility(expected, self._weights)
        return (self._first, *(self._make(place, expected, utility_M) for place in range(1, len(self._order))))

    def _make(self, place: int, expected: Expected, utility_M: Floats) -> Candidate:
        number = self._order.item(place)
        quality, usefulness = known(expected.quality.item(number)), known(utility_M.item(number))
        return Candidate(self._case.table.models[number], quality, partial(_estimate, self._case, number), usefulness)


def _estimate(case: Case, number: int) -> Estimate:
    return Expected(case).of(number)
