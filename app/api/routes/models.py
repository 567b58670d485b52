"""The models that a key may name, real and virtual, with what clients need to know to show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from app.api.access import listed_name, unknown_model, virtual_name
from app.api.call import Call, call_of
from app.api.policy import needs
from app.domain.models import Model
from app.domain.request import OPERATIONS

routes = APIRouter()

# Embeddings of different models cannot be compared, so that none is chosen for them.
_NOT_CHOSEN_FOR = frozenset({"embeddings"})
_CHOSEN_FOR = OPERATIONS - _NOT_CHOSEN_FOR


@routes.get("/v1/models", name="models")
@needs("models:read")
async def models(http_request: HttpRequest) -> JSONResponse:
    """All of them, virtual ones first."""
    return JSONResponse({"object": "list", "data": list(_entries(call_of(http_request)))})


@routes.get("/v1/models/{model_id:path}", name="model")
@needs("models:read")
async def model(http_request: HttpRequest) -> JSONResponse:
    """One of them."""
    name = http_request.path_params["model_id"]
    for entry in _entries(call_of(http_request)):
        if entry["id"] == listed_name(name):
            return JSONResponse(entry)
    raise unknown_model(name)


def _entries(call: Call) -> Iterator[dict[str, Any]]:
    for profile in call.access.profiles(call.key):
        choosable = call.access.choosable(profile, call.key)
        if answering := [one for one in choosable if one.card.capabilities & _CHOSEN_FOR]:
            yield _virtual(virtual_name(profile), answering)
    for one in call.access.nameable(call.key):
        yield _real(one)


def _real(model: Model) -> dict[str, Any]:
    return {
        **_entry(model.name, model.card.context_tokens, model.card.capabilities),
        "license": model.card.license,
        "regions": sorted(model.card.regions),
        "routed": model.predicted_as is not None,
    }


def _virtual(name: str, answering: Sequence[Model]) -> dict[str, Any]:
    """What the best of the models behind it can do: the router takes one that can do what a call needs."""
    capabilities = frozenset[str]().union(*(one.card.capabilities for one in answering))
    return _entry(name, max(one.card.context_tokens for one in answering), capabilities - _NOT_CHOSEN_FOR)


def _entry(name: str, context_tokens: int, capabilities: frozenset[str]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "thalamus",
        # Two names for one thing: OpenRouter's clients read the first, vLLM's the second.
        "context_length": context_tokens,
        "max_model_len": context_tokens,
        "capabilities": sorted(capabilities),
    }
