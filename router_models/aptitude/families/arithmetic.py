"""Arithmetic on bare numbers: one operation at levels 1 and 2, two at level 3."""

import json
from collections.abc import Mapping
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording

_FRAMES: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "What is {symbols}?",
        "Calculate {symbols}.",
        "Compute {words}.",
        "{symbols} = ?",
        "Solve: {symbols}",
        "Work out {words} and give me the result.",
        "The last row of the table reads {symbols}. Evaluate it.",
        "On my list of exercises: {words}. What do I write?",
        "How much is {words}?",
        "Find the value of {symbols}.",
    ),
    "unseen": (
        "My calculator broke while I typed {symbols}. Which number should have appeared?",
        "{symbols} comes to how many?",
        "If somebody asked you for {spoken}, what would you say?",
        "Fill the blank: {symbols} makes ___.",
        "I need {spoken} for my homework.",
        "Tell me {spoken}.",
    ),
}
_SPOKEN_SEEN = {"+": "{a} plus {b}", "-": "{a} minus {b}", "*": "{a} times {b}"}
_SPOKEN_UNSEEN = {"+": "{b} more than {a}", "-": "{b} less than {a}", "*": "{a} lots of {b}"}


def _operation(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


def _steps(rng: Random, level: int) -> list[tuple[int, str, int]]:
    """The operations in order; the first number of the second one is the result of the first."""
    if level == 1:
        sign = rng.choice("+-")
        b = rng.randint(2, 29)
        return [(rng.randint(b, 69), sign, b)]
    if level == 2:
        if rng.random() < 0.5:
            return [(rng.randint(3, 19), "*", rng.randint(3, 9))]
        b = rng.randint(12, 99)
        return [(rng.randint(b, 199), rng.choice("+-"), b)]
    first = (rng.randint(3, 12), "*", rng.randint(3, 9))
    if rng.random() < 0.4:
        first = (rng.randint(11, 60), "+", rng.randint(11, 39))
    made = _operation(*first)
    return [first, (made, rng.choice("+-"), rng.randint(2, min(made, 29)))]


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """An expression and its value; the answer spells the steps, as small models need to."""
    steps = _steps(rng, level)
    symbols = f"{steps[0][0]}"
    words = spoken = symbols
    for _, sign, b in steps:
        symbols = f"{symbols} {sign} {b}"
        words = _SPOKEN_SEEN[sign].format(a=words, b=b)
        spoken = _SPOKEN_UNSEEN[sign].format(a=spoken, b=b)
    value = _operation(*steps[-1])
    given = [steps[0][0], *(b for _, _, b in steps)]
    return Draft(
        prompt=rng.choice(_FRAMES[wording]).format(symbols=symbols, words=words, spoken=spoken),
        answer=", ".join(f"{a} {sign} {b} = {_operation(a, sign, b)}" for a, sign, b in steps),
        grader="number",
        reference=json.dumps({"value": value, "given": given}),
    )


ARITHMETIC = Family("arithmetic", "math", "Add, subtract and multiply bare numbers.", _FRAMES, make)
