"""What a value of a body has to be, as functions that say whether it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson

Check = Callable[[Any], bool]


def integer(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float, *, above: bool = False) -> Check:
    """A number between these, both included; `above` leaves out the lower one."""
    return lambda value: type(value) in (int, float) and (low < value if above else low <= value) and value <= high


def text(max_chars: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= max_chars


def integers(low: int, high: int, max_items: int) -> Check:
    """A list of integers; without a call for each, because there may be very many."""

    def check(value: Any) -> bool:
        if not isinstance(value, list) or len(value) > max_items:
            return False
        return not value or (set(map(type, value)) == {int} and low <= min(value) and max(value) <= high)

    return check


def one_of(*allowed: str) -> Check:
    return lambda value: isinstance(value, str) and value in allowed


def list_of(item: Check, max_items: int) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= max_items and all(map(item, value))


def either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def boolean(value: Any) -> bool:
    return isinstance(value, bool)


def small_object(max_bytes: int) -> Check:
    return lambda value: isinstance(value, dict) and json_bytes(value) <= max_bytes


def json_bytes(value: object) -> int:
    """Length of a value as compact JSON in UTF-8."""
    try:
        return len(orjson.dumps(value))
    except TypeError:  # an integer of more than 64 bits
        return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def closed(value: Any, **fields: Check) -> bool:
    """An object with these fields only, each absent or as its check wants it."""
    return isinstance(value, dict) and all(name in fields and fields[name](item) for name, item in value.items())
