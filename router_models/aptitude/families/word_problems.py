"""Arithmetic inside a short story: one step at levels 1 and 2, two at level 3."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording, words

_NAMES = words(
    "Anna Ben Carla David Emma Felix Grace Hugo Iris Jonas Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor Wendy Yusuf"
)
_THINGS: Mapping[Wording, tuple[str, ...]] = {
    "seen": words("apples marbles stickers books pencils coins cards eggs cookies flowers balloons stamps shells toys"),
    "unseen": words("tickets candles bricks lemons buttons magnets spoons rings bottles tiles seeds postcards"),
}


@dataclass(frozen=True)
class _Story:
    """A plot: which operations its numbers need, and how it is told."""

    level: int
    signs: str
    told: Mapping[Wording, tuple[str, ...]]


_STORIES = (
    _Story(
        1,
        "+",
        {
            "seen": (
                "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
                "{name} picked {a} {things} and {other} picked {b}. What is the sum of their {things}?",
                "There are {a} {things} on the table. {name} adds {b} more. How many {things} are there?",
            ),
            "unseen": (
                "Yesterday {name} owned {a} {things}; {other} has just handed over {b}. Count what {name} owns.",
                "A drawer of {a} {things} receives a further {b}. What does it hold?",
            ),
        },
    ),
    _Story(
        1,
        "-",
        {
            "seen": (
                "{name} has {a} {things} and gives {b} to {other}. How many {things} are left?",
                "{name} had {a} {things} but lost {b}. How many {things} does {name} still have?",
                "A list counts {a} {things}. {name} removes {b}. How many {things} remain?",
            ),
            "unseen": (
                "Out of {a} {things} that {name} kept, {other} borrowed {b}. What did {name} keep at home?",
                "{b} of the {a} {things} in the shed were broken. Count the good ones.",
            ),
        },
    ),
    _Story(
        2,
        "*",
        {
            "seen": (
                "{name} has {a} boxes with {b} {things} each. How many {things} is that in total?",
                "Each of {a} bags holds {b} {things}. How many {things} are there altogether?",
                "{name} buys {b} {things} every day for {a} days. How many {things} does {name} buy?",
            ),
            "unseen": (
                "{a} shelves, {b} {things} on every one: what will {name} count?",
                "For each of {a} guests {name} sets out {b} {things}. What quantity is needed?",
            ),
        },
    ),
    _Story(
        2,
        "/",
        {
            "seen": (
                "{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
                "{a} {things} are divided into {b} equal groups. How many {things} are in one group?",
                "{name} packs {a} {things} into {b} boxes with the same number in each. How many go in a box?",
            ),
            "unseen": (
                "{b} children split {a} {things} fairly. What does {name}, one of them, receive?",
                "{a} {things} fill {b} trays evenly. What lies on a single tray?",
            ),
        },
    ),
    _Story(
        3,
        "*-",
        {
            "seen": (
                "{name} buys {a} packs of {b} {things} and gives away {c}. How many {things} are left?",
                "{a} boxes hold {b} {things} each. {name} takes out {c}. How many {things} remain?",
                "{name} makes {b} {things} an hour for {a} hours, then sells {c}. How many are left?",
            ),
            "unseen": (
                "After {name} filled {a} jars with {b} {things} apiece, {c} went missing. Count the rest.",
                "{a} crates, {b} {things} inside each; {other} steals {c}. What stays behind?",
            ),
        },
    ),
    _Story(
        3,
        "+-",
        {
            "seen": (
                "{name} has {a} {things}, buys {b} more and gives {c} to {other}. How many does {name} have?",
                "{a} {things} are on a table. {name} adds {b} and then removes {c}. How many {things} are there now?",
                "{name} found {a} {things} on Monday and {b} on Tuesday, but lost {c}. How many {things} are left?",
            ),
            "unseen": (
                "A stall opened with {a} {things}; {b} were delivered, {c} went to customers. Count its stock.",
                "{other} lends {name} {b} {things} beside the {a} already owned, then {c} break. What is still whole?",
            ),
        },
    ),
)


def _calculate(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]


def _numbers(rng: Random, signs: str) -> list[int]:
    """Small numbers for which every step is a positive integer."""
    if signs[0] == "*":
        numbers = [rng.randint(2, 9), rng.randint(2, 9)]
    elif signs == "/":
        divisor = rng.randint(2, 9)
        numbers = [divisor * rng.randint(2, 9), divisor]
    else:
        b = rng.randint(2, 19)
        numbers = [rng.randint(b + 1, 49), b]
    if len(signs) == 2:
        numbers.append(rng.randint(1, _calculate(numbers[0], signs[0], numbers[1]) - 1))
    return numbers


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """A story with its sum; the answer spells the steps."""
    story = rng.choice([story for story in _STORIES if story.level == level])
    numbers = _numbers(rng, story.signs)
    name, other = rng.sample(_NAMES, 2)
    steps, value = [], numbers[0]
    for sign, b in zip(story.signs, numbers[1:], strict=True):
        steps.append(f"{value} {sign} {b} = {_calculate(value, sign, b)}")
        value = _calculate(value, sign, b)
    facts = dict(zip("abc", numbers, strict=False))
    return Draft(
        prompt=rng.choice(story.told[wording]).format(
            name=name, other=other, things=rng.choice(_THINGS[wording]), **facts
        ),
        answer=", ".join(steps),
        grader="number",
        reference=json.dumps({"value": value, "given": numbers}),
    )


_ALL_FRAMES: Mapping[Wording, tuple[str, ...]] = {
    "seen": tuple(text for story in _STORIES for text in story.told["seen"]),
    "unseen": tuple(text for story in _STORIES for text in story.told["unseen"]),
}
WORD_PROBLEMS = Family("word_problems", "math", "Solve a short story with small numbers.", _ALL_FRAMES, make)
