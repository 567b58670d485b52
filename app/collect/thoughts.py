"""What a model says after thinking: servers give both as parts, apart, or as one text with the thoughts before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BEGIN, _END = "<think>", "</think>"
# Types of parts that are thoughts, whatever text they have.
_THOUGHTS = ("thinking", "reasoning")
_TEXTS = ("text", "output_text", "refusal")


class NoText(Exception):
    """A whole answer that is none in words; the message says what it is instead."""


def answered(message: Mapping[str, Any]) -> str | None:
    """What the message of an answer says. Where that is nothing, a refusal beside it is the answer.

    None where it is no message of a chat.

    Raises:
        NoText: it calls tools instead, or has a part that is no text.
    """
    text, refusal = said(message.get("content")), message.get("refusal")
    if text is None or text.strip():
        return text
    if isinstance(refusal, str) and refusal:
        return refusal
    if message.get("tool_calls") or message.get("function_call"):
        raise NoText("the answer calls a tool and says nothing")
    return text


def said(content: object) -> str | None:
    """The text of an answer's content; of one in parts, as reasoning models of Mistral have it, without the thoughts.

    Empty where all are thoughts. None where it is no content.

    Raises:
        NoText: it has a part that is neither text nor thought.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not content or not all(isinstance(part, Mapping) for part in content):
        return None
    texts = [_text(part) for part in content if part.get("type") not in _THOUGHTS]
    return None if None in texts else "".join(filter(None, texts))


def _text(part: Mapping[str, Any]) -> str | None:
    kind = part.get("type")
    text = part.get("refusal" if kind == "refusal" else "text")
    if isinstance(text, str):
        return text
    if isinstance(kind, str) and kind not in _TEXTS:
        raise NoText(f"the answer has a part that is no text, of type {kind[:40]!r}")
    return None


def spoken(text: str) -> str:
    """The answer without the thoughts before it; empty where it was cut while it thought.

    Some chat templates open the thoughts themselves, so an answer may only have their end.
    """
    thought, ended, answer = text.partition(_END)
    if ended and _BEGIN not in thought.lstrip().removeprefix(_BEGIN):
        return answer
    return "" if not ended and text.lstrip().startswith(_BEGIN) else text
