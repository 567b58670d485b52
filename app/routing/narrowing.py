"""A decision after the key's budget left some of its models out: as if one more limit had excluded them.

The ranking is what is left of the one before. What spoke for its first model still does, if that is left; else the next
one answers for what ranked it, and no session and no doubt had a part in that. Where nothing that was tested is left,
nothing ranks it but the profile's order, except for a model in the middle of a tool call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from app.domain.decision import Decision
from app.routing.evidence import Evidence, reason_of, why_of
from app.routing.view import NO_TERMS
from app.routing.why import Ground


def narrowed(decision: Decision, kept: Sequence[int]) -> Decision:
    """The decision with these of its candidates, by their places in the ranking; the others cannot be paid for."""
    evidence = decision.evidence
    if not isinstance(evidence, Evidence):
        return replace(decision, candidates=tuple(decision.candidates[place] for place in kept))
    if not _is_any_tested(evidence, kept):
        kept, evidence = _by_default(evidence, kept)
    evidence = replace(evidence, ground=_cut(evidence.ground, kept))
    return replace(
        decision,
        candidates=tuple(decision.candidates[place] for place in kept),
        reason=reason_of(evidence.case, evidence.ground),
        explain=partial(why_of, evidence),
        evidence=evidence,
    )


def _is_any_tested(evidence: Evidence, kept: Sequence[int]) -> bool:
    """Of those that are tried first."""
    peers = evidence.case.peers(evidence.ground.order[list(kept)])
    return bool(evidence.case.table.tested_M[peers].any())


def _by_default(evidence: Evidence, kept: Sequence[int]) -> tuple[list[int], Evidence]:
    """The same places in the profile's order, and that this is what ranks them; what goes on stays in front."""
    ground, position_M = evidence.ground, evidence.default_position_M
    kept_E = ground.order[list(kept)]
    place_of = dict(zip(kept_E.tolist(), kept, strict=True))
    ordered = evidence.case.as_tried(kept_E[position_M[kept_E].argsort()])
    places = [place_of[model] for model in ordered.tolist()]
    if ground.kept is not None and kept[0] == 0:
        places.sort(key=lambda place: place != 0)
    return places, replace(evidence, ground=replace(ground, rule="default", terms=NO_TERMS, doubted=None))


def _cut(ground: Ground, kept: Sequence[int]) -> Ground:
    unpaid = np.delete(ground.order, kept).tolist()
    left = replace(ground, order=ground.order[list(kept)], unpaid=(*ground.unpaid, *unpaid))
    return left if kept[0] == 0 else replace(left, kept=None, doubted=None)
