"""What the journal keeps of a decision: less than its record, and made for every request, so in few steps.

Legend of array suffixes: M models of the catalogue, K kept ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from app.domain.decision import Decision
from app.domain.dimensions import Truths
from app.routing.candidates import CandidateTable
from app.routing.estimates import Case, Expected
from app.routing.evidence import Denial, Evidence
from app.routing.exclusions import BUDGET
from app.routing.filters import AVAILABILITY, CAPABILITIES, CONTEXT, asked_for, capable, roomy
from app.routing.reading import Reading
from app.routing.sessions import session_as_json

# Most catalogues have fewer models; a longer tail of the ranking is never tried, and its estimates follow from the
# versions.
MOST_CANDIDATES = 10
# Of the models that a constraint excludes so many are named, the rest is counted.
MOST_NAMED = 10
REMEMBERED = 256
_FLOAT32 = np.dtype(np.float32)


class Outlines:
    """Makes outlines. What is the same for many requests is remembered, as long as the catalogue stays."""

    def __init__(self) -> None:
        self._table: CandidateTable | None = None
        self._visible: OrderedDict[object, int] = OrderedDict()

    def of(self, decision: Decision) -> dict[str, Any]:
        """What the choice came from, as far as that is known. To be asked for once, when all else was."""
        evidence = decision.evidence
        # Nothing is left to chance yet: the choice would be the same again.
        outline: dict[str, Any] = {"propensity": 1.0}
        if not isinstance(evidence, Evidence):
            return outline
        expected, order = evidence.prospect.expected, evidence.ground.order
        evidence.prospect.let_go(order.item(0))
        outline["estimates"] = _estimates(expected, order[:MOST_CANDIDATES])
        outline["eligible"] = len(order)
        if len(order) < self._asked_for(evidence.case):
            # What is not sure to be in a cache is not counted on where limits are judged.
            limited = expected if evidence.case.warmth is None else Expected(evidence.case.without_session)
            outline["excluded"] = dict(_excluded(limited, evidence.ground.unpaid))
        if (session := session_as_json(expected, evidence.ground)) is not None:
            outline["session"] = session
        if evidence.ground.doubted is not None:
            outline["doubted"] = expected.names[evidence.ground.doubted]
        _add_reading(outline, evidence.reading)
        weights = evidence.ground.terms.weights
        if weights is not evidence.case.question.preferences.weights:
            outline["applied_weights"] = weights
        outline["versions"] = evidence.versions
        return outline

    @staticmethod
    def of_refusal(evidence: object) -> dict[str, Any]:
        """The same of a request that no model was eligible for."""
        if not isinstance(evidence, Denial):
            return {}
        outline: dict[str, Any] = {"eligible": 0, "excluded": dict(_excluded(evidence.limited, ()))}
        _add_reading(outline, evidence.reading)
        outline["versions"] = evidence.versions
        return outline

    def _asked_for(self, case: Case) -> int:
        """How many models the request might have had."""
        question = case.question
        if question.model is not None:
            return 1
        if case.table is not self._table:
            self._table = case.table
            self._visible.clear()
        known = self._visible.get(question.allowed_models)
        if known is None:
            known = self._visible[question.allowed_models] = int(np.count_nonzero(asked_for(case.table, question)))
            if len(self._visible) > REMEMBERED:
                self._visible.popitem(last=False)
        return known


def _add_reading(outline: dict[str, Any], reading: Reading) -> None:
    if reading.failure is not None:
        outline["predictor_failure"] = reading.failure
    if reading.prediction is not None:
        outline["encoder"] = reading.encoder
        outline["unfamiliar"] = bool(reading.prediction.unfamiliar)


def _estimates(expected: Expected, order_K: np.ndarray) -> dict[str, Any]:
    """The ranked candidates, most useful first, one list for each number; single precision writes half as many
    digits."""
    models = expected.table.models
    return {
        "model": [models[number].name for number in order_K.tolist()],
        "quality": expected.quality[order_K].astype(_FLOAT32),
        "cost_usd": expected.cost_usd[order_K].astype(_FLOAT32),
        "output_tokens": expected.output_tokens[order_K].astype(_FLOAT32),
        "latency_s": expected.latency_s[order_K].astype(_FLOAT32),
    }


def _excluded(expected: Expected, unpaid: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """By constraint, how many models it excludes and the first of them by name. A model may be in several."""
    visible_M = asked_for(expected.table, expected.question)
    for constraint, passing_M in _constraints(expected):
        if excluded := np.flatnonzero(visible_M & ~passing_M).tolist():
            yield constraint, _counted(expected, excluded)
    if unpaid:
        yield BUDGET, _counted(expected, sorted(unpaid))


def _counted(expected: Expected, excluded: Sequence[int]) -> dict[str, Any]:
    names = [expected.table.models[number].name for number in excluded[:MOST_NAMED]]
    return {"count": len(excluded), "models": names}


def _constraints(expected: Expected) -> Iterator[tuple[str, Truths]]:
    """What is demanded, and which models comply [M]."""
    question, table = expected.question, expected.table
    if question.needs:
        yield CAPABILITIES, capable(table, question.needs)
    for name, limit in question.preferences.limits.items():
        yield name, table.vocabulary.constraint[name].passes(expected, limit)
    yield CONTEXT, roomy(table, question)
    if not expected.fleet.all_available:
        yield AVAILABILITY, expected.fleet.available_M
