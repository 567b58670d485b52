"""Which models to try, in which order, and why: filter, estimate, rank.

How it works: what is known without a prediction leaves the usable models. A glance at the prompt decides among them
when it is clear enough; else the transformer reads it. Limits on what is expected leave the eligible models. The most
useful of them comes first, unless the prompt is unlike all that was learned from: then the profile's order decides.
Then a session may keep its model (`app.routing.sessions`).

Legend of array suffixes: M models of the catalogue, E eligible ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from app.domain.decision import Decision, Fleet
from app.domain.dimensions import Truths
from app.domain.preferences import Profile
from app.domain.request import Request
from app.domain.sessions import Session
from app.errors import GatewayError, UnknownModel
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Expected, Prospect, Question
from app.routing.evidence import Denial, Evidence, reason_of, why_of
from app.routing.exclusions import nothing_left
from app.routing.filters import (
    CardFilter,
    Passing,
    excluded,
    has_limits_on_estimates,
    has_limits_on_quality,
    reachable,
)
from app.routing.identifiers import Identifiers
from app.routing.objective import Positions
from app.routing.operating_points import OperatingCurve, OperatingPoints, OperatingTable
from app.routing.ranking import Ranking
from app.routing.reading import QualityPredictor, glance, look
from app.routing.recall import Recall
from app.routing.sessions import kept, warmth_of
from app.routing.steadiness import borne_out, is_dear, rest_of
from app.routing.tally import NOBODY, Tally
from app.routing.view import NO_TERMS, Terms, View, first_of
from app.routing.why import Ground

# A glance decides alone when its margin is this many times its typical error: with errors that are distributed normally
# (the one-sided 95 % quantile), the transformer would turn one such choice in twenty around, and closer ones at most.
CLEAR_MARGIN = 1.645
# Standard deviation of what the transformer changes in the difference of two models' predicted log lengths: over 200
# anchors and all models of public-v1.
LENGTH_ERROR = 0.21


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of models beyond their cards; either may be missing."""

    predictor: QualityPredictor | None = None
    curve: OperatingCurve | None = None


class Router:
    """Chooses models. Everything it knows is given; a reload makes a new one."""

    def __init__(
        self,
        table: CandidateTable,
        learned: Learned,
        profiles: Mapping[str, Profile],
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """Without a predictor every request gets its profile's default order.

        `versions` are kept with decisions.
        """
        self._table, self._predictor = table, learned.predictor
        self._versions, self._recall = dict(versions or {}), Recall()
        self._identifiers = Identifiers()
        self._points = OperatingPoints(table, learned.curve) if learned.curve else None
        self._card_filter = CardFilter(table)
        self._length_error = {
            each.name: LENGTH_ERROR * abs(table.scales[each.name].slope)
            for each in table.vocabulary.dimension.values()
            if each.stage == "estimate"
        }
        self._default_position = {name: _positions(table, profile.order) for name, profile in profiles.items()}
        self._ordered = frozenset(name for name, profile in profiles.items() if profile.order)
        self._steady = frozenset(name for name, profile in profiles.items() if profile.steady)
        self._fleet: tuple[Fleet, FleetColumns] | None = None

    async def tabulate(self) -> None:
        """Work out the operating curve of all models now, rather than with the first request that needs it."""
        if self._points is not None:
            await self._points.of(self._table.tested_M)

    async def route(
        self, request: Request, fleet: Fleet, session: Session | None = None, tally: Tally = NOBODY
    ) -> Decision:
        """Rank the models that satisfy the constraints, most useful under the weights first.

        `session` is what is remembered of the request's own one; `tally` hears what the decision is made from.

        Raises:
            UnknownModel: the model asked for by name, or the profile, does not exist for this caller.
            NoEligibleModel: the constraints leave no model; the message says which, and what to change.
            ContextLengthExceeded: the request fits into no model.
            UpstreamUnreachable: only models without a replica that is up are left.
        """
        warmth = warmth_of(session, request, self._table)
        case = Case(self._table, Question.of(request), self._columns(fleet), warmth=warmth)
        self._check_names(case.question)
        passing = self._card_filter.passing(case)
        usable_M = self._usable(case, passing)
        if usable_M is None:
            raise await self._nothing_usable(request, case, passing, tally)
        loss = request.preferences.max_quality_loss
        terms = Terms(request.preferences.weights) if loss is None else await self._terms(case.question, usable_M, loss)
        view = await self._read(request, case, usable_M, terms)
        if request.preferences.limits and not np.count_nonzero(view.eligible):
            _tell_excluded(tally, passing, view.limited, estimated=True)
            raise self._denied(view, estimated=True)
        ground = self._rank(view) or await self._abstain(view)
        if request.profile in self._steady and is_dear(view, ground):
            rest = replace(request, conversation=rest_of(request.conversation))
            ground = borne_out(view, ground, await self._read(rest, case, usable_M, terms))
        _tell_excluded(tally, passing, view.limited, estimated=True, left=len(ground.order))
        if view.reading.encoder is not None:
            tally.predicted(view.reading.encoder, unfamiliar=view.is_unfamiliar)
        return self._decision(view, kept(view, ground))

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

    def _usable(self, case: Case, passing: Passing) -> Truths | None:
        """Models that can answer, as far as is known without a prediction; None where there are none."""
        usable_M = reachable(passing, case)
        if case.question.model is not None:
            usable_M = usable_M & _only(self._table.position[case.question.model], len(self._table))
        is_any = passing.is_any if usable_M is passing.models_M else np.count_nonzero(usable_M)
        return usable_M if is_any else None

    async def _nothing_usable(self, request: Request, case: Case, passing: Passing, tally: Tally) -> GatewayError:
        """The error where that is so. What to change follows from predictions, too, where limits are about them."""
        usable_M, terms = np.zeros(len(self._table), dtype=np.bool_), Terms(request.preferences.weights)
        estimated = has_limits_on_estimates(case)
        view = await self._read(request, case, usable_M, terms) if estimated else View(case, usable_M, terms)
        _tell_excluded(tally, passing, view.limited, estimated=estimated)
        return self._denied(view, estimated=estimated)

    def _denied(self, view: View, *, estimated: bool) -> GatewayError:
        error = nothing_left(view.limited, estimated=estimated)
        error.evidence = Denial(view.limited, view.reading, self._versions)
        return error

    async def _terms(self, question: Question, usable_M: Truths, loss: float) -> Terms:
        """The weights, with the one on cost that this loss of quality allows among these models."""
        weights = question.preferences.weights
        if self._predictor is None or question.model is not None:
            return Terms(weights)
        point = await self._point(usable_M)
        cost_weight = point.cost_weight(loss) if point is not None else None
        return Terms({**weights, "cost": cost_weight or 0.0}, loss, point, cost_weight)

    async def _point(self, usable_M: Truths) -> OperatingTable | None:
        return await self._points.of(usable_M) if self._points is not None else None

    async def _read(self, request: Request, case: Case, usable_M: Truths, terms: Terms) -> View:
        """What is seen at a glance if that settles the choice, else what the transformer sees."""
        is_needed = request.model is None or request.explain or has_limits_on_estimates(case)
        if self._predictor is None or not is_needed:
            return View(case, usable_M, terms)
        reading = glance(self._predictor, request, self._recall)
        view = View(case.seen_by(reading.prediction), usable_M, terms, reading)
        if self._has_transformer and not self._is_settled(request, view):
            reading = await look(self._predictor, request, self._recall, reading)
            view = View(case.seen_by(reading.prediction), usable_M, terms, reading)
        return view

    @property
    def _has_transformer(self) -> bool:
        return self._predictor is not None and "transformer" in self._predictor.speeds

    def _is_settled(self, request: Request, glanced: View) -> bool:
        """Whether nothing that the transformer may say is likely to change the choice.

        Encoders differ about qualities, and about lengths, with which cost, time and energy grow at most as fast.
        """
        prediction = glanced.reading.prediction
        if self._predictor is None or prediction is None or prediction.unfamiliar or request.explain:
            return False
        # Nobody is refused at a glance, and no floor of quality is judged by one.
        if has_limits_on_quality(glanced.case) or not np.count_nonzero(glanced.eligible):
            return False
        length_error = sum(
            weight * self._length_error[name]
            for name, weight in glanced.terms.weights.items()
            if name in self._length_error
        )
        return glanced.margin > CLEAR_MARGIN * math.hypot(self._predictor.static_error, length_error)

    def _rank(self, view: View) -> Ground | None:
        """By the profile's order or by usefulness; None where neither may be, as the prompt is too unfamiliar."""
        if view.reading.prediction is None or not (self._table.all_tested or self._is_any_tested(view)):
            return Ground("default", self._default_order(view))
        if view.is_unfamiliar and len(view.order) > 1:
            return None
        return Ground("best", view.order, view.terms)

    def _is_any_tested(self, view: View) -> bool:
        """Of those that are tried first; all of them where all are a last resort."""
        return bool(self._table.tested_M[view.case.peers(view.order)].any())

    async def _abstain(self, view: View) -> Ground:
        """The profile's order; where it has none, the best single model first."""
        order = self._default_order(view)
        if self._follows_order(view):
            return Ground("abstained", order)
        point = view.terms.point or await self._point(view.usable_M)
        if point is not None and point.best_model is not None:
            order = view.case.as_tried(first_of(order, self._table.position[point.best_model]))
        return Ground("abstained", order, replace(NO_TERMS, point=point))

    def _default_order(self, view: View) -> Positions:
        eligible_E = view.eligible.nonzero()[0]
        position_M = self._default_position[view.case.question.profile]
        return view.case.as_tried(eligible_E[position_M[eligible_E].argsort()])

    def _decision(self, view: View, ground: Ground) -> Decision:
        failure = view.reading.failure
        prospect, follows_order = Prospect(view.expected), self._follows_order(view)
        evidence = Evidence(
            case=view.case,
            ground=ground,
            reading=view.reading,
            versions=self._versions,
            prospect=prospect,
            has_predictor=self._predictor is not None,
            follows_order=follows_order,
            may_look_closer=view.reading.encoder == "static" and self._has_transformer,
            default_position_M=self._default_position[view.case.question.profile],
        )
        return Decision(
            decision_id=f"dec-{self._identifiers.next()}",
            candidates=Ranking(view, ground, prospect),
            reason=reason_of(view.case, ground),
            explain=partial(why_of, evidence),
            details={"predictor_failure": failure} if failure else {},
            evidence=evidence,
            shared=view.case.fleet,
        )

    def _follows_order(self, view: View) -> bool:
        """Whether the profile says who answers where the numbers do not."""
        return view.case.question.profile in self._ordered


def _tell_excluded(tally: Tally, passing: Passing, expected: Expected, *, estimated: bool, left: int = 0) -> None:
    """Tell what excluded models, unless as many are left as the key may use, or one was asked for by name."""
    if left < passing.allowed and expected.question.model is None:
        for constraint, models in excluded(passing, expected, estimated=estimated).items():
            tally.excluded(constraint, models)


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
