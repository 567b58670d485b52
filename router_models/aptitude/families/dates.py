"""Dates: ISO form at level 1, months and weekdays counted on at level 2, further or combined at level 3."""

import json
from collections.abc import Mapping
from random import Random

from router_models.aptitude.families.family import Draft, Family, Wording, words

MONTHS = words("January February March April May June July August September October November December")
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

_ISO: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "Write {date} in ISO format.",
        "Convert {date} to the form YYYY-MM-DD.",
        "What is {date} as an ISO date?",
        "Format the date {date} as YYYY-MM-DD.",
        "The table has a column with ISO dates. Which entry is {date}?",
        "ISO date for {date}:",
    ),
    "unseen": (
        "A computer wants year, month and day with dashes. How do I type {date}?",
        "{date}, but as 8601 prescribes:",
        "Rewrite {date} the way a log file would stamp it, year first with hyphens.",
    ),
}
_MONTH_LATER: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "Which month is {n} months after {start}?",
        "What month comes {n} months after {start}?",
        "Start in {start} and go {n} months forward. Which month is it?",
        "Name the month {n} months later than {start}.",
    ),
    "unseen": (
        "It is {start} now. In {n} months, what will the calendar say?",
        "My contract began in {start} and ran for {n} months. When did the next one begin?",
    ),
}
_DAY_LATER: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "Today is {start}. Which weekday is it in {n} days?",
        "What day of the week comes {n} days after {start}?",
        "Which weekday is {n} days after {start}?",
        "List item: a call {n} days after {start}. Name its weekday.",
    ),
    "unseen": (
        "The parcel left on {start} and travels {n} days. When does it arrive?",
        "If we meet {start} and again {n} days on, what will that second day be called?",
    ),
}
_ISO_LATER: Mapping[Wording, tuple[str, ...]] = {
    "seen": (
        "What is the ISO date {n} days after {date}?",
        "Add {n} days to {date} and write the result as YYYY-MM-DD.",
        "Convert to ISO format the day {n} days after {date}.",
    ),
    "unseen": (
        "A visa issued on {date} expires {n} days on. Stamp the expiry, year first with hyphens.",
        "{n} days have passed since {date}. How would a log file write the present day?",
    ),
}


def _iso(rng: Random, wording: Wording, later: bool) -> Draft:
    month, year = rng.randint(1, 12), rng.randint(1960, 2035)
    days = rng.randint(2, 9) if later else 0
    day = rng.randint(1, 28 - days)
    named = MONTHS[month - 1]
    date = rng.choice((f"{named} {day}, {year}", f"{day} {named} {year}"))
    iso = f"{year}-{month:02d}-{day + days:02d}"
    frames = _ISO_LATER if later else _ISO
    prompt = rng.choice(frames[wording]).format(date=date, n=days)
    answer = f"{day} + {days} = {day + days}, {iso}" if later else iso
    return Draft(prompt, answer, "regex", rf"(?<!\d){iso}(?!\d)")


def _counted(
    rng: Random, cycle: tuple[str, ...], frames: Mapping[Wording, tuple[str, ...]], n: int, wording: Wording
) -> Draft:
    """The answer counts on aloud, after leaving out a whole round: a small model has to see how far it is."""
    start = rng.randrange(len(cycle))
    names = [cycle[(start + step) % len(cycle)] for step in range(1, n % len(cycle) + 1)]
    counted = ", ".join(f"{step} {name}" for step, name in enumerate(names, start=1))
    answer = counted if n < len(cycle) else f"{n} = {len(cycle)} + {len(names)}: {counted}"
    options = [name for position, name in enumerate(cycle) if position != start]
    prompt = rng.choice(frames[wording]).format(start=cycle[start], n=n)
    return Draft(prompt, answer, "choice", json.dumps({"answer": names[-1], "options": options, "last": True}))


def make(rng: Random, level: int, wording: Wording) -> Draft:
    """A date to write or to count on from."""
    if level == 1:
        return _iso(rng, wording, later=False)
    if rng.random() < 0.34:
        n = rng.randint(2, 4) if level == 2 else rng.randint(5, 7)
        return _counted(rng, MONTHS, _MONTH_LATER, n, wording)
    if level == 2 or rng.random() < 0.3:
        n = rng.randint(2, 5) if level == 2 else rng.randint(8, 13)
        return _counted(rng, WEEKDAYS, _DAY_LATER, n, wording)
    return _iso(rng, wording, later=True)


_ALL_FRAMES: Mapping[Wording, tuple[str, ...]] = {
    "seen": (*_ISO["seen"], *_MONTH_LATER["seen"], *_DAY_LATER["seen"], *_ISO_LATER["seen"]),
    "unseen": (*_ISO["unseen"], *_MONTH_LATER["unseen"], *_DAY_LATER["unseen"], *_ISO_LATER["unseen"]),
}
DATES = Family("dates", "convert", "Write dates in ISO form and count months and weekdays on.", _ALL_FRAMES, make)
