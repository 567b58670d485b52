"""A labelled test server: it answers each anchor rightly or wrongly, as a model of published outcomes did.

Nothing is generated. What is replayed is the score; the text is some of the question's own words, and an end that its
grader takes as right or wrong. Questions that the model has no outcome for are answered wrongly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
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
        chance = Random(f"{body['model']}/{anchor['prompt_id']}")
        words = str(anchor["prompt"]).replace("(", " ").replace(")", " ").split()
        thought = "".join(f"{word} " for word in words[: chance.randint(0, 20)] if word.isalpha() and len(word) > 1)
        return Scripted(text=_text_of(anchor, chance, thought, is_right=score >= 0.5))

    return ChatServer(answer, **options)


def _last_text(anchor: Mapping[str, Any]) -> str:
    return str(anchor["messages"][-1]["content"] if anchor["messages"] else anchor["prompt"])


def _text_of(anchor: Mapping[str, Any], chance: Random, thought: str, *, is_right: bool) -> str:
    reference = str(anchor["reference"])
    kind = (anchor["pool"], anchor["grader"])
    if kind == ("mmlu_pro", "choice"):
        return f"{thought}The answer is ({_letter(reference, chance, is_right)})."
    if kind == ("llmrouter_nim9", "choice"):
        return f"{thought}({_letter(reference, chance, is_right)})"
    if kind == ("zeroeval", "exact"):
        return json.dumps({"reasoning": thought, "answer": reference if is_right else "another"})
    return f"{thought}{reference if is_right else format(float(reference.replace(',', '')) + 1, 'g')}"


def _letter(reference: str, chance: Random, is_right: bool) -> str:
    return reference if is_right else chance.choice([letter for letter in "ABCD" if letter != reference])
