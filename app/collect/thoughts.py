"""What a model says after thinking: servers give both as parts, apart, or as one text with the thoughts before it."""

from __future__ import annotations

from collections.abc import Mapping

_BEGIN, _END = "<think>", "</think>"
# Types of parts that are thoughts, whatever text they have.
_THOUGHTS = ("thinking", "reasoning")


def said(content: object) -> str | None:
    """The text of an answer's content; of one in parts, as reasoning models of Mistral have it, without the thoughts.

    Empty where all are thoughts. None where it is no content, or has a part that is neither text nor thought.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not content or not all(isinstance(part, Mapping) for part in content):
        return None
    texts = [part.get("text") for part in content if part.get("type") not in _THOUGHTS]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None


def spoken(text: str) -> str:
    """The answer without the thoughts before it; empty where it was cut while it thought.

    Some chat templates open the thoughts themselves, so an answer may only have their end.
    """
    thought, ended, answer = text.partition(_END)
    if ended and _BEGIN not in thought.lstrip().removeprefix(_BEGIN):
        return answer
    return "" if not ended and text.lstrip().startswith(_BEGIN) else text
