"""What a session changes about a choice: its model is cheaper and quicker where its cache holds the conversation.

How it works: what the session's model has read costs it the price of cached input, and no time; the others would have
to read it anew. So a switch is priced at the cache that it abandons, in the same weights as all else. Two rules need no
number. Inside an open tool call the session's model goes on as long as it is eligible. And where the prediction is not
to be trusted, or failed, nothing says that a switch is worth a cache, unless the rest of the prompt is familiar and
does (`app.routing.steadiness`). Limits are judged as if nothing were cached, so that a session admits no model that
would not be admitted without it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.domain.request import Request
from app.domain.sessions import Session
from app.routing.candidates import CandidateTable
from app.routing.estimates import Expected, Warmth
from app.routing.view import View, first_of
from app.routing.why import Ground, Kept

# Providers drop what nobody asks for within five to ten minutes.
WARM_S = 600.0


def warmth_of(session: Session | None, request: Request, table: CandidateTable) -> Warmth | None:
    """What the session's model has of this request; None where it has no model that this caller may use."""
    if session is None:
        return None
    position, allowed = table.position.get(session.model), request.allowed_models
    if position is None or (allowed is not None and session.model not in allowed):
        return None
    is_warm = session.age_s <= WARM_S and session.goes_on_in(request)
    tokens = min(session.input_tokens, request.input_tokens) if is_warm else 0
    return Warmth(position, tokens, request.in_tool_call)


def kept(view: View, ground: Ground) -> Ground:
    """The ranking with the session's model in front where its session decides that, and what would have been else."""
    warmth = view.case.warmth
    if warmth is None or warmth.model not in view.case.peers(ground.order):
        return ground
    first = int(ground.order[0])
    if first == warmth.model:
        is_by_price = ground.rule == "best" and ground.doubted is None and warmth.tokens
        return _kept_by_price(view, ground) if is_by_price else ground
    if warmth.in_tool_call:
        return _put_first(ground, Kept("tool_call", warmth.model, first))
    is_untold = ground.rule == "abstained" or (ground.rule == "default" and view.reading.failure)
    if is_untold and ground.doubted is None:
        return _put_first(ground, Kept("untold", warmth.model, first))
    return ground


def session_as_json(expected: Expected, ground: Ground) -> dict[str, Any] | None:
    """The session's model, what it has of this request, and what became of the choice because of it, fit for JSON."""
    warmth, because = expected.case.warmth, ground.kept
    if warmth is None:
        return None
    return {
        "model": expected.names[warmth.model],
        "cached_tokens": warmth.tokens,
        "in_tool_call": warmth.in_tool_call,
        "kept_for": because.why if because else None,
        "instead_of": expected.names[because.otherwise] if because else None,
    }


def _put_first(ground: Ground, because: Kept) -> Ground:
    return replace(ground, order=first_of(ground.order, because.model), kept=because, doubted=None)


def _kept_by_price(view: View, ground: Ground) -> Ground:
    chosen, otherwise = int(ground.order[0]), int(view.without_session.order[0])
    return ground if otherwise == chosen else replace(ground, kept=Kept("cache", chosen, otherwise))
