"""What a caller can change about a limit, so that it admits a model: as little as does.

How it works: a limit of a request is what its profile, its key, its headers and its body say of it, all of which hold.
So a model is admitted when each of them admits it, and each is relaxed for itself. What a key says nobody can change
who calls with it. What a profile says does not hold for models that are asked for by name. `max_output_tokens` also
cuts what is written, so who raises it is told what else he has to raise for a longer answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from app.domain.constraints import Constraint
from app.domain.decision import Change
from app.domain.dimensions import Truths
from app.domain.request import Origins, Preferences
from app.domain.vocabulary import HEADER_PREFIX
from app.routing.estimates import Expected

CUT = "max_output_tokens"


def origins_of(preferences: Preferences) -> Origins:
    """Whose the limits are."""
    return preferences.origins or Origins({}, {}, {}, preferences.limits)


def uncut(expected: Expected) -> tuple[Expected, Truths]:
    """What is expected where `max_output_tokens` is raised for models that it alone cuts short, and which these are.

    The same where something else allows no longer answers, such as the `max_tokens` of the request.
    """
    question, limits = expected.question, expected.question.preferences.limits
    nobody_M = np.zeros(len(expected.table), dtype=np.bool_)
    if CUT not in limits or question.max_tokens == question.own_max_tokens:
        return expected, nobody_M
    passes = expected.table.vocabulary.constraint[CUT].passes
    held = origins_of(question.preferences).key.get(CUT)
    may_rise_M = ~nobody_M if held is None else passes(expected, held)
    raised = Expected(replace(expected.case, question=replace(question, max_tokens=question.own_max_tokens)))
    return raised, may_rise_M & ~passes(expected, limits[CUT])


def change_of(constraint: Constraint, expected: Expected, model: int) -> Change | None:
    """What admits this model, as far as this constraint goes; None where the key does not."""
    name, origins = constraint.name, origins_of(expected.question.preferences)

    def excludes(limits: Mapping[str, Any]) -> bool:
        return name in limits and not constraint.passes(expected, limits[name])[model]

    if excludes(origins.key):
        return None
    changes = []
    if excludes(origins.profile):
        words = f"ask for {expected.names[model]} by its name, for which limits of a profile do not hold"
        changes.append(Change((words,), by_name=True))
    for limits, relax in ((origins.header, _header), (origins.body, _field)):
        if excludes(limits):
            relaxed = constraint.relaxed(expected, model, limits[name])
            changes.append(relax(constraint, relaxed, _distance(limits[name], relaxed)))
    return together(changes)


def together(changes: list[Change]) -> Change:
    """All of them."""
    return Change(
        tuple(dict.fromkeys(words for each in changes for words in each.words)),
        {name: value for each in changes for name, value in each.routing.items()},
        {name: value for each in changes for name, value in each.headers.items()},
        any(each.by_name for each in changes),
        sum(each.distance for each in changes),
    )


def _field(constraint: Constraint, relaxed: Any, distance: float) -> Change:
    value = None if relaxed is None else constraint.kind.as_json(relaxed)
    return Change((constraint.relaxation(relaxed),), {constraint.name: value}, distance=distance)


def _header(constraint: Constraint, relaxed: Any, distance: float) -> Change:
    header = HEADER_PREFIX + constraint.name.replace("_", "-")
    if relaxed is None:
        return Change((f"leave out the header {header}",), headers={header: None}, distance=distance)
    text = ",".join(sorted(relaxed)) if isinstance(relaxed, frozenset) else constraint.kind.show(relaxed)
    return Change((f"set the header {header} to {text}",), headers={header: text}, distance=distance)


def _distance(limit: object, relaxed: object) -> float:
    """Between numbers, as a share of the limit; leaving a limit out goes farthest, lists of names are all as near."""
    if relaxed is None:
        return float("inf")
    if isinstance(limit, int | float) and isinstance(relaxed, int | float):
        return abs(relaxed - limit) / (abs(limit) or 1.0)
    return 0.0
