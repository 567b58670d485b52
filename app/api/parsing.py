"""A body becomes a `Request`: every field checked, what all sources ask for combined, flags taken out of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.api.call import Call
from app.api.messages import check_messages, count_images, estimate_tokens, text_of
from app.api.parameters import check_parameters, json_bytes
from app.domain.dimensions import Source
from app.domain.preferences import (
    Context,
    FlagLine,
    Policy,
    Priority,
    merged,
    narrow,
    parse_body,
    parse_flag_line,
    parse_headers,
)
from app.domain.request import Conversation, Preferences, Request
from app.errors import InvalidRequest, NotAllowed
from app.store.keys import PRIORITIES

# Gateways like this one that a call may pass; more means that two of them send it round and round.
MAX_HOPS = 3
HOP_HEADER = "x-thalamus-hop"
_DIGITS = frozenset("0123456789")


@dataclass(frozen=True, slots=True)
class _Text:
    """What the router model reads, and how long the prompt is."""

    conversation: Conversation
    input_tokens: int
    flags: FlagLine | None = None


@dataclass(frozen=True, slots=True)
class _Steering:
    """What was asked of the decision by everybody."""

    model: str | None
    profile: str
    preferences: Preferences
    context: Context


def parse_chat(body: Mapping[str, Any], call: Call) -> Request:
    """The request for a chat completion.

    Raises:
        CallerError: something in it is wrong; the message says what to change.
    """
    forwarded = check_parameters(body, "chat")
    messages = check_messages(forwarded.get("messages"))
    _check_template_arguments(forwarded, call)
    flags = _take_flags(messages) if call.key.flags_in_prompt else None
    tools = forwarded.get("tools", [])
    names = " ".join(tool["function"]["name"] for tool in tools)
    conversation = tuple((message["role"], text_of(message.get("content"))) for message in messages)
    texts = [text for _, text in conversation]
    input_tokens = estimate_tokens(texts, len(messages), count_images(messages)) + json_bytes(tools) // 4
    text = _Text(conversation + ((("tools", names),) if names else ()), input_tokens, flags)
    return _request(body, forwarded, call, text)


def parse_completion(body: Mapping[str, Any], call: Call) -> Request:
    """The request for a text completion.

    Raises:
        CallerError: something in it is wrong; the message says what to change.
    """
    forwarded = check_parameters(body, "completion")
    prompt = forwarded.get("prompt")
    if prompt is None or prompt == []:
        raise InvalidRequest("prompt is missing; send a text", param="prompt")
    texts = [prompt] if isinstance(prompt, str) else [one for one in prompt if isinstance(one, str)]
    input_tokens = estimate_tokens(texts) + _count_ids(prompt)
    return _request(body, forwarded, call, _Text((("user", "\n".join(texts)),), input_tokens))


def _request(body: Mapping[str, Any], forwarded: dict[str, Any], call: Call, text: _Text) -> Request:
    if "stream_options" in forwarded and not body.get("stream"):
        raise InvalidRequest("stream_options is for streams; leave it out", param="stream_options")
    steering = _steering(body, call, text.flags)
    max_tokens = _cap_tokens(forwarded, steering.preferences)
    context = steering.context
    return Request(
        request_id=call.request_id,
        operation="completion" if "prompt" in forwarded else "chat",
        model=steering.model,
        profile=steering.profile,
        body=forwarded,
        stream=body.get("stream") or False,
        conversation=text.conversation,
        input_tokens=text.input_tokens,
        max_tokens=max_tokens,
        needs=_needs(forwarded),
        uses=_uses(forwarded),
        preferences=steering.preferences,
        allowed_models=call.access.allowed(call.key),
        session_id=context.session_id,
        deadline_s=context.deadline_s,
        priority=_priority(context.priority, call),
        explain=context.explain or False,
        hops=_hops(call),
        key_id=call.key.id,
    )


def _steering(body: Mapping[str, Any], call: Call, flags: FlagLine | None) -> _Steering:
    """Combine what profile, key, prompt, headers and body say, in this order."""
    name, key = body.get("model"), call.key
    if not name:
        raise InvalidRequest('model is missing; send "auto", or a name from GET /v1/models', param="model")
    model, profile = call.access.resolve(name, key)
    # Who names a model has made the choice that a profile is about; what holds for the key holds for him too.
    held = Preferences() if model else call.access.preferences(profile)
    policy = Policy(merged(held, key.routing), key.scopes, key.may_set, key.flags_in_prompt)
    in_headers, in_body = parse_headers(call.headers), parse_body(body.get("routing"))
    if flags:
        policy = narrow(policy, Source.PROMPT, flags.preferences)
    policy = narrow(policy, Source.HEADER, in_headers.preferences)
    policy = narrow(policy, Source.BODY, in_body.preferences)
    return _Steering(model, profile, policy.preferences, in_body.context.over(in_headers.context))


def _take_flags(messages: Sequence[dict[str, Any]]) -> FlagLine | None:
    """Read the flags in the last user message and take them out of it; text in any other message is plain text."""
    asking = next((message for message in reversed(messages) if message["role"] == "user"), None)
    if asking is None:
        return None
    content = asking["content"]
    if isinstance(content, str):
        flags = parse_flag_line(content)
        asking["content"] = flags.rest if flags else content
        return flags
    first = content[0]
    flags = parse_flag_line(first["text"]) if first["type"] == "text" else None
    if flags:
        first["text"] = flags.rest
    return flags


def _needs(body: Mapping[str, Any]) -> frozenset[str]:
    """Capabilities without which a model cannot answer this body."""
    form = body.get("response_format", {}).get("type")
    wanted = {
        "completion" if "prompt" in body else "chat": True,
        "tools": body.get("tools") and body.get("tool_choice") != "none",
        "json_schema": form == "json_schema" or "structured_outputs" in body,
        "logprobs": body.get("logprobs") or body.get("prompt_logprobs") is not None,
        "vision": count_images(body.get("messages", ())),
    }
    return frozenset(name for name, is_wanted in wanted.items() if is_wanted)


def _uses(body: Mapping[str, Any]) -> frozenset[str]:
    """Capabilities that this body would profit from."""
    wanted = {
        "tools": body.get("tools"),
        "json_schema": body.get("response_format", {}).get("type") == "json_object",
    }
    return _needs(body) | {name for name, is_wanted in wanted.items() if is_wanted}


def _cap_tokens(body: dict[str, Any], preferences: Preferences) -> int | None:
    """Let no model write more than `max_output_tokens`; returns what may be written, None where nobody limits it."""
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    asked, cap = body.get(name), preferences.limits.get("max_output_tokens")
    if name != "max_tokens" and body.get("max_tokens", asked) != asked:
        raise InvalidRequest("max_tokens and max_completion_tokens differ; send one of them", param="max_tokens")
    if cap is not None:
        body[name] = max(1, min(int(cap), asked or int(cap)))
        body.pop("max_tokens" if name != "max_tokens" else "", None)
    return body.get(name)


def _count_ids(prompt: object) -> int:
    if not isinstance(prompt, list):
        return 0
    return sum(1 if isinstance(one, int) else len(one) for one in prompt if not isinstance(one, str))


def _check_template_arguments(body: Mapping[str, Any], call: Call) -> None:
    if "chat_template_kwargs" in body and not call.key.chat_template_kwargs:
        raise NotAllowed("this key may not set chat_template_kwargs; leave it out", param="chat_template_kwargs")


def _priority(asked: Priority | None, call: Call) -> Priority:
    if asked is None:
        return min("normal", call.key.max_priority, key=PRIORITIES.index)
    if PRIORITIES.index(asked) > PRIORITIES.index(call.key.max_priority):
        highest = call.key.max_priority
        raise NotAllowed(f"routing.priority is at most {highest} for this key", param="routing.priority")
    return asked


def _hops(call: Call) -> int:
    passed = call.headers.get(HOP_HEADER, "0")
    if not (passed and set(passed) <= _DIGITS and len(passed) < 3):
        raise InvalidRequest(f"the header {HOP_HEADER} must be a number; leave it out", param=HOP_HEADER)
    if int(passed) >= MAX_HOPS:
        raise InvalidRequest(
            f"this call has passed {passed} gateways, at most {MAX_HOPS} may be; does a backend lead back here?",
            param=HOP_HEADER,
        )
    return int(passed)
