"""Units: a larger one into a smaller one at level 1, back at level 2, two of them together at level 3."""

import json
from collections.abc import Mapping
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording

_FRAMES: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "Convert {quantity} to {unit}.",
        "How many {unit} are {quantity}?",
        "What is {quantity} in {unit}?",
        "{quantity} = ? {unit}",
        "Express {quantity} in {unit}.",
        "Change {quantity} into {unit}.",
        "The table needs {unit}, but I have {quantity}. What do I enter?",
        "On my list it says {quantity}. Write that in {unit}.",
        "Give {quantity} as a number of {unit}.",
    ),
    "unseen": (
        "I measured {quantity}, yet the form asks for {unit}. Which number goes there?",
        "Somebody who thinks in {unit} hears {quantity}. What does that mean to them?",
        "{quantity} amounts to what, counted in {unit}?",
        "Put {quantity} differently: ___ {unit}.",
        "Our supplier quotes {quantity}; restate it using {unit}.",
    ),
}
# larger, smaller, how many of the smaller make one of the larger
_PAIRS = (
    ("kilometers", "meters", 1000),
    ("kilograms", "grams", 1000),
    ("liters", "milliliters", 1000),
    ("meters", "centimeters", 100),
    ("centimeters", "millimeters", 10),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("years", "months", 12),
    ("dollars", "cents", 100),
)


def _amount(rng: Random, factor: int) -> int:
    """Amounts that stay easy: the less round the factor, the smaller."""
    return rng.randint(2, 99 if factor in (10, 100, 1000) else 12)


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """An amount in one unit, wanted in another; the answer shows the factor, as small models need to."""
    larger, smaller, factor = rng.choice(_PAIRS)
    amount = _amount(rng, factor)
    if level == 1:
        quantity, unit, value, given = f"{amount} {larger}", smaller, amount * factor, [amount]
        steps = f"{amount} * {factor} = {value}"
    elif level == 2:
        quantity, unit, value, given = f"{amount * factor} {smaller}", larger, amount, [amount * factor]
        steps = f"{amount * factor} / {factor} = {value}"
    else:
        rest = rng.randint(1, min(factor, 100) - 1) * (10 if factor == 1000 else 1)
        joined = rng.choice((" and ", " plus ")) if wording == "seen" else rng.choice((" with ", ", "))
        quantity = f"{amount} {larger}{joined}{rest} {smaller}"
        unit, value, given = smaller, amount * factor + rest, [amount, rest]
        steps = f"{amount} * {factor} = {amount * factor}, {amount * factor} + {rest} = {value}"
    return Draft(
        prompt=rng.choice(_FRAMES[wording]).format(quantity=quantity, unit=unit),
        answer=f"{steps} {unit}",
        grader="number",
        reference=json.dumps({"value": value, "given": given}),
    )


UNITS = Family("units", "convert", "Convert lengths, weights, volumes, times and money.", _FRAMES, make)
