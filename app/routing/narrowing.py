"""A decision after the key's budget left some of its models out: as if one more limit had excluded them.

The ranking is what is left of the one before. What spoke for its first model still does, if that is left; else the next
one answers for what ranked it, and no session and no doubt had a part in that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from app.domain.decision import Decision
from app.routing.evidence import Evidence, reason_of, why_of
from app.routing.why import Ground


def narrowed(decision: Decision, kept: Sequence[int]) -> Decision:
    """The decision with these of its candidates, by their places in the ranking; the others cannot be paid for."""
    candidates = tuple(decision.candidates[place] for place in kept)
    evidence = decision.evidence
    if not isinstance(evidence, Evidence):
        return replace(decision, candidates=candidates)
    evidence = evidence._replace(ground=_cut(evidence.ground, kept))
    return replace(
        decision,
        candidates=candidates,
        reason=reason_of(evidence.case, evidence.ground),
        explain=partial(why_of, evidence),
        evidence=evidence,
    )


def _cut(ground: Ground, kept: Sequence[int]) -> Ground:
    unpaid = tuple(np.delete(ground.order, kept).tolist())
    left = ground._replace(order=ground.order[list(kept)], unpaid=unpaid)
    return left if kept[0] == 0 else left._replace(kept=None, doubted=None)
