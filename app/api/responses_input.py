"""The input of a call of the Responses API: its items checked one by one, and read for what the decision needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.api.checks import Check, closed, either, list_of, one_of, text
from app.api.messages import MAX_MESSAGES, MAX_PARTS, check_image_url, estimate_tokens
from app.api.parameters import MAX_NAME_CHARS
from app.domain.request import Conversation
from app.errors import InvalidRequest

_ROLES = ("user", "assistant", "system", "developer")
# Any length: the body has a limit.
_TEXT: Check = lambda value: isinstance(value, str)  # noqa: E731
_NAME = text(MAX_NAME_CHARS)
_STATUS = either(one_of("in_progress", "completed", "incomplete"), lambda value: value is None)
_ID = either(_NAME, lambda value: value is None)
_LIST: Check = lambda value: isinstance(value, list | None)  # noqa: E731


def _thought(kind: str) -> Check:
    return lambda value: closed(value, type=one_of(kind), text=_TEXT) and len(value) == 2


# By type: what an item holds beside it, what it cannot do without, and how that is said.
_ITEMS: Mapping[str, tuple[dict[str, Check], frozenset[str], str]] = {
    "function_call": (
        {"call_id": _NAME, "name": text(64), "arguments": _TEXT, "id": _ID, "status": _STATUS},
        frozenset({"call_id", "name", "arguments"}),
        "a call_id, a name, and arguments as a text",
    ),
    "function_call_output": (
        {"call_id": _NAME, "output": either(_TEXT, _LIST), "id": _ID, "status": _STATUS},
        frozenset({"call_id", "output"}),
        "a call_id, and an output that is a text or a list of parts",
    ),
    "reasoning": (
        {
            "id": _ID,
            "summary": list_of(_thought("summary_text"), MAX_PARTS),
            "content": either(list_of(_thought("reasoning_text"), MAX_PARTS), lambda value: value is None),
            "encrypted_content": either(_TEXT, lambda value: value is None),
            "status": _STATUS,
        },
        frozenset({"summary"}),
        "a summary, and perhaps a content, as lists of texts with their types",
    ),
}
_MESSAGE: dict[str, Check] = {"type": one_of("message"), "id": _ID, "status": _STATUS, "phase": _ID}
_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}


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
    """Nothing, when the input is well formed.

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
        kind, content = item.get("type", "message"), item.get("content")
        if kind == "message":
            said.append((item["role"], _text_of(content)))
            images += sum([part["type"] == "input_image" for part in content]) if isinstance(content, list) else 0
        elif kind == "function_call":
            said.append(("assistant", ""))
        elif kind == "function_call_output":
            said.append(("tool", _text_of(item["output"])))
    return Said(tuple(said), images)


def _items(value: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join([part["text"] for part in content if "text" in part])


def _check_item(item: object, where: str) -> None:
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(kind, str) or kind not in ("message", *_ITEMS):
        known = ", ".join(("message", *_ITEMS))
        raise InvalidRequest(f"{where}.type must be one of {known}", param=f"{where}.type")
    if kind == "message":
        _check_message(item, where)
        return
    fields, needed, expected = _ITEMS[kind]
    if not needed <= item.keys() or not closed(item, type=one_of(kind), **fields):
        raise InvalidRequest(f"{where} must be a {kind} with {expected}, and nothing unknown", param=where)
    if isinstance(item.get("output"), list):
        _check_parts(item["output"], "tool", f"{where}.output")


def _check_message(item: Mapping[str, Any], where: str) -> None:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"{where}.role must be one of {', '.join(_ROLES)}", param=f"{where}.role")
    rest = {name: value for name, value in item.items() if name not in ("role", "content")}
    if not closed(rest, **_MESSAGE):
        raise InvalidRequest(f"{where} must be a message with a role and a content, and nothing unknown", param=where)
    if not isinstance(content, str):
        _check_parts(content, role, f"{where}.content")


def _check_parts(parts: object, role: str, where: str) -> None:
    if not isinstance(parts, list) or not parts or len(parts) > MAX_PARTS:
        raise InvalidRequest(f"{where} must be a text or a list of parts", param=where)
    for index, part in enumerate(parts):
        _check_part(part, role, f"{where}[{index}]")


def _check_part(part: object, role: str, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str) or kind not in (*_PARTS, "input_image"):
        raise InvalidRequest(f'{where}.type must be "input_text" or "input_image"', param=f"{where}.type")
    if kind == "input_image":
        _check_image(part, role, where)
        return
    name = _PARTS[kind]
    # An answer that is sent back has these two as well.
    fields = {name: _TEXT, "annotations": _LIST, "logprobs": _LIST}
    if name not in part or not closed(part, type=one_of(kind), **fields):
        raise InvalidRequest(f'{where} must be an object with the type and a text, "{name}"', param=where)


def _check_image(part: Mapping[str, Any], role: str, where: str) -> None:
    if role != "user" or not part.keys() <= {"type", "image_url", "detail"}:
        raise InvalidRequest(f"{where}: pictures belong into user messages, as image_url", param=where)
    check_image_url(part.get("image_url"), part.get("detail"), f"{where}.image_url", f"{where}.detail")
