"""What a model says after thinking; where a server does not tell the two apart, thoughts stand before the answer."""

from __future__ import annotations

_BEGIN, _END = "<think>", "</think>"


def spoken(text: str) -> str:
    """The answer without the thoughts before it; empty where it was cut while it thought.

    Some chat templates open the thoughts themselves, so an answer may only have their end.
    """
    thought, ended, answer = text.partition(_END)
    if ended and _BEGIN not in thought.lstrip().removeprefix(_BEGIN):
        return answer
    return "" if not ended and text.lstrip().startswith(_BEGIN) else text
