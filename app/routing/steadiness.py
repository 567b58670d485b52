"""Whether the rest of a prompt bears out what its first words ask for.

How it works: some words, the same before any prompt, can be found that make a router model expect much of the dear
models and little of the cheap ones (or call the prompt unlike anything). Where a profile is steady, a model that costs
more than another eligible one answers only if it is also chosen for the prompt without its first words; else the
cheaper of both choices answers. So such a prefix gets its sender nothing, and a prompt that means it loses little.

What it does not do: see words in the middle of a prompt, or a longer prefix.

Legend of array suffixes: M models of the catalogue.
"""

from __future__ import annotations

import numpy as np

from app.domain.dimensions import Floats
from app.domain.request import Conversation
from app.routing.view import View, first_of
from app.routing.why import Ground

# A prefix of ten tokens, the length that published attacks use, and a few words more.
FIRST_WORDS = 12
# Where words are looked for; what is read of a prompt is not longer.
MOST_CHARS = 4_096


def without_beginning(conversation: Conversation) -> Conversation:
    """The same without the first words of what was asked last, of which at least half is left."""
    for place in range(len(conversation) - 1, -1, -1):
        role, text = conversation[place]
        if role == "user":
            words = min(FIRST_WORDS, len(text[:MOST_CHARS].split()) // 2)
            rest = text.split(None, words)[-1] if words else text
            return (*conversation[:place], (role, rest), *conversation[place + 1 :])
    return conversation


def is_dear(view: View, ground: Ground) -> bool:
    """Whether a number put a model in front that costs more than another eligible one."""
    if ground.rule == "default" or view.case.question.model is not None:
        return False
    cost_M = _cost(view)
    return bool((view.eligible & (cost_M < cost_M[ground.order[0]])).any())


def borne_out(view: View, ground: Ground, rest: View) -> Ground:
    """The ranking with the cheaper choice in front: its own, or that for the rest of the prompt."""
    if rest.reading.prediction is None or rest.is_unfamiliar or not len(rest.order):
        return ground
    first, other = int(ground.order[0]), int(rest.order[0])
    cost_M = _cost(view)
    if not (view.eligible[other] and cost_M[other] < cost_M[first]):
        return ground
    return ground._replace(order=first_of(ground.order, other), doubted=first)


def _cost(view: View) -> Floats:
    """In dollars [M]; what is not known is taken for more than anything."""
    return np.nan_to_num(view.expected.cost_usd, nan=np.inf)
