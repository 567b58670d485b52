"""What a model says after thinking: servers give both as parts, apart, or as one text with the thoughts before it."""

from __future__ import annotations

from collections.abc import Mapping

_BEGIN, _END = "<think>", "</think>"


def said(content: object) -> str | None:
    """The text of an answer's content; of one in parts, as reasoning models of Mistral have it, those that are text.

    None where it is no content.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        return None
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None


def spoken(text: str) -> str:
    """The answer without the thoughts before it; empty where it was cut while it thought.

    Some chat templates open the thoughts themselves, so an answer may only have their end.
    """
    thought, ended, answer = text.partition(_END)
    if ended and _BEGIN not in thought.lstrip().removeprefix(_BEGIN):
        return answer
    return "" if not ended and text.lstrip().startswith(_BEGIN) else text
