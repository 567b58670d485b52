"""The input of a call of the Responses API: its items checked one by one, and read for what the decision needs."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from app.api.bodies.checks import Check, Schema, any_list, closed, either, list_of, one_of, text
from app.api.bodies.echoes import echoed, objects_in, take_out
from app.api.bodies.messages import IMAGE_DETAIL, IMAGE_URL, MAX_MESSAGES, MAX_PARTS, check_image_url, estimate_tokens
from app.api.bodies.parameters import MAX_NAME_CHARS, unsupported
from app.api.bodies.responses_body import NOT_STORED
from app.domain.request import Conversation
from app.errors import InvalidRequest

_ROLES = ("user", "assistant", "system", "developer")
# Any length: the body has a limit.
_TEXT = text()
_NAME = text(MAX_NAME_CHARS)
_STATUS = one_of("in_progress", "completed", "incomplete")
# What the official client makes of arguments and texts, and keeps beside them.
_OF_CALL = ("parsed_arguments",)
_OF_PART = ("parsed",)


def _object(required: tuple[str, ...], *taken_out: str, **fields: Check) -> Check:
    """An object without what is taken out of it before it is checked; its schema is that of the object as it comes."""
    schemas = {name: check.schema for name, check in fields.items()}
    return Check(closed(required, **fields).holds, echoed(schemas, required, *taken_out))


def _thoughts(kind: str) -> Check:
    return list_of(_object(("type", "text"), type=one_of(kind), text=_TEXT), MAX_PARTS)


@dataclass(frozen=True, slots=True)
class _Item:
    """What one kind of item holds, and how that is said."""

    check: Check
    expected: str
    names: frozenset[str]


def _item(kind: str, required: tuple[str, ...], expected: str, *taken_out: str, **fields: Check) -> _Item:
    every = {"type": one_of(kind), "id": _NAME, "status": _STATUS, **fields}
    return _Item(_object((*required, "type"), *taken_out, **every), expected, frozenset(every))


_ITEMS: Mapping[str, _Item] = {
    "function_call": _item(
        "function_call",
        ("call_id", "name", "arguments"),
        "a call_id, a name, and arguments as a text",
        *_OF_CALL,
        call_id=_NAME,
        name=text(64),
        arguments=_TEXT,
    ),
    "function_call_output": _item(
        "function_call_output",
        ("call_id", "output"),
        "a call_id, and an output that is a text or a list of parts",
        call_id=_NAME,
        output=either(_TEXT, any_list),
    ),
    "reasoning": _item(
        "reasoning",
        ("summary",),
        "a summary, and perhaps a content, as lists of texts with their types",
        summary=_thoughts("summary_text"),
        content=_thoughts("reasoning_text"),
        encrypted_content=_TEXT,
    ),
}
_MESSAGE = {"type": one_of("message"), "id": _NAME, "status": _STATUS, "phase": _NAME}
_REST_OF_MESSAGE = closed(**_MESSAGE)
_SAID = frozenset({"role", "content"})


def _part(kind: str, name: str) -> Check:
    # An answer that is sent back has the last two as well.
    fields = {"type": one_of(kind), name: _TEXT, "annotations": any_list, "logprobs": any_list}
    return _object(("type", name), *_OF_PART, **fields)


_TEXT_OF = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
_NAMES_OF_PART = {kind: frozenset({"type", name, "annotations", "logprobs"}) for kind, name in _TEXT_OF.items()}
_PARTS = {kind: _part(kind, name) for kind, name in _TEXT_OF.items()}
_NAMES_OF_PICTURE = frozenset({"type", "image_url", "detail"})
# Who has pictures to show: users, and functions, such as of a screen.
_SHOWING = ("user", "tool")


def _input_schema() -> Schema:
    """What `check_input` accepts."""
    picture = echoed(
        {"type": {"const": "input_image"}, "image_url": IMAGE_URL, "detail": IMAGE_DETAIL}, ("type", "image_url")
    )
    texts = [check.schema for check in _PARTS.values()]

    def message(roles: list[str], parts: list[Schema]) -> Schema:
        content = {"type": "array", "items": {"anyOf": parts}, "minItems": 1, "maxItems": MAX_PARTS}
        fields: dict[str, Schema] = {name: check.schema for name, check in _MESSAGE.items()}
        said: dict[str, Schema] = {"role": {"enum": roles}, "content": {"anyOf": [_TEXT.schema, content]}}
        return echoed({**fields, **said}, ("role", "content"))

    outputs = {"type": "array", "items": {"anyOf": [*texts, picture]}, "minItems": 1, "maxItems": MAX_PARTS}
    output = _ITEMS["function_call_output"].check.schema
    output = {**output, "properties": {**output["properties"], "output": {"anyOf": [_TEXT.schema, outputs]}}}
    items = [
        message([role for role in _ROLES if role != "user"], texts),
        message(["user"], [*texts, picture]),
        *(item.check.schema for kind, item in _ITEMS.items() if kind != "function_call_output"),
        output,
    ]
    whole = {"type": "array", "items": {"anyOf": items}, "minItems": 1, "maxItems": MAX_MESSAGES}
    return {"anyOf": [_TEXT.schema, whole]}


INPUT_SCHEMA = _input_schema()


@dataclass(frozen=True, slots=True)
class Said:
    """What an input says."""

    conversation: Conversation
    images: int

    @property
    def input_tokens(self) -> int:
        texts = [said for _, said in self.conversation]
        return estimate_tokens(texts, len(texts), self.images)


def check_input(value: object) -> None:
    """Nothing, when the input is well formed; what is not for a model is taken out of it.

    Raises:
        CallerError: it is not; the message names which item, and what it has to be.
    """
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not value:
        raise InvalidRequest("input is missing; send a text, or a list of items", param="input")
    if len(value) > MAX_MESSAGES:
        raise InvalidRequest(f"input has more than {MAX_MESSAGES} items; leave out old ones", param="input")
    for index, item in enumerate(value):
        _check_item(item, f"input[{index}]")


def read_input(body: Mapping[str, Any]) -> Said:
    """What a checked body says: instructions, messages, and what functions returned."""
    said: list[tuple[str, str]] = [("system", body["instructions"])] if "instructions" in body else []
    images = 0
    for item in _items(body["input"]):
        kind = item.get("type", "message")
        if kind == "message":
            said.append((item["role"], _text_of(item["content"])))
            images += _images_in(item["content"])
        elif kind == "function_call":
            said.append(("assistant", ""))
        elif kind == "function_call_output":
            said.append(("tool", _text_of(item["output"])))
            images += _images_in(item["output"])
    return Said(tuple(said), images)


def _items(value: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join([part["text"] for part in content if "text" in part])


def _images_in(content: Any) -> int:
    return 0 if isinstance(content, str) else sum([part["type"] == "input_image" for part in content])


def _check_item(item: object, where: str) -> None:
    take_out(item)
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if kind == "item_reference":
        sent_whole = "clients that shorten it to references stop that with store: false"
        raise InvalidRequest(f"{where} must be {NOT_STORED}; {sent_whole}", param=where)
    if not isinstance(item, dict) or not isinstance(kind, str) or kind not in ("message", *_ITEMS):
        known = ", ".join(("message", *_ITEMS))
        raise InvalidRequest(f"{where}.type must be one of {known}", param=f"{where}.type")
    if kind == "message":
        _check_message(item, where)
        return
    _take_out_echoes(item)
    wanted = _ITEMS[kind]
    _check_names(item, wanted.names, where)
    if not wanted.check.holds(item):
        raise InvalidRequest(f"{where} must be a {kind} with {wanted.expected}", param=where)
    if isinstance(item.get("output"), list):
        _check_parts(item["output"], "tool", f"{where}.output")


def _take_out_echoes(item: dict[str, Any]) -> None:
    """Of anything but a message."""
    if item["type"] == "function_call":
        take_out(item, *_OF_CALL)
    for name in ("summary", "content"):
        for thought in objects_in(item, name):
            take_out(thought)


def _check_names(item: Mapping[str, Any], known: Set[str], where: str) -> None:
    for name in item:
        if name not in known:
            raise unsupported(f"{where}.{name}", sorted(known))


def _check_message(item: Mapping[str, Any], where: str) -> None:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"{where}.role must be one of {', '.join(_ROLES)}", param=f"{where}.role")
    _check_names(item, _SAID | _MESSAGE.keys(), where)
    rest = {name: value for name, value in item.items() if name not in _SAID}
    if not _REST_OF_MESSAGE.holds(rest):
        raise InvalidRequest(f"{where} must be a message with a role and a content, and a known status", param=where)
    if not isinstance(content, str):
        _check_parts(content, role, f"{where}.content")


def _check_parts(parts: object, role: str, where: str) -> None:
    if not isinstance(parts, list) or not parts or len(parts) > MAX_PARTS:
        raise InvalidRequest(f"{where} must be a text or a list of parts", param=where)
    for index, part in enumerate(parts):
        _check_part(part, role, f"{where}[{index}]")


def _check_part(part: object, role: str, where: str) -> None:
    take_out(part)
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in (*_PARTS, "input_image"):
        raise InvalidRequest(f'{where}.type must be "input_text" or "input_image"', param=f"{where}.type")
    if kind == "input_image":
        _check_image(part, role, where)
        return
    take_out(part, *_OF_PART)
    _check_names(part, _NAMES_OF_PART[kind], where)
    if not _PARTS[kind].holds(part):
        raise InvalidRequest(f'{where} must be an object with the type and a text, "{_TEXT_OF[kind]}"', param=where)


def _check_image(part: dict[str, Any], role: str, where: str) -> None:
    if role not in _SHOWING:
        raise InvalidRequest(f"{where}: pictures belong into user messages and function_call_output items", param=where)
    _check_names(part, _NAMES_OF_PICTURE, where)
    # vLLM wants it in outputs of functions, where OpenAI has this default.
    detail = part.setdefault("detail", "auto")
    check_image_url(part.get("image_url"), detail, f"{where}.image_url", f"{where}.detail")
