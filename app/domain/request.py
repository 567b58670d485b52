"""One call, parsed and checked: what may decide, and what is forwarded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, Literal, NamedTuple, get_args

from app.domain.frozen import frozen
from app.domain.quantities import Priority

Operation = Literal["chat", "completion", "responses", "embeddings"]
OPERATIONS: frozenset[str] = frozenset(get_args(Operation))
PROMPT_FIELDS: Mapping[Operation, str] = {
    "chat": "messages",
    "completion": "prompt",
    "responses": "input",
    "embeddings": "input",
}
"""What of a body is read, by operation."""
# What a picture of usual size takes in current vision models (640 to 1,600 tokens).
TOKENS_PER_IMAGE = 1_000
# Prompts are estimated at four bytes a token, pictures at their usual size. With the largest vocabularies prose has
# five bytes a token in English and up to ten in Hindi or Thai; sixteen it has in no language. Pictures may be tiny.
MOST_OVERESTIMATED = 4
# Numbers, tables and hexadecimals have two bytes a token.
MOST_UNDERESTIMATED = 2
NAMED = "named"
"""The profile of requests that name a model, where they are counted."""

Conversation = tuple[tuple[str, str], ...]
"""(role, text) pairs in order; tool names travel as one ("tools", "name name") pair."""


class Origins(NamedTuple):
    """Who set which limits; all of them hold."""

    profile: Mapping[str, Any]
    key: Mapping[str, Any]
    header: Mapping[str, Any]
    body: Mapping[str, Any]


@frozen
class Preferences:
    """What one or several sources ask of the decision; `narrow` in `app.domain.preferences` combines them."""

    limits: Mapping[str, Any] = field(default_factory=dict)
    """Hard limits by the name of their `Constraint`, parsed."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Quality given up to go from the worst to the best end of a dimension's scale."""
    max_quality_loss: float | None = None
    """Quality, in [0, 1], that may be lost on average against the best eligible model."""
    origins: Origins | None = field(default=None, repr=False, compare=False)
    """None where a body set all of the limits."""

    def __bool__(self) -> bool:
        """Whether anything is asked."""
        return bool(self.limits or self.weights) or self.max_quality_loss is not None


@frozen
class Request:
    """One call for a completion, free of HTTP."""

    request_id: str
    operation: Operation
    model: str | None
    """A concrete model, asked for by name; None lets the router choose."""
    profile: str
    body: Mapping[str, Any]
    """What is forwarded, without `model` and `routing`."""
    stream: bool
    conversation: Conversation
    """What the router model reads, in-prompt flags removed."""
    input_tokens: int
    """Estimated from the text's length, and so many for a picture: no one tokenizer fits all models."""
    max_tokens: int | None
    """What an answer may have, all considered."""
    needs: frozenset[str]
    """Capabilities without which a model cannot answer this call."""
    preferences: Preferences
    allowed_models: frozenset[str] | None = None
    """Models that the caller's key may use; None is all."""
    session_id: str | None = None
    """Requests of one key with the same one belong together."""
    in_tool_call: bool = False
    """Whether a model is waiting for what a tool returns, or has not answered to it yet; looked at within sessions."""
    deadline_s: float | None = None
    priority: Priority = "normal"
    explain: bool = False
    uses: frozenset[str] = frozenset()
    """Capabilities that parameters use, but whose absence leaves an answer; `require_parameters` makes them needed."""
    longest_prompt_tokens: int | None = None
    """Of several prompts that are read one by one, or shortened where they are too long; None where there is one."""
    images: int = 0
    """Pictures in its prompt, each of which `TOKENS_PER_IMAGE` of `input_tokens` are for."""
    choices: int = 1
    """How many answers are asked for: all are written, and paid for."""
    least_tokens: int = 0
    """How long each of them is at least, as far as its model's context and `max_tokens` let it."""
    hops: int = 0
    """Gateways like this one that the call has passed already."""
    key_id: str = ""
    """Whose call it is: nothing that is remembered for one key is used for another."""
    traceparent: str | None = None
    """The caller's W3C trace context, for the backend."""
    own_max_tokens: int | None = None
    """What it may have were it not for the limit `max_output_tokens`."""
    is_capped: bool = False
    """Whether `max_tokens` is only what others allow at most: no context needs to have room for that much."""

    @property
    def counted_profile(self) -> str:
        """What metrics count it for: its profile, unless it names a model, which no profile has a say in."""
        return self.profile if self.model is None else NAMED

    @property
    def prompt_field(self) -> str:
        """What its prompt is called in the body that it came with."""
        return PROMPT_FIELDS[self.operation]

    @property
    def length_field(self) -> str:
        """What the length of its answer is called there."""
        return limit_name(self.body, self.operation)

    @property
    def prompts(self) -> int:
        """How many prompts of a completion are read one by one, each with its choices."""
        n: int = self.body.get("n", 1)
        return self.choices // n

    @property
    def longest_input_tokens(self) -> int:
        """Of the prompts that are read one by one, each with the context to itself, the longest."""
        return self.input_tokens if self.longest_prompt_tokens is None else self.longest_prompt_tokens

    def limited_to(self, tokens: int) -> Request:
        """The same call, whose answer may have so many tokens at most."""
        body = dict(self.body)
        limit_length(body, self.operation, tokens)
        return replace(
            self,
            body=body,
            max_tokens=tokens,
            own_max_tokens=tokens,
            least_tokens=min(self.least_tokens, tokens),
            is_capped=self.is_capped or self.max_tokens is None,
        )

    def answer_tokens(self, predicted: float, context_tokens: int) -> float:
        """How long a choice is of which so much is predicted."""
        asked = max(predicted, self.least_tokens)
        return min(asked, context_tokens) if self.max_tokens is None else min(asked, self.max_tokens, context_tokens)


def limit_name(body: Mapping[str, Any], operation: Operation) -> str:
    """The field of a body that says how long an answer may be."""
    if operation == "responses":
        return "max_output_tokens"
    return "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"


def limit_length(body: dict[str, Any], operation: Operation, tokens: int) -> None:
    """Let an answer to this body have so many tokens at most, and need no more."""
    name = limit_name(body, operation)
    if name != "max_tokens":
        body.pop("max_tokens", None)
    body[name] = tokens
    if body.get("min_tokens", 0) > tokens:
        body["min_tokens"] = tokens
