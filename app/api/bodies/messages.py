"""Messages of a conversation: checked one by one, and read for what the decision needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.api.bodies.checks import Schema
from app.api.bodies.echoes import echoed, objects_in, take_out
from app.api.bodies.parameters import unsupported
from app.domain.request import TOKENS_PER_IMAGE
from app.errors import InvalidRequest

MAX_MESSAGES = 2_048
MAX_PARTS = 2_048
# What English takes in most vocabularies, about. No one tokenizer fits all models, and a decision needs the size of a
# prompt, not its exact count; `app.domain.request` says how far that is off at most.
BYTES_PER_TOKEN = 4
# Chat templates wrap each message in a role and two or three special tokens.
TOKENS_PER_MESSAGE = 4

_ROLES: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "refusal", "tool_calls", "reasoning", "reasoning_content"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}

# Any of these is something to say without a text, and without a content.
_INSTEAD = ("tool_calls", "refusal", "reasoning", "reasoning_content")
# What the official client keeps of an answer in the message, its calls and their functions: links to what was read,
# where a call was in a stream, and what it made of the text and the arguments. And what backends say beside OpenAI's
# fields, which others do not know: OpenRouter's details and pictures, LiteLLM's own fields and its blocks of thoughts,
# and what Gemini says of a text.
_OWN = "provider_specific_fields"
_OF_MESSAGE = ("annotations", "parsed", "reasoning_details", "images", "thinking_blocks", "extra_content", _OWN)
# A client copies the message into the parts of its text, with its thoughts.
_OF_PART = ("role", "reasoning", "reasoning_content", *_OF_MESSAGE)
_OF_CALL = ("index", _OWN)
_OF_FUNCTION = ("parsed_arguments", _OWN)
# What Mistral's models thought, which stands among the parts of their texts.
_THOUGHT = "thinking"
# Gemini signs its thoughts in its calls, and wants the signature back with them.
_SIGNED = "extra_content"

IMAGE_URL: Schema = {"type": "string", "pattern": "^data:image/"}
_DETAILS = ("auto", "low", "high", "original")
IMAGE_DETAIL: Schema = {"enum": [*_DETAILS, None]}
MAX_CALLS = 128


def _messages_schema() -> Schema:
    """What `check_messages` accepts."""
    items = [schema for role in _ROLES for schema in _message_schemas(role)]
    return {"type": "array", "items": {"anyOf": items}, "minItems": 1, "maxItems": MAX_MESSAGES}


def _message_schemas(role: str) -> list[Schema]:
    """Of a message with a text; then, for who may say something else, of one without."""
    content = {"type": "array", "items": {"anyOf": _part_schemas(role)}, "minItems": 1, "maxItems": MAX_PARTS}
    fields: dict[str, Schema] = {name: {"type": "string"} for name in _ROLES[role]}
    fields |= {"role": {"const": role}, "content": {"anyOf": [{"type": "string"}, content]}}
    if role != "assistant":
        return [echoed(fields, ("role", "content"))]
    calls = {"type": "array", "items": _call_schema(), "maxItems": MAX_CALLS}
    fields["tool_calls"] = calls
    least: dict[str, Schema] = {name: {"type": "string", "minLength": 1} for name in _INSTEAD}
    least["tool_calls"] = {**calls, "minItems": 1}
    fields["prefix"] = {"const": False}
    none: Schema = {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}]}
    silent = [echoed({**fields, "content": none, name: least[name]}, ("role", name), *_OF_MESSAGE) for name in _INSTEAD]
    fields["content"] = {"anyOf": [{"type": "string"}, content, {"type": "null"}]}
    return [echoed(fields, ("role", "content"), *_OF_MESSAGE), *silent]


def _part_schemas(role: str) -> list[Schema]:
    kinds = ("text", "refusal")
    copied: dict[str, Schema] = {}
    if role == "assistant":
        copied = {"tool_calls": {"type": "array", "maxItems": 0}, "prefix": {"const": False}}
    names = _OF_PART if role == "assistant" else ()
    parts = [
        echoed({**copied, "type": {"const": kind}, kind: {"type": "string"}}, ("type", kind), *names) for kind in kinds
    ]
    if role == "assistant":
        parts.append({"type": "object", "properties": {"type": {"const": _THOUGHT}}, "required": ["type"]})
    if role == "user":
        picture = echoed({"url": IMAGE_URL, "detail": IMAGE_DETAIL}, ("url",))
        parts.append(echoed({"type": {"const": "image_url"}, "image_url": picture}, ("type", "image_url")))
    return parts


def _call_schema() -> Schema:
    words, both = {"type": "string"}, ("name", "arguments")
    function = echoed(dict.fromkeys(both, words), both, *_OF_FUNCTION)
    fields = {"id": words, "type": {"const": "function"}, "function": function, _SIGNED: {"type": "object"}}
    return echoed(fields, ("id", "type", "function"), *_OF_CALL)


MESSAGES_SCHEMA = _messages_schema()


def check_messages(messages: object) -> list[dict[str, Any]]:
    """Those that are more than a role and a text, when all messages are well formed; what is not for a model is taken
    out.

    Raises:
        CallerError: one is not; the message names which and what it has to be.
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a list with at least one message", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(f"messages has more than {MAX_MESSAGES} entries; leave out old ones", param="messages")
    odd = []
    for index, message in enumerate(messages):
        if not _is_plain(message):
            _check_message(message, f"messages[{index}]")
            odd.append(message)
    return odd


def text_of(content: object) -> str:
    """What a message says: its text, or the texts of its parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part.get("type") == "text")
    return ""


def count_images(messages: Sequence[Mapping[str, Any]]) -> int:
    found = 0
    for message in messages:
        if type(content := message.get("content")) is list:
            found += sum([part["type"] == "image_url" for part in content])
    return found


def estimate_tokens(texts: Sequence[str], messages: int = 0, images: int = 0) -> int:
    """Tokens of a prompt, from the length of its texts."""
    size = sum([len(one) if one.isascii() else len(one.encode(errors="replace")) for one in texts])
    return -(-size // BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * messages + TOKENS_PER_IMAGE * images


def _is_plain(message: object) -> bool:
    """Whether this is nothing but a role and a text, as most messages are; what is not may still be sound."""
    if type(message) is not dict or len(message) != 2:
        return False
    role = message.get("role")
    return type(message.get("content")) is str and type(role) is str and role in _ROLES


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, dict):
        raise InvalidRequest(f'{where} must be an object such as {{"role": "user", "content": "..."}}', param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"{where}.role must be one of {', '.join(_ROLES)}", param=f"{where}.role")
    _take_out_echoes(message, role)
    for name in message:
        if name not in _ROLES[role]:
            raise unsupported(f"{where}.{name}", sorted(_ROLES[role]))
    _check_content(message, role, where)
    if message.get("tool_calls") is not None:
        _check_tool_calls(message["tool_calls"], f"{where}.tool_calls")
    for name in ("name", "refusal", "tool_call_id", "reasoning", "reasoning_content"):
        if not isinstance(message.get(name), str | None):
            raise InvalidRequest(f"{where}.{name} must be a text", param=f"{where}.{name}")


def _take_out_echoes(message: dict[str, Any], role: str) -> None:
    # Backends write calls with a null content, and read them so.
    take_out(message, *(_OF_MESSAGE if role == "assistant" else ()), kept="content")
    if role == "assistant":
        _take_out_prefix(message)
    if role == "assistant" and any(part.get("type") == _THOUGHT for part in objects_in(message, "content")):
        said = [part for part in message["content"] if not (isinstance(part, dict) and part.get("type") == _THOUGHT)]
        message["content"] = said or None
    for part in objects_in(message, "content"):
        take_out(part, *(_OF_PART if role == "assistant" else ()))
        take_out(part.get("image_url"))
        if role == "assistant":
            _take_out_copies(part)
    for call in objects_in(message, "tool_calls"):
        take_out(call, *_OF_CALL)
        take_out(call.get("function"), *_OF_FUNCTION)


def _take_out_copies(part: dict[str, Any]) -> None:
    """Of a message's fields that only with these values say nothing."""
    if part.get("tool_calls") == []:
        del part["tool_calls"]
    _take_out_prefix(part)


def _take_out_prefix(said: dict[str, Any]) -> None:
    # Mistral says so of each answer. Where it is true, the model is to go on with the text: that is no echo.
    if said.get("prefix") is False:
        del said["prefix"]


def _check_content(message: Mapping[str, Any], role: str, where: str) -> None:
    content, place = message.get("content"), f"{where}.content"
    if isinstance(content, str):
        return
    if content is None or content == []:
        says = role == "assistant" and any(message.get(name) for name in _INSTEAD)
        # Whoever had nothing to say may say so.
        if says or (role == "assistant" and content is None and "content" in message):
            return
    if content is None:
        raise InvalidRequest(f"{place} is missing; send a text", param=place)
    if not isinstance(content, list) or not content or len(content) > MAX_PARTS:
        raise InvalidRequest(f"{place} must be a text or a list of parts", param=place)
    for index, part in enumerate(content):
        _check_part(part, role, f"{place}[{index}]")


def _check_part(part: object, role: str, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in ("text", "image_url", "refusal"):
        raise InvalidRequest(f'{where}.type must be "text" or "image_url"', param=f"{where}.type")
    for name in part:
        if name not in ("type", kind):
            raise unsupported(f"{where}.{name}", sorted(("type", kind)))
    if kind == "image_url":
        _check_image(part, role, where)
        return
    if not isinstance(part.get(kind), str):
        raise InvalidRequest(f'{where} must be an object with the type and a text, "{kind}"', param=where)


def _check_image(part: Mapping[str, Any], role: str, where: str) -> None:
    image = part.get("image_url")
    if role != "user":
        raise InvalidRequest(f"{where}: pictures belong into user messages, as image_url", param=where)
    if not isinstance(image, dict) or not image.keys() <= {"url", "detail"} or not isinstance(image.get("url"), str):
        raise InvalidRequest(
            f'{where}.image_url must be an object such as {{"url": "data:image/png;base64,..."}}', param=where
        )
    check_image_url(image["url"], image.get("detail"), f"{where}.image_url.url", f"{where}.image_url.detail")


def check_image_url(url: object, detail: object, where: str, where_detail: str) -> None:
    """Nothing, when a picture travels in the body itself.

    Raises:
        InvalidRequest: it does not.
    """
    if not isinstance(url, str) or not url.startswith("data:image/"):
        raise InvalidRequest(f"{where} must be a data: URL; nothing is fetched from elsewhere", param=where)
    if detail is not None and detail not in _DETAILS:
        raise InvalidRequest(f"{where_detail} must be one of {', '.join(_DETAILS)}", param=where_detail)


def _check_tool_calls(calls: object, where: str) -> None:
    if not isinstance(calls, list) or len(calls) > MAX_CALLS:
        raise InvalidRequest(f"{where} must be a list of at most {MAX_CALLS} calls", param=where)
    for index, call in enumerate(calls):
        if not _is_tool_call(call):
            raise InvalidRequest(
                f'{where}[{index}] must have an id, the type "function", and a function with a name and arguments',
                param=f"{where}[{index}]",
            )


def _is_tool_call(call: object) -> bool:
    if not isinstance(call, dict) or call.keys() - {_SIGNED} != {"id", "type", "function"}:
        return False
    function = call.get("function")
    return (
        isinstance(call.get("id"), str)
        and call.get("type") == "function"
        and isinstance(call.get(_SIGNED, {}), dict)
        and isinstance(function, dict)
        and function.keys() == {"name", "arguments"}
        and all(isinstance(value, str) for value in function.values())
    )
