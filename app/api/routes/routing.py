"""Decisions without completions, and decisions looked up afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from app.api.bodies import embeddings_body, responses_body
from app.api.bodies.feedback_body import DECISION_ID, FEEDBACK_BODY, parse_feedback
from app.api.bodies.parsing import parse_chat, parse_completion, parse_embeddings, parse_responses
from app.api.call import Call, call_of
from app.api.policy import needs
from app.domain.request import Request
from app.errors import CallerError, UnknownDecision

routes = APIRouter()

_OF_EMBEDDINGS = embeddings_body.TABLE.keys() - responses_body.TABLE.keys()


@routes.post("/v1/routing/explain", name="explain")
@needs("route:explain")
async def explain(http_request: HttpRequest) -> JSONResponse:
    """The decision that a chat or text completion, a response, or embeddings, with this body would get."""
    call = call_of(http_request)
    call.gateway.look(call.key)
    try:
        request = await _asked(call)
    except CallerError:
        if call.is_read:
            call.gateway.refused(call.key)
        raise
    async with call.while_there():
        return JSONResponse(await call.gateway.explain(request, call.key))


async def _asked(call: Call) -> Request:
    body = await call.json()
    if "input" in body:
        return parse_embeddings(body, call) if _is_to_embed(body, call) else parse_responses(body, call)
    return parse_completion(body, call) if "prompt" in body else parse_chat(body, call)


def _is_to_embed(body: Mapping[str, Any], call: Call) -> bool:
    """Whether a body with an input is for embeddings: by its fields, else by what the model that it names can do."""
    asked = body["input"]
    if not _OF_EMBEDDINGS.isdisjoint(body) or (isinstance(asked, list) and asked and not isinstance(asked[0], dict)):
        return True
    does = next((one.card.capabilities for one in call.access.models(call.key) if one.name == body.get("model")), ())
    return "embeddings" in does and "responses" not in does


@routes.get("/v1/routing/decisions/{decision_id}", name="decision")
@needs("route:explain")
async def decision(http_request: HttpRequest) -> JSONResponse:
    """A decision that this key asked for, and what then happened."""
    call = call_of(http_request)
    decision_id = http_request.path_params["decision_id"]
    if not DECISION_ID.fullmatch(decision_id):
        raise UnknownDecision("the id of a decision is what the header x-thalamus-decision-id said")
    return JSONResponse(await call.gateway.decisions.record(decision_id, call.key))


@routes.post("/v1/routing/feedback", name="feedback", openapi_extra=FEEDBACK_BODY)
@needs("route:feedback")
async def feedback(http_request: HttpRequest) -> JSONResponse:
    """Say how good the answer to a request was, by its decision's id; said again, it replaces what was said before."""
    call = call_of(http_request)
    call.gateway.decisions.hear(call.key)
    rating = parse_feedback(await call.json())
    await call.gateway.decisions.rate(rating, call.key)
    return JSONResponse(rating)
