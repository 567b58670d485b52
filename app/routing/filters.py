"""Which models can answer at all: what is known before a prediction, then limits on what is expected.

Exclusions stay arrays here; `app.routing.exclusions` puts them into words when somebody reads them.

Legend of array suffixes: M models of the catalogue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np

from app.domain.dimensions import Columns, Truths
from app.routing.candidates import CandidateTable
from app.routing.estimates import Case, Expected, Question

# Keys of a gateway times the few limits that its callers set again and again; each entry takes a byte per model.
REMEMBERED = 256
# Names that their limits may list, all together. They are mostly the catalogue's own strings: 64 bytes for each place.
MOST_LISTED = 20_000


CAPABILITIES, CONTEXT, AVAILABILITY = "capabilities", "context_tokens", "availability"


class Passing(NamedTuple):
    """Models that pass, and what fits into each of them."""

    models_M: Truths
    """Not to be written to."""
    context_tokens: float
    is_any: bool
    """Whether there is one."""
    allowed_M: Truths
    """Those that the key may use at all."""
    allowed: int
    against: Mapping[str, int]
    """How many of these each constraint excludes, where it excludes any."""
    listed: int
    """How many names the limits list."""


class CardFilter:
    """Models that a key may use, that can do what a request needs, and whose cards keep its limits.

    Clients repeat themselves, so answers are remembered.
    """

    def __init__(self, table: CandidateTable) -> None:
        self._table = table
        self._constraints = table.vocabulary.constraint
        self._known: OrderedDict[Hashable, Passing] = OrderedDict()
        self._listed = 0

    def passing(self, case: Case) -> Passing:
        question, constraints = case.question, self._constraints
        limits: list[tuple[str, Any]] = []
        if question.preferences.limits:
            limits = [each for each in question.preferences.limits.items() if constraints[each[0]].stage == "card"]
        spared = question.parameters and question.parameters & self._table.spared_by_any
        key = (question.allowed_models, question.needs, question.uses, spared, *limits)
        passing = self._known.get(key)
        if passing is None:
            passing = self._compute(case, limits)
            self._remember(key, passing)
        return passing

    def _remember(self, key: Hashable, passing: Passing) -> None:
        self._known[key] = passing
        self._listed += passing.listed
        while len(self._known) > REMEMBERED or self._listed > MOST_LISTED:
            self._listed -= self._known.popitem(last=False)[1].listed

    def _compute(self, case: Case, limits: list[tuple[str, Any]]) -> Passing:
        table, expected = self._table, Expected(case)
        allowed_M = allowed(table, case.question.allowed_models)
        passes = {CAPABILITIES: capable(table, case.question.needs)}
        passes |= {name: self._constraints[name].passes(expected, limit) for name, limit in limits}
        passing_M: Truths = np.logical_and.reduce([allowed_M, *passes.values()])
        return Passing(
            passing_M,
            float(table.context_tokens_M[passing_M].min(initial=np.inf)),
            bool(passing_M.any()),
            allowed_M,
            int(np.count_nonzero(allowed_M)),
            {name: lost for name, mask_M in passes.items() if (lost := int(np.count_nonzero(allowed_M & ~mask_M)))},
            sum([len(limit) for name, limit in limits if self._constraints[name].listed is not None]),
        )


def excluded(passing: Passing, expected: Expected, *, estimated: bool) -> dict[str, int]:
    """How many of the models that a key may use each constraint excludes; on estimates only where `estimated`."""
    counts, question, fleet = dict(passing.against), expected.question, expected.fleet
    if question.least_context_tokens > passing.context_tokens:
        counts[CONTEXT] = _lost(passing, roomy(expected.table, question))
    if not fleet.all_available:
        counts[AVAILABILITY] = _lost(passing, fleet.available_M)
    for name, limit in question.preferences.limits.items() if estimated else ():
        constraint = expected.table.vocabulary.constraint[name]
        if constraint.stage == "estimate":
            counts[name] = _lost(passing, constraint.passes(expected, limit))
    return counts


def _lost(passing: Passing, mask_M: Truths) -> int:
    return int(np.count_nonzero(passing.allowed_M & ~mask_M))


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
    """Models whose context may hold the prompt and as much of an answer as the caller asks for."""
    result: Truths = table.context_tokens_M >= question.least_context_tokens
    return result


def reachable(passing: Passing, case: Case) -> Truths:
    """Of these models, those that the request fits into and that have a replica; not to be written to."""
    reachable_M, question = passing.models_M, case.question
    if question.least_context_tokens > passing.context_tokens:
        reachable_M = reachable_M & roomy(case.table, question)
    return reachable_M if case.fleet.all_available else reachable_M & case.fleet.available_M


def has_limits_on_estimates(case: Case) -> bool:
    limits, constraints = case.question.preferences.limits, case.table.vocabulary.constraint
    return bool(limits) and any(constraints[name].stage == "estimate" for name in limits)


def has_limits_on_quality(case: Case) -> bool:
    limits, constraints = case.question.preferences.limits, case.table.vocabulary.constraint
    return bool(limits) and any(constraints[name].reads_quality for name in limits)


def affordable(passing_M: Truths, expected: Expected) -> Truths:
    """Of these models, those whose estimates keep the limits; a missing estimate keeps none."""
    columns: Columns = expected
    for name, limit in expected.question.preferences.limits.items():
        constraint = expected.table.vocabulary.constraint[name]
        if constraint.stage == "estimate":
            passing_M = passing_M & constraint.passes(columns, limit)
    return passing_M
