"""What a backend is sent for a request, and what its answer has to look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domain.models import Model
from app.domain.request import Request
from app.upstream.base_answer import Form
from app.upstream.payload import dump, expected_choices, renamed
from app.upstream.replicas import Replica

PATHS = {"chat": "/chat/completions", "completion": "/completions"}


def body_for(request: Request, replica: Replica, model: Model) -> bytes:
    """What is sent to a backend: the caller's body, under the backend's names and without what it refuses."""
    fields: dict[str, Any] = {**request.body, "model": model.served_as, "stream": request.stream}
    if request.stream:
        options = request.body.get("stream_options")
        fields["stream_options"] = {**(options if isinstance(options, Mapping) else {}), "include_usage": True}
    return dump(renamed(fields, replica.backend.rename))


def form_of(request: Request, model: Model) -> Form:
    options = request.body.get("stream_options")
    wants_usage = isinstance(options, Mapping) and options.get("include_usage") is True
    return Form(model.name, request.stream, expected_choices(request.body), wants_usage)
