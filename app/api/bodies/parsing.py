"""A body becomes a `Request`: every field checked, what all sources ask for combined, flags taken out of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from app.api.bodies import embeddings_body, responses_body
from app.api.bodies.checks import json_bytes
from app.api.bodies.extent import expected_choices, least_tokens, unread_tokens
from app.api.bodies.messages import check_messages, count_images, estimate_tokens, text_of
from app.api.bodies.parameters import TABLES, check_fields
from app.api.bodies.prompts import Prompts
from app.api.bodies.responses_input import check_input, read_input
from app.api.bodies.sessions import has_tool_calls, in_tool_call, session_id
from app.api.bodies.steering import Call, allowed_priority, count_hops, steer, trace_of
from app.domain.preferences import FlagLine, parse_flag_line
from app.domain.request import Conversation, Operation, Preferences, Request, limit_length, limit_name
from app.domain.vocabulary import VOCABULARY
from app.errors import InvalidRequest, NotAllowed
from app.store.keys.key import Key

# Fields without which a body needs nothing of a model but its operation.
_TELLING = frozenset(
    {"tools", "response_format", "text", "structured_outputs", "logprobs", "prompt_logprobs", "include"}
)
_ALONE: Mapping[Operation, frozenset[str]] = {
    "chat": frozenset({"chat"}),
    "completion": frozenset({"completion"}),
    "responses": frozenset({"responses"}),
    "embeddings": frozenset({"embeddings"}),
}
# What OpenAI and vLLM write of a text completion where nobody says how much.
COMPLETION_TOKENS = 16
# Fields that have, or may have, token ids.
_OF_TOKENS = frozenset({"prompt", "logit_bias", "allowed_token_ids", "stop_token_ids"})
_LOGPROBS = "message.output_text.logprobs"


@dataclass(slots=True)
class _Prompt:
    """What the router model reads, how long it is, and what it takes to read it."""

    operation: Operation
    conversation: Conversation
    input_tokens: int
    images: int = 0
    flags: FlagLine | None = None
    longest_tokens: int | None = None

    @classmethod
    def of(cls, operation: Operation, prompts: Prompts, more_tokens: int = 0) -> _Prompt:
        """`more_tokens` are read beside the prompts."""
        conversation, longest = (("user", "\n".join(prompts.texts)),), prompts.longest_tokens
        tokens = sum(prompts.tokens) + more_tokens
        return cls(operation, conversation, tokens, longest_tokens=None if longest is None else longest + more_tokens)


def parse_chat(body: Mapping[str, Any], call: Call) -> Request:
    """The request for a chat completion.

    Raises:
        CallerError: something in it is wrong; the message says what to change.
    """
    forwarded = check_fields(body, TABLES["chat"])
    odd = check_messages(forwarded.get("messages"))
    messages: list[dict[str, Any]] = forwarded["messages"]
    _check_template_arguments(forwarded, call)
    flags = _take_flags(messages) if call.key.reads_flags else None
    conversation = tuple(
        [
            (message["role"], content if type(content := message.get("content")) is str else text_of(content))
            for message in messages
        ]
    )
    images = count_images(odd)
    input_tokens = estimate_tokens([text for _, text in conversation], len(messages), images)
    input_tokens += unread_tokens(forwarded, odd)
    if tools := forwarded.get("tools"):
        conversation += (("tools", " ".join(tool["function"]["name"] for tool in tools)),)
        input_tokens += json_bytes(tools) // 4
    return _request(body, forwarded, call, _Prompt("chat", conversation, input_tokens, images, flags))


def parse_completion(body: Mapping[str, Any], call: Call) -> Request:
    """The request for a text completion.

    Raises:
        CallerError: something in it is wrong; the message says what to change.
    """
    forwarded = check_fields(body, TABLES["completion"])
    prompt = forwarded.get("prompt")
    if prompt is None:
        raise InvalidRequest("prompt is missing; send a text", param="prompt")
    # A limit that others set must not make the answer longer than it would be without one.
    forwarded.setdefault("max_tokens", COMPLETION_TOKENS)
    return _request(body, forwarded, call, _Prompt.of("completion", Prompts.of(prompt), unread_tokens(forwarded)))


def parse_responses(body: Mapping[str, Any], call: Call) -> Request:
    """The request for a response.

    Raises:
        CallerError: something in it is wrong; the message says what to change.
    """
    forwarded = check_fields(body, responses_body.TABLE)
    check_input(forwarded.get("input"))
    _check_template_arguments(forwarded, call)
    flags = _take_flags_of_input(forwarded) if call.key.reads_flags else None
    said, asked = read_input(forwarded), forwarded["input"]
    conversation, input_tokens = said.conversation, said.input_tokens
    input_tokens += unread_tokens(forwarded, asked if type(asked) is list else ())
    if tools := forwarded.get("tools"):
        conversation += (("tools", " ".join(tool["name"] for tool in tools)),)
        input_tokens += json_bytes(tools) // 4
    # A backend that is not told stores everything.
    forwarded["store"] = False
    return _request(body, forwarded, call, _Prompt("responses", conversation, input_tokens, said.images, flags))


def parse_embeddings(body: Mapping[str, Any], call: Call) -> Request:
    """The request for embeddings, which are of use only beside others of the same model.

    Raises:
        CallerError: something in it is wrong; the message says what to change.
    """
    forwarded = check_fields(body, embeddings_body.TABLE)
    if "input" not in forwarded:
        raise InvalidRequest("input is missing; send a text, or a list of texts", param="input")
    request = _request(body, forwarded, call, _Prompt.of("embeddings", Prompts.of(forwarded["input"])))
    if request.model is None:
        raise InvalidRequest(
            "embeddings of different models cannot be compared, so none is chosen here: name a model with the "
            "capability embeddings; GET /v1/models lists them",
            param="model",
        )
    return replace(request, preferences=_without_answers(request.preferences))


def _without_answers(preferences: Preferences) -> Preferences:
    """What is asked where nothing is written, so that nothing is known of how long and how good it would be."""
    kept = {name: limit for name, limit in preferences.limits.items() if not VOCABULARY.constraint[name].of_answers}
    return preferences if len(kept) == len(preferences.limits) else replace(preferences, limits=kept)


def _request(body: Mapping[str, Any], forwarded: dict[str, Any], call: Call, prompt: _Prompt) -> Request:
    if "stream_options" in forwarded and not body.get("stream"):
        raise InvalidRequest("stream_options is for streams; leave it out", param="stream_options")
    steering = steer(body, call, prompt.flags)
    if steering.model is None and not _OF_TOKENS.isdisjoint(forwarded):
        _check_vocabulary(forwarded)
    context = steering.context
    session = session_id(context.session_id, call.headers, body, prompt.conversation)
    length = _cap_tokens(forwarded, steering.preferences, prompt.operation, call.key)
    needs, uses = _needs(forwarded, prompt)
    return Request(
        request_id=call.request_id,
        operation=prompt.operation,
        model=steering.model,
        profile=steering.profile,
        body=forwarded,
        stream=body.get("stream") or False,
        conversation=prompt.conversation,
        input_tokens=prompt.input_tokens,
        max_tokens=length.most,
        own_max_tokens=length.own,
        needs=needs,
        uses=uses,
        preferences=steering.preferences,
        allowed_models=call.access.allowed(call.key),
        session_id=session,
        in_tool_call=session is not None and in_tool_call(prompt.operation, forwarded),
        deadline_s=context.deadline_s,
        priority=allowed_priority(context.priority, call.key),
        explain=context.explain or False,
        longest_prompt_tokens=_kept_tokens(forwarded, prompt),
        images=prompt.images,
        choices=expected_choices(forwarded),
        least_tokens=least_tokens(forwarded, length.most),
        hops=count_hops(call.headers),
        key_id=call.key.id,
        traceparent=trace_of(call.headers),
        is_capped=length.is_capped,
    )


def _kept_tokens(body: Mapping[str, Any], prompt: _Prompt) -> int | None:
    """How much of the longest prompt a context has to hold, where it is not the only one or may be shortened."""
    kept = body.get("truncate_prompt_tokens")
    if kept is None and body.get("truncation") != "auto":
        return prompt.longest_tokens
    longest = prompt.input_tokens if prompt.longest_tokens is None else prompt.longest_tokens
    # It is shortened to what the context has, or to so much.
    return min(longest, kept) if kept is not None and kept > 0 else 0


def _check_vocabulary(body: Mapping[str, Any]) -> None:
    """Nothing, when any model may read a body: each has a vocabulary of its own.

    Raises:
        InvalidRequest: it has token ids.
    """
    for name in sorted(_OF_TOKENS & body.keys()):
        value = body[name]
        if value and not isinstance(value, str) and not (name == "prompt" and isinstance(value[0], str)):
            raise InvalidRequest(f"the token ids of {name} mean something to one model only: name it", param=name)


def _take_flags(messages: Sequence[dict[str, Any]]) -> FlagLine | None:
    """Read the flags in the last user message and take them out of it; text in any other message is plain text."""
    asking = next((message for message in reversed(messages) if message.get("role") == "user"), None)
    if asking is None:
        return None
    content = asking["content"]
    if isinstance(content, str):
        flags = parse_flag_line(content)
        asking["content"] = flags.rest if flags else content
        return flags
    first = content[0]
    flags = parse_flag_line(first["text"]) if first["type"] in ("text", "input_text") else None
    if flags:
        first["text"] = flags.rest
    return flags


def _take_flags_of_input(body: dict[str, Any]) -> FlagLine | None:
    if not isinstance(body["input"], str):
        return _take_flags(body["input"])
    flags = parse_flag_line(body["input"])
    body["input"] = flags.rest if flags else body["input"]
    return flags


def _needs(body: Mapping[str, Any], prompt: _Prompt) -> tuple[frozenset[str], frozenset[str]]:
    """Capabilities without which a model cannot answer this body, and those that it would profit from."""
    needs = _ALONE[prompt.operation]
    if prompt.images:
        needs |= {"vision"}
    if has_tool_calls(prompt.operation, body):
        needs |= {"tools"}
    if body.keys().isdisjoint(_TELLING):
        return needs, needs
    form = _format(body)
    wanted = {
        "tools": body.get("tools") and body.get("tool_choice") != "none",
        "json_schema": form == "json_schema" or "structured_outputs" in body,
        # Zero asks for that of the token which was chosen.
        "logprobs": not (body.get("logprobs") is None or body["logprobs"] is False)
        or body.get("prompt_logprobs") is not None
        or _LOGPROBS in body.get("include", ()),
    }
    needs |= {name for name, is_wanted in wanted.items() if is_wanted}
    used = {"tools": body.get("tools"), "json_schema": form == "json_object"}
    return needs, needs | {name for name, is_used in used.items() if is_used}


def _format(body: Mapping[str, Any]) -> str | None:
    """The kind of text that is asked for; the Responses API has another place for it."""
    asked = body.get("response_format") or body.get("text", {}).get("format")
    kind: str | None = asked["type"] if asked else None
    return kind


class _Length(NamedTuple):
    """What an answer may have in tokens; None where nobody limits it."""

    most: int | None
    own: int | None
    """Without the limit `max_output_tokens`."""
    is_capped: bool
    """Whether it is only what others allow at most."""


def _cap_tokens(body: dict[str, Any], preferences: Preferences, operation: Operation, key: Key) -> _Length:
    """Let no model write more than `max_output_tokens` and the key allow."""
    if operation == "embeddings":
        return _Length(0, 0, False)
    name = limit_name(body, operation)
    asked, limit = body.get(name), preferences.limits.get("max_output_tokens")
    if name != "max_tokens" and body.get("max_tokens", asked) != asked:
        raise InvalidRequest("max_tokens and max_completion_tokens differ; send one of them", param="max_tokens")
    if asked == 0:
        return _Length(0, 0, False)
    own = min((each for each in (asked, key.max_tokens) if each is not None), default=None)
    most = own if limit is None else max(1, min(int(limit), own or int(limit)))
    if most is not None and most != asked:
        limit_length(body, operation, most)
    return _Length(most, own, asked is None and most is not None)


def _check_template_arguments(body: Mapping[str, Any], call: Call) -> None:
    if "chat_template_kwargs" in body and not call.key.chat_template_kwargs:
        raise NotAllowed("this key may not set chat_template_kwargs; leave it out", param="chat_template_kwargs")
