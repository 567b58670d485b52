"""Which models to try, in which order, and why: filter, estimate, rank.

Legend of array suffixes: M models of the catalogue, E eligible ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from app.domain.decision import Decision, Fleet, Reason
from app.domain.dimensions import Truths
from app.domain.preferences import Profile
from app.domain.request import Conversation, Preferences, Request
from app.errors import UnknownModel
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Expected, Prediction, Question
from app.routing.exclusions import nothing_left
from app.routing.filters import CardFilter, affordable, has_limits_on_estimates, reachable
from app.routing.objective import Positions, ranked, utility
from app.routing.operating_points import OperatingCurve, OperatingPoints, OperatingTable
from app.routing.ranking import Ranking
from app.routing.why import Ground, why_best, why_default


class PredictorFailed(Exception):
    """There is no prediction this time; the message says why. Not the caller's problem."""


class QualityPredictor(Protocol):
    """Predicts, for one conversation, how good each model's answer would be."""

    async def predict(self, conversation: Conversation) -> Prediction:
        """A number per model of the artifact, in its order.

        Raises:
            PredictorFailed: it failed, or took too long.
        """
        ...


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a decision was made from; the record follows from it."""

    case: Case
    ground: Ground
    predictor_failure: str | None
    versions: Mapping[str, str]


class Router:
    """Chooses models. Everything it knows is given; a reload makes a new one."""

    def __init__(
        self,
        table: CandidateTable,
        predictor: QualityPredictor | None,
        curve: OperatingCurve | None,
        profiles: Mapping[str, Profile],
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """Without a predictor every request gets its profile's default order. `versions` are kept with decisions."""
        self._table, self._predictor, self._versions = table, predictor, dict(versions or {})
        self._points = OperatingPoints(table, curve) if curve else None
        self._card_filter = CardFilter(table)
        self._default_position = {name: _positions(table, profile.order) for name, profile in profiles.items()}
        self._fleet: tuple[Fleet, FleetColumns] | None = None

    async def tabulate(self) -> None:
        """Work out the operating curve of all models now, rather than with the first request that needs it."""
        if self._points is not None:
            await self._points.of(self._table.tested_M)

    async def route(self, request: Request, fleet: Fleet) -> Decision:
        """Rank the models that satisfy the constraints, most useful under the weights first.

        Raises:
            UnknownModel: the model asked for by name, or the profile, does not exist for this caller.
            NoEligibleModel: the constraints leave no model; the message says which, and what to change.
            ContextLengthExceeded: the request fits into no model.
            UpstreamUnreachable: only models without a replica that is up are left.
        """
        case = Case(self._table, Question.of(request), self._columns(fleet))
        self._check_names(case.question)
        usable_M = self._usable(Expected(case))
        prediction, failure = await self._predict(request, Expected(case))
        case = replace(case, prediction=prediction)
        expected = Expected(case)
        eligible_M = _within_limits(usable_M, expected)
        ground = await self._rank(expected, usable_M, eligible_M)
        return self._decision(expected, Evidence(case, ground, failure, self._versions))

    def _columns(self, fleet: Fleet) -> FleetColumns:
        """The fleet as columns; one picture of it serves many requests."""
        if self._fleet is None or self._fleet[0] is not fleet:
            self._fleet = (fleet, FleetColumns(self._table, fleet))
        return self._fleet[1]

    def _check_names(self, question: Question) -> None:
        if question.profile not in self._default_position:
            raise _unknown(f"auto:{question.profile}")
        name, allowed = question.model, question.allowed_models
        if name is not None and (name not in self._table.position or (allowed is not None and name not in allowed)):
            raise _unknown(name)

    def _usable(self, expected: Expected) -> Truths:
        """Models that can answer, as far as is known without a prediction."""
        passing_M = self._card_filter.passing(expected)
        if expected.question.model is not None:
            passing_M = passing_M & _only(self._table.position[expected.question.model], len(self._table))
        usable_M = reachable(passing_M, expected, expected.fleet)
        if not usable_M.any():
            raise nothing_left(expected, estimated=False)
        return usable_M

    async def _predict(self, request: Request, expected: Expected) -> tuple[Prediction | None, str | None]:
        """The prediction, or why there is none though there should be."""
        is_needed = request.model is None or request.explain or has_limits_on_estimates(expected)
        if self._predictor is None or not is_needed:
            return None, None
        try:
            return await self._predictor.predict(request.conversation), None
        except PredictorFailed as exc:
            return None, str(exc) or "the predictor failed"

    async def _rank(self, expected: Expected, usable_M: Truths, eligible_M: Truths) -> Ground:
        preferences = expected.question.preferences
        if expected.prediction is None or not (eligible_M & self._table.tested_M).any():
            eligible_E = eligible_M.nonzero()[0]
            position_M = self._default_position[expected.question.profile]
            return Ground(eligible_E[position_M[eligible_E].argsort()], {}, is_default=True)
        if preferences.max_quality_loss is None:
            weights = preferences.weights
            return Ground(ranked(utility(expected, weights), eligible_M), weights)
        return _frugal(expected, eligible_M, await self._points.of(usable_M) if self._points else None)

    def _decision(self, expected: Expected, evidence: Evidence) -> Decision:
        ground, failure = evidence.ground, evidence.predictor_failure
        reason, why = self._reason(expected, ground, failure)
        ranking = Ranking(evidence.case, expected, ground)
        details = {"predictor_failure": failure} if failure else {}
        return Decision(f"dec-{os.urandom(12).hex()}", ranking, reason, why, details, evidence)

    def _reason(self, expected: Expected, ground: Ground, failure: str | None) -> tuple[Reason, str]:
        if expected.question.model is not None:
            return "named", "asked for by name"
        if len(ground.order) == 1:
            return "only", "the only eligible model"
        if ground.is_default:
            return "default", why_default(failure, self._predictor is not None)
        return "best", why_best(expected, ground)


def _within_limits(usable_M: Truths, expected: Expected) -> Truths:
    eligible_M = affordable(usable_M, expected)
    if not eligible_M.any():
        raise nothing_left(expected, estimated=True)
    return eligible_M


def _frugal(expected: Expected, eligible_M: Truths, point: OperatingTable | None) -> Ground:
    """As cheap as a `max_quality_loss` allows; where no weight on cost keeps it, the best single model comes first."""
    preferences: Preferences = expected.question.preferences
    loss = preferences.max_quality_loss
    cost_weight = point.cost_weight(loss) if point is not None and loss is not None else None
    weights = {**preferences.weights, "cost": cost_weight or 0.0}
    order = ranked(utility(expected, weights), eligible_M)
    if cost_weight is None and point is not None and point.best_model is not None:
        best = expected.table.position[point.best_model]
        order = np.concatenate((order[order == best], order[order != best]))
    return Ground(order, weights, loss, point, cost_weight)


def _positions(table: CandidateTable, order: Sequence[str]) -> Positions:
    """Where each model stands in a profile's order [M]; those that it does not name follow, as in the catalogue."""
    named = [table.position[name] for name in order if name in table.position]
    rest = [number for number in range(len(table)) if number not in set(named)]
    positions_M = np.empty(len(table), dtype=np.intp)
    positions_M[[*dict.fromkeys(named), *rest]] = np.arange(len(table))
    return positions_M


def _only(position: int, models: int) -> Truths:
    only_M = np.zeros(models, dtype=np.bool_)
    only_M[position] = True
    return only_M


def _unknown(name: str) -> UnknownModel:
    return UnknownModel(
        f"the model {name[:100]!r} does not exist or is not for this key; GET /v1/models lists what there is",
        param="model",
    )
