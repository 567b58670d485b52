"""Kinds of values that callers and operators write: how each is read, shown and described.

A `parse` gets what JSON or YAML gave and raises ValueError for anything else than what is `expected`; whoever calls it
knows the name of the field and says so.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

SECURITY_LEVELS = ("public_api", "private_api", "self_hosted", "isolated")
Priority = Literal["low", "normal", "high"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""The least urgent first."""

# Longest lists and names that a caller may send: the largest catalogue we measure with has 10,000 models.
MOST_NAMES = 10_000
MOST_NAME_CHARACTERS = 256
# Above any price, duration, size or length; far below where sums of it would lose their digits.
MOST = 1e12
_NUMBER = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_SESSION = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True)
class Kind:
    """A kind of value."""

    expected: str
    """Continues "must be ..."."""
    parse: Callable[[object], Any]
    show: Callable[[Any], str]
    """As one would write it in a request."""
    schema: Mapping[str, Any]
    """JSON Schema of what `parse` accepts."""
    from_text: Callable[[str], object] = str.strip
    """What a header's text stands for in JSON."""
    as_json: Callable[[Any], Any] = lambda value: value
    """What `parse` made, as it is written in a body."""


def _fail(_: object = None) -> Any:
    raise ValueError


def number(value: object, least: float = 0.0, most: float = MOST) -> float:
    """A finite number within bounds; a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError
    return float(value)


def show_number(value: float) -> str:
    """At most four significant digits."""
    return f"{value:.4g}"


def rounded_up(value: float) -> float:
    """The next number with four significant digits, so that what is shown as a limit admits what it was shown for."""
    return _rounded(value, decimal.ROUND_CEILING)


def rounded_down(value: float) -> float:
    """The previous number with four significant digits."""
    return _rounded(value, decimal.ROUND_FLOOR)


def _rounded(value: float, rounding: str) -> float:
    # In decimals: a scaled binary number could miss its limit by the last bit. 0.1 is 0.1, though it is stored as more.
    if float(show_number(value)) == value:
        return value
    return float(decimal.Context(prec=4, rounding=rounding).create_decimal(value))


def _date(value: object) -> float:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return float(value.toordinal())
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError
    return float(dt.date.fromisoformat(value).toordinal())


def _show_date(days: float) -> str:
    return dt.date.fromordinal(int(days)).isoformat()


def _level(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError
    return float(SECURITY_LEVELS.index(value))


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_NAMES:
        raise ValueError
    if not all(isinstance(name, str) and 1 <= len(name) <= MOST_NAME_CHARACTERS for name in value):
        raise ValueError
    return frozenset(value)


def _show_names(names: frozenset[str]) -> str:
    return json.dumps(sorted(names), ensure_ascii=False)


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _session(value: object) -> str:
    if not isinstance(value, str) or not _SESSION.fullmatch(value):
        raise ValueError
    return value


def _priority(value: object) -> str:
    if not isinstance(value, str) or value not in PRIORITIES:
        raise ValueError
    return value


def number_from_text(text: str) -> float:
    """The number that a header or a flag states; no signs, no spaces inside, no NaN."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else _fail()


def _names_from_text(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _truth_from_text(text: str) -> bool:
    return {"true": True, "false": False}[text.strip()]


NUMBER = Kind(
    "a number, 0 or more", number, show_number, {"type": "number", "minimum": 0, "maximum": MOST}, number_from_text
)
SHARE = Kind(
    "a number from 0 to 1",
    lambda value: number(value, most=1.0),
    show_number,
    {"type": "number", "minimum": 0, "maximum": 1},
    number_from_text,
)
POSITIVE = Kind(
    "a number above 0",
    lambda value: number(value, least=5e-324),
    show_number,
    {"type": "number", "exclusiveMinimum": 0, "maximum": MOST},
    number_from_text,
)
DATE = Kind("a day such as 2025-01-31", _date, _show_date, {"type": "string", "format": "date"}, as_json=_show_date)
SECURITY = Kind(
    "one of " + ", ".join(SECURITY_LEVELS),
    _level,
    lambda level: SECURITY_LEVELS[int(level)],
    {"enum": list(SECURITY_LEVELS)},
    as_json=lambda level: SECURITY_LEVELS[int(level)],
)
NAMES = Kind(
    "a list of at least one name",
    _names,
    _show_names,
    {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": MOST_NAME_CHARACTERS},
        "minItems": 1,
        "maxItems": MOST_NAMES,
    },
    _names_from_text,
    sorted,
)
TRUTH = Kind("true or false", _truth, lambda value: str(value).lower(), {"type": "boolean"}, _truth_from_text)
SESSION = Kind(
    "1 to 128 ASCII characters without spaces",
    _session,
    str,
    {"type": "string", "pattern": "^[!-~]{1,128}$"},
)
PRIORITY = Kind("one of " + ", ".join(PRIORITIES), _priority, str, {"enum": list(PRIORITIES)})
