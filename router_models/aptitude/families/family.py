"""What a task family is, and how fresh items are drawn from it.

Every item has a random generator of its own, seeded by a string of family, seed, wording and position. So an item does
not depend on how many were drawn before it, on the process or on the machine. Two sets of wordings exist per family:
`seen` may be trained on, `unseen` says the same in other words and is for measuring only.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

Wording = Literal["seen", "unseen"]
LEVELS = (1, 2, 3)

# A duplicate prompt is drawn again; a family that repeats itself this often is too small for what was asked.
MAX_REDRAWS = 200
# Exams with seeds that differ modulo this share no item: each prompt belongs to one class of seeds, by its hash.
SEED_CLASSES = 32

# The same courtesies around every family's prompts, so that they tell a router nothing.
_OPENINGS: Mapping[Wording, tuple[str, ...]] = {
    "seen": ("", "", "", "", "Hi! ", "Quick question. ", "Please help. ", "Next one: ", "Another one. ", "Hello! "),
    "unseen": (
        "",
        "",
        "",
        "Hello there. ",
        "A small favour. ",
        "Good morning. ",
        "Sorry to bother you. ",
        "Me again. ",
    ),
}
_ENDINGS: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "",
        "",
        "",
        "",
        " Just the answer.",
        " Keep it short.",
        " No explanation.",
        " Be brief, please.",
        " Thanks!",
        " Short answer.",
    ),
    "unseen": (
        "",
        "",
        "",
        " One line will do.",
        " Skip the reasoning.",
        " Nothing else, thanks.",
        " Cheers.",
        " I am in a hurry.",
    ),
}


def words(text: str) -> tuple[str, ...]:
    """The vocabulary written as one line of text."""
    return tuple(text.split())


@dataclass(frozen=True)
class Draft:
    """One task as its family writes it: text, ideal terse answer, and what its grader needs."""

    prompt: str
    answer: str
    grader: str
    reference: str


@dataclass(frozen=True)
class Family:
    """A kind of task, with the skill an expert in it would have."""

    name: str
    skill: str
    sentence: str
    frames: Mapping[Wording, tuple[str, ...]]
    make: Callable[[Random, int, Wording], Draft]
    levels: tuple[int, ...] = LEVELS


@dataclass(frozen=True)
class Item:
    """One exam question. `answer` is what an ideal terse model says; `reference` is the grader's gold."""

    item_id: str
    family: str
    skill: str
    level: int
    wording: Wording
    prompt: str
    answer: str
    reference: str
    grader: str
    max_tokens: int


def draw_from(family: Family, *, seed: int, count: int, levels: tuple[int, ...], wording: Wording) -> list[Item]:
    """`count` items of a family with pairwise different prompts."""
    if not levels or not set(levels) <= set(family.levels):
        raise ValueError(f"levels of {family.name} are {family.levels}, not {levels}")
    return _drawn(family, seed, count, levels, wording, lambda _: True)


def exam_from(family: Family, *, seed: int, count: int) -> list[Item]:
    """`count` items that no exam with another seed has, unless the seeds agree modulo SEED_CLASSES."""
    own_class = seed % SEED_CLASSES
    return _drawn(family, seed, count, family.levels, "seen", lambda prompt: _seed_class(prompt) == own_class)


def _seed_class(prompt: str) -> int:
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4]) % SEED_CLASSES


def _drawn(
    family: Family, seed: int, count: int, levels: tuple[int, ...], wording: Wording, admits: Callable[[str], bool]
) -> list[Item]:
    items: list[Item] = []
    prompts: set[str] = set()
    for position in range(count):
        place, level = f"{seed}/{position}", levels[position % len(levels)]
        item = _fresh_item(family, place, level, wording, lambda prompt: admits(prompt) and prompt not in prompts)
        prompts.add(item.prompt)
        items.append(item)
    return items


def _fresh_item(family: Family, place: str, level: int, wording: Wording, is_fresh: Callable[[str], bool]) -> Item:
    for redraw in range(MAX_REDRAWS * SEED_CLASSES):
        rng = Random(f"{family.name}/{wording}/{level}/{place}/{redraw}")
        draft = family.make(rng, level, wording)
        prompt = rng.choice(_OPENINGS[wording]) + draft.prompt + rng.choice(_ENDINGS[wording])
        if is_fresh(prompt):
            return _item(family, level, wording, prompt, draft)
    raise ValueError(f"{family.name} level {level} has too few items for this count; ask for fewer")


def _item(family: Family, level: int, wording: Wording, prompt: str, draft: Draft) -> Item:
    return Item(
        item_id=f"{family.name}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}",
        family=family.name,
        skill=family.skill,
        level=level,
        wording=wording,
        prompt=prompt,
        answer=draft.answer,
        reference=draft.reference,
        grader=draft.grader,
        max_tokens=_room_tokens(draft.answer),
    )


def _room_tokens(answer: str) -> int:
    """Twice the answer's estimated tokens: a polite model needs a sentence around it."""
    # Digits and signs are one token each in small models' vocabularies, a word about one per five letters.
    pieces = re.findall(r"\d|[^\w\s]|[^\W\d]{1,5}", answer)
    return max(16, 2 * len(pieces) + 4)
