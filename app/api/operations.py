"""What callers do most: the operations that the connection answers itself, without an ASGI application between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.api.call import Call
from app.api.parsing import parse_chat, parse_completion
from app.api.policy import Rule
from app.domain.request import Request


@dataclass(frozen=True, slots=True)
class Operation:
    """A POST whose body becomes a request for a model."""

    rule: Rule
    parse: Callable[[Mapping[str, Any], Call], Request]
    summary: str


OPERATIONS: Mapping[str, Operation] = {
    "/v1/chat/completions": Operation(Rule("inference", "chat"), parse_chat, "Answer a conversation."),
    "/v1/completions": Operation(Rule("inference", "completion"), parse_completion, "Continue a text."),
}
"""By path. Each takes POST only."""
