"""What a backend is sent for a request, and what its answer has to look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domain.models import Model
from app.domain.request import Operation, Request
from app.upstream.answers.base_answer import Form
from app.upstream.answers.payload import dump, renamed
from app.upstream.fleet.replica import Replica

PATHS: Mapping[Operation, str] = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "responses": "/responses",
    "embeddings": "/embeddings",
}


# What a chat template adds of its own: a default system prompt, how tools are called.
TEMPLATE_TOKENS = 256
# Where a prompt fills a context by the estimate, it may still fit, with an answer of so much of the context.
LEAST_ROOM = 1 / 64


def body_for(request: Request, replica: Replica, model: Model) -> bytes:
    """What is sent to a backend: the caller's body, under the backend's names and without what it refuses."""
    body = _fitted(request, model) if request.is_capped else request.body
    fields: dict[str, Any] = {**body, "model": model.served_as}
    if request.operation != "embeddings":
        fields["stream"] = request.stream
    if request.stream and request.operation != "responses":
        fields["stream_options"] = {**(request.body.get("stream_options") or {}), "include_usage": True}
    rename = replica.backend.rename
    return dump(renamed(fields, rename) if rename else fields)


def _fitted(request: Request, model: Model) -> Mapping[str, Any]:
    """The body, whose answer may be no longer than the model's context has room for: more is refused.

    A prompt is longer than estimated at times: twice as long fits as well, or where it is so long already that little
    would be left, a prompt that takes half of what is.
    """
    context, prompt_tokens = model.card.context_tokens, request.longest_input_tokens
    room = max(context - 2 * prompt_tokens - TEMPLATE_TOKENS, room_tokens(request, model))
    return request.body if request.max_tokens is None or request.max_tokens <= room else request.limited_to(room).body


def room_tokens(request: Request, model: Model) -> int:
    """The answer that a model's context has room for after a prompt that is longer than estimated."""
    context = model.card.context_tokens
    return max(1, int(context * LEAST_ROOM), (context - request.longest_input_tokens) // 2)


def form_of(request: Request, model: Model) -> Form:
    """What the answer to a request has to look like."""
    options = request.body.get("stream_options")
    wants_usage = options is not None and options.get("include_usage") is True
    echoes = request.body.get("echo") is True
    return Form(model.name, request.stream, request.choices, wants_usage, request.operation, echoes)
