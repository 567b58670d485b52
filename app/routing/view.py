"""What one reading of a prompt says about the models: who is eligible, in which order, and how clearly.

Nothing is computed before somebody looks.

Legend of array suffixes: M models of the catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from app.domain.dimensions import Floats, Truths
from app.domain.frozen import frozen
from app.routing.estimates import Case, Expected
from app.routing.filters import affordable
from app.routing.lazily import lazily
from app.routing.objective import Positions, ranked, utility
from app.routing.operating_points import OperatingTable
from app.routing.reading import UNREAD, Reading


@frozen
class Terms:
    """What quality is given up for in one request."""

    weights: Mapping[str, float]
    """As applied."""
    max_quality_loss: float | None = None
    """As asked for, unless a weight on cost was."""
    point: OperatingTable | None = None
    """What `max_quality_loss` was looked up in."""
    cost_weight: float | None = None
    """What it became."""

    @property
    def best_single(self) -> str | None:
        """The model that comes first whatever is predicted, because no weight on cost keeps the loss."""
        if self.max_quality_loss is None or self.cost_weight is not None or self.point is None:
            return None
        return self.point.best_model


NO_TERMS = Terms({})
"""Nothing but quality counts."""


class View:
    """One reading, applied to one request."""

    def __init__(self, case: Case, usable_M: Truths, terms: Terms, reading: Reading = UNREAD) -> None:
        """`usable_M` are the models that can answer, as far as is known without a reading."""
        self.case, self.usable_M, self.terms, self.reading = case, usable_M, terms, reading
        self.expected = Expected(case)
        self.limited = self.expected if case.warmth is None else Expected(case.without_session)
        """What limits are held against: what is not sure to be in a cache is not counted on."""

    @property
    def without_session(self) -> View:
        """The same, with nothing in any cache."""
        return View(self.case.without_session, self.usable_M, self.terms, self.reading)

    @property
    def is_unfamiliar(self) -> bool:
        prediction = self.reading.prediction
        return prediction is not None and prediction.unfamiliar

    @lazily
    def eligible(self) -> Truths:
        """[M]."""
        return affordable(self.usable_M, self.limited) if self.case.question.preferences.limits else self.usable_M

    @lazily
    def usefulness(self) -> Floats:
        """[M]; NaN where nothing is predicted."""
        return utility(self.expected, self.terms.weights)

    @lazily
    def order(self) -> Positions:
        """The eligible models, most useful first, a last resort behind the others."""
        order, best_single = ranked(self.usefulness, self.eligible), self.terms.best_single
        if best_single is not None:
            order = first_of(order, self.expected.table.position[best_single])
        return self.case.as_tried(order)

    @property
    def margin(self) -> float:
        """By how much the first of the order is more useful than the second; infinite where no number decides that."""
        peers = self.case.peers(self.order)
        if (warmth := self.case.warmth) is not None and warmth.in_tool_call and warmth.model in peers:
            return math.inf
        if len(peers) < 2 or self.expected.names[int(peers[0])] == self.terms.best_single:
            return math.inf
        first, second = self.usefulness[peers[:2]].tolist()
        lead: float = first - second
        # Of an untested model nothing is predicted; it comes last in any reading.
        return lead if lead == lead else math.inf


def first_of(order: Positions, model: int) -> Positions:
    """The same order with this model in front, if it is part of it."""
    return np.concatenate((order[order == model], order[order != model]))
