"""Whether what was asked last bears out what a prompt as a whole asks for.

How it works: some words, the same with any prompt, can be found that make a router model expect much of the dear
models and little of the cheap ones (or call the prompt unlike anything). Where a profile is steady, a model that costs
more than another eligible one answers only if it is also chosen for the last user message alone, without its first
words; else the cheaper of both choices answers. So such words get their sender nothing as a prefix of the message, nor
in the system message, a tool's description or an earlier turn; and a prompt that means it loses little.

What it does not do: see words in the middle of the last message or at its end, or a longer prefix. A short message
that is dear to answer only because of what was said before ("prove it") gets a cheap model.

Legend of array suffixes: M models of the catalogue.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from app.domain.dimensions import Floats
from app.domain.request import Conversation
from app.routing.view import View, first_of
from app.routing.why import Ground

# A prefix of ten tokens, the length that published attacks use, and a few words more.
FIRST_WORDS = 12
# What so many words take in most languages: where spaces are rare, the beginning is told by its length.
FIRST_CHARS = 80
# Where words are looked for; what is read of a prompt is not longer.
MOST_CHARS = 4_096


def rest_of(conversation: Conversation) -> Conversation:
    """What was asked last, alone and without its first words, of which at least half is left.

    Where no user speaks, the last message counts as his.
    """
    asked = next((text for role, text in reversed(conversation) if role == "user"), None)
    if asked is None:
        asked = conversation[-1][1] if conversation else ""
    return (("user", asked[_first_chars(asked) :]),)


def _first_chars(text: str) -> int:
    """How many characters the first words take; in a text with few spaces, how many the same words might."""
    beginning = text[:MOST_CHARS]
    words = min(FIRST_WORDS, len(beginning.split()) // 2)
    by_words = len(text) - len(text.split(None, words)[-1]) if words else 0
    by_length = min(FIRST_CHARS, len(beginning) // 2)
    return by_words if 2 * by_words >= by_length else by_length


def is_dear(view: View, ground: Ground) -> bool:
    """Whether a number put a model in front that costs more than another eligible one."""
    if ground.rule == "default" or view.case.question.model is not None:
        return False
    cost_M = _cost(view)
    return bool((view.eligible & (cost_M < cost_M[ground.order[0]])).any())


def borne_out(view: View, ground: Ground, rest: View) -> Ground:
    """The ranking with the cheaper choice in front: its own, or that for the rest of what was asked last."""
    if rest.reading.prediction is None or rest.is_unfamiliar or not len(rest.order):
        return ground
    first, other = int(ground.order[0]), int(rest.order[0])
    cost_M = _cost(view)
    if not (view.eligible[other] and cost_M[other] < cost_M[first]):
        return ground
    return replace(ground, order=first_of(ground.order, other), doubted=first)


def _cost(view: View) -> Floats:
    """In dollars [M]; what is not known is taken for more than anything."""
    return np.nan_to_num(view.expected.cost_usd, nan=np.inf)
