"""What a decision was made from, and what that says of its reason."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.decision import Reason
from app.domain.frozen import frozen
from app.routing.estimates import Case, Expected, Prospect
from app.routing.objective import Positions
from app.routing.reading import Reading
from app.routing.why import (
    Ground,
    why_abstained,
    why_best,
    why_default,
    why_doubted,
    why_kept,
    why_tried_last,
    why_unpaid,
)


@frozen
class Evidence:
    """What a decision was made from; the record follows from it."""

    case: Case
    ground: Ground
    reading: Reading
    versions: Mapping[str, str]
    prospect: Prospect
    has_predictor: bool
    follows_order: bool
    """Whether the profile says who answers where the numbers do not."""
    may_look_closer: bool
    """Whether another encoder would read the prompt where this reading leaves less of a margin."""
    default_position_M: Positions
    """Where each model of the catalogue stands in the profile's order."""


@frozen
class Denial:
    """Why there is no decision: what no model complied with."""

    limited: Expected
    """What limits were held against."""
    reading: Reading
    versions: Mapping[str, str]


def reason_of(case: Case, ground: Ground) -> Reason:
    """The reason in a word."""
    if case.question.model is not None:
        return "named"
    if len(ground.order) == 1:
        return "only"
    return ground.rule if ground.kept is None else "session"


# No method: a decision is remembered for a while, and a router with its artifact must not be for that.
def why_of(evidence: Evidence) -> str:
    """The reason in plain words."""
    ground, expected = evidence.ground, Expected(evidence.case)
    before = why_unpaid(expected, ground.unpaid) + why_tried_last(expected, ground)
    return before + _why(reason_of(evidence.case, ground), evidence)


def _why(reason: Reason, evidence: Evidence) -> str:
    case, ground = evidence.case, evidence.ground
    if reason == "named":
        return "asked for by name"
    if reason == "only":
        return "the only eligible model"
    if ground.kept is not None:
        return why_kept(Expected(case), ground.kept)
    if ground.doubted is not None:
        return why_doubted(Expected(case), ground, ground.doubted)
    asked = case.question.preferences
    if reason == "default":
        some_are_last = len(case.peers(ground.order)) < len(ground.order)
        return why_default(asked, evidence.reading.failure, evidence.has_predictor, some_are_last)
    if reason == "abstained":
        point, first = ground.terms.point, case.table.names[int(ground.order[0])]
        best_single = first if point is not None and point.best_model == first else None
        return why_abstained(asked, evidence.follows_order, best_single)
    return why_best(Expected(case), ground)
