"""The ranked candidates of a decision, each put together when somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from app.domain.decision import Candidate
from app.domain.dimensions import Floats
from app.routing.estimates import Case, Expected, known
from app.routing.objective import utility
from app.routing.why import Ground


class Ranking(Sequence[Candidate]):
    """Most useful first. The first is there at once; nearly no request ever looks at another.

    Arrays over the catalogue are not kept, for decisions are remembered for a while: they follow from the case again.
    """

    def __init__(self, case: Case, expected: Expected, ground: Ground) -> None:
        self._case, self._order, self._weights = case, ground.order, ground.terms.weights
        self._made = {0: self._make(0, expected, utility(expected, self._weights))}

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Candidate]: ...

    def __getitem__(self, index: int | slice) -> Candidate | Sequence[Candidate]:
        if isinstance(index, slice):
            return tuple(self)[index]
        place = range(len(self._order))[index]
        if place not in self._made:
            self._make_all()
        return self._made[place]

    def __iter__(self) -> Iterator[Candidate]:
        return (self[place] for place in range(len(self._order)))

    def _make_all(self) -> None:
        expected = Expected(self._case)
        utility_M = utility(expected, self._weights)
        for place in range(len(self._order)):
            if place not in self._made:
                self._made[place] = self._make(place, expected, utility_M)

    def _make(self, place: int, expected: Expected, utility_M: Floats) -> Candidate:
        number = int(self._order[place])
        return Candidate(expected.table.models[number], expected.of(number), known(utility_M[number]))
