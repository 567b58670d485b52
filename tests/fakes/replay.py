"""A labelled test server: it answers each anchor rightly or wrongly, as a model of published outcomes did.

Nothing is generated. What is replayed is the score; the text is the shortest one that its grader takes as right or
wrong. Questions that the model has no outcome for are answered wrongly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.fakes.chat_server import ChatServer, Scripted


def replayed(
    anchors: Sequence[Mapping[str, Any]], scores: Mapping[str, Mapping[str, float]], **options: Any
) -> ChatServer:
    """A server for several models; `scores` by model and prompt_id."""
    by_text = {_last_text(anchor): anchor for anchor in anchors}

    def answer(text: str, _: int, body: dict[str, Any]) -> Scripted:
        anchor = by_text.get(text)
        if anchor is None:
            return Scripted(text="I do not know.")
        score = scores[body["model"]].get(anchor["prompt_id"], 0.0)
        return Scripted(text=_text_of(anchor, is_right=score >= 0.5))

    return ChatServer(answer, **options)


def _last_text(anchor: Mapping[str, Any]) -> str:
    return str(anchor["messages"][-1]["content"] if anchor["messages"] else anchor["prompt"])


def _text_of(anchor: Mapping[str, Any], *, is_right: bool) -> str:
    reference = str(anchor["reference"])
    kind = (anchor["pool"], anchor["grader"])
    if kind == ("mmlu_pro", "choice"):
        return f"The answer is ({_letter(reference, is_right)})."
    if kind == ("llmrouter_nim9", "choice"):
        return f"({_letter(reference, is_right)})"
    if kind == ("zeroeval", "exact"):
        return json.dumps({"reasoning": "replayed", "answer": reference if is_right else "another"})
    return reference if is_right else f"{float(reference.replace(',', '')) + 1:g}"


def _letter(reference: str, is_right: bool) -> str:
    return reference if is_right else ("A" if reference != "A" else "B")
