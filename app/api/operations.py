"""What callers do most: the operations that the connection answers itself, without an ASGI application between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.api.bodies import embeddings_body, responses_body
from app.api.bodies.checks import Schema
from app.api.bodies.messages import MESSAGES_SCHEMA
from app.api.bodies.parameters import TABLES, Parameter
from app.api.bodies.parsing import parse_chat, parse_completion, parse_embeddings, parse_responses
from app.api.bodies.responses_input import INPUT_SCHEMA
from app.api.call import Call
from app.api.policy import Rule
from app.domain.request import Request


@dataclass(frozen=True, slots=True)
class Operation:
    """A POST whose body becomes a request for a model."""

    rule: Rule
    parse: Callable[[Mapping[str, Any], Call], Request]
    fields: Mapping[str, Parameter]
    """What the body may hold."""
    summary: str
    inner: Mapping[str, Schema]
    """What is in those fields that are checked where they are read."""


OPERATIONS: Mapping[str, Operation] = {
    "/v1/chat/completions": Operation(
        Rule("inference", "chat"),
        parse_chat,
        TABLES["chat"],
        "Answer a conversation.",
        {"messages": MESSAGES_SCHEMA},
    ),
    "/v1/completions": Operation(
        Rule("inference", "completion"), parse_completion, TABLES["completion"], "Continue a text.", {}
    ),
    "/v1/responses": Operation(
        Rule("inference", "responses"),
        parse_responses,
        responses_body.TABLE,
        "Answer in the form of Responses.",
        {"input": INPUT_SCHEMA},
    ),
    "/v1/embeddings": Operation(
        Rule("embeddings", "embeddings"), parse_embeddings, embeddings_body.TABLE, "Turn texts into vectors.", {}
    ),
}
"""By path. Each takes POST only."""
