"""Which models can answer at all: what is known before a prediction, then limits on what is expected.

Exclusions stay arrays here; `app.routing.exclusions` puts them into words when somebody reads them.

Legend of array suffixes: M models of the catalogue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from app.domain.dimensions import Columns, Truths
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Expected, Question

# Keys of a gateway times the few limits that its callers set again and again; each entry takes a byte per model.
REMEMBERED = 256


class CardFilter:
    """Models that a key may use, that can do what a request needs, and whose cards keep its limits.

    Clients repeat themselves, so answers are remembered.
    """

    def __init__(self, table: CandidateTable) -> None:
        self._table = table
        self._constraints = table.vocabulary.constraint
        self._known: OrderedDict[Hashable, Truths] = OrderedDict()

    def passing(self, expected: Expected) -> Truths:
        """[M]; not to be written to."""
        question = expected.question
        limits = [each for each in question.preferences.limits.items() if self._constraints[each[0]].stage == "card"]
        key = (question.allowed_models, question.needs, question.uses, *limits)
        passing_M = self._known.get(key)
        if passing_M is None:
            passing_M = self._known[key] = self._compute(expected, limits)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return passing_M

    def _compute(self, expected: Expected, limits: list[tuple[str, Any]]) -> Truths:
        question = expected.question
        table = self._table
        passing_M: Truths = allowed(table, question.allowed_models) & capable(table, question.needs)
        for name, limit in limits:
            passing_M &= self._constraints[name].passes(expected, limit)
        return passing_M


def allowed(table: CandidateTable, names: frozenset[str] | None) -> Truths:
    """Models that a key may use."""
    if names is None:
        return np.ones(len(table), dtype=np.bool_)
    return table.names.where(names.__contains__)


def asked_for(table: CandidateTable, question: Question) -> Truths:
    """Models that a key may use; of a request that names one, that one."""
    visible_M = allowed(table, question.allowed_models)
    return visible_M if question.model is None else visible_M & table.names.where(question.model.__eq__)


def capable(table: CandidateTable, needs: frozenset[str]) -> Truths:
    """Models that can do all that a request needs."""
    has_all: Callable[[frozenset[str]], bool] = needs.issubset
    return table.capabilities.where(has_all)


def roomy(table: CandidateTable, question: Question) -> Truths:
    """Models whose context holds the prompt and as much of an answer as the caller allows."""
    result: Truths = table.context_tokens_M >= question.context_tokens
    return result


def reachable(passing_M: Truths, expected: Expected, fleet: FleetColumns) -> Truths:
    """Of these models, those that the request fits into and that have a replica."""
    passing_M = passing_M & roomy(expected.table, expected.question)
    if not fleet.all_available:
        passing_M &= fleet.available_M
    return passing_M


def has_limits_on_estimates(expected: Expected) -> bool:
    constraints = expected.table.vocabulary.constraint
    return any(constraints[name].stage == "estimate" for name in expected.question.preferences.limits)


def has_limits_on_quality(expected: Expected) -> bool:
    constraints = expected.table.vocabulary.constraint
    return any(constraints[name].reads_quality for name in expected.question.preferences.limits)


def affordable(passing_M: Truths, expected: Expected) -> Truths:
    """Of these models, those whose estimates keep the limits; a missing estimate keeps none."""
    columns: Columns = expected
    for name, limit in expected.question.preferences.limits.items():
        constraint = expected.table.vocabulary.constraint[name]
        if constraint.stage == "estimate":
            passing_M = passing_M & constraint.passes(columns, limit)
    return passing_M
