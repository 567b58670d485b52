"""The ranked candidates of a decision, each put together when somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import overload

from app.domain.decision import Candidate
from app.domain.dimensions import Floats
from app.routing.estimates import Expected, Prospect, known
from app.routing.objective import utility
from app.routing.view import View
from app.routing.why import Ground


class Ranking(Sequence[Candidate]):
    """Most useful first. The first is there at once; nearly no request ever looks at another."""

    __slots__ = ("_case", "_first", "_made", "_order", "_prospect", "_weights")

    def __init__(self, view: View, ground: Ground, prospect: Prospect) -> None:
        self._case, self._order, self._weights = view.case, ground.order, ground.terms.weights
        self._prospect = prospect
        usefulness_M = view.usefulness if ground.terms is view.terms else utility(view.expected, self._weights)
        self._first = self._make(0, view.expected, usefulness_M)
        self._made: tuple[Candidate, ...] | None = None

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
        yield self._first
        for place in range(1, len(self._order)):
            yield self[place]

    def _make_all(self) -> tuple[Candidate, ...]:
        expected = self._prospect.expected
        utility_M = utility(expected, self._weights)
        return (self._first, *(self._make(place, expected, utility_M) for place in range(1, len(self._order))))

    def _make(self, place: int, expected: Expected, utility_M: Floats) -> Candidate:
        number = self._order.item(place)
        quality, usefulness = known(expected.quality.item(number)), known(utility_M.item(number))
        return Candidate(self._case.table.models[number], quality, partial(self._prospect.of, number), usefulness)
