"""What a value of a body has to be: a function that says whether it is, and the same as JSON Schema for the document.

A schema cannot say everything that a function checks, such as the size of a value as JSON; it never allows less.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Misfit:
    """The first part of a refused value that is wrong."""

    path: str
    wrong: str | None
    """What is wrong, in words that follow the path; None if it is a field that nobody knows."""


@dataclass(frozen=True, slots=True)
class Check:
    """What is wanted of a value."""

    holds: Callable[[Any], bool]
    schema: Schema
    find: Callable[[str, Any], Misfit | None] | None = None
    """Where at this path a value that does not hold is wrong; None if only the whole can be named."""


def integer(low: int, high: int) -> Check:
    return Check(
        lambda value: type(value) is int and low <= value <= high,
        {"type": "integer", "minimum": low, "maximum": high},
    )


def number(low: float, high: float, *, above: bool = False) -> Check:
    """A number between these, both included; `above` leaves out the lower one."""
    return Check(
        lambda value: type(value) in (int, float) and (low < value if above else low <= value) and value <= high,
        {"type": "number", "exclusiveMinimum" if above else "minimum": low, "maximum": high},
    )


def text(max_chars: int | None = None, min_chars: int = 0) -> Check:
    schema: dict[str, Any] = {"type": "string"}
    if min_chars:
        schema["minLength"] = min_chars
    if max_chars is None:
        return Check(lambda value: isinstance(value, str) and len(value) >= min_chars, schema)
    return Check(
        lambda value: isinstance(value, str) and min_chars <= len(value) <= max_chars,
        {**schema, "maxLength": max_chars},
    )


def integers(low: int, high: int, max_items: int, min_items: int = 0) -> Check:
    """A list of integers; without a call for each, because there may be very many."""

    def holds(value: Any) -> bool:
        if not isinstance(value, list) or not min_items <= len(value) <= max_items:
            return False
        return not value or (set(map(type, value)) == {int} and low <= min(value) and max(value) <= high)

    return Check(holds, _array(integer(low, high), max_items, min_items))


def one_of(*allowed: str) -> Check:
    return Check(lambda value: isinstance(value, str) and value in allowed, {"enum": list(allowed)})


def list_of(item: Check, max_items: int, min_items: int = 0) -> Check:
    holds = item.holds

    def find(path: str, value: Any) -> Misfit | None:
        if not isinstance(value, list):
            return None
        if len(value) > max_items:
            return Misfit(path, f"has {len(value)} entries; at most {max_items} are taken")
        return next((_misfit(item, f"{path}[{at}]", one) for at, one in enumerate(value) if not holds(one)), None)

    return Check(
        lambda value: isinstance(value, list) and min_items <= len(value) <= max_items and all(map(holds, value)),
        _array(item, max_items, min_items),
        find if item.find else None,
    )


def either(*checks: Check) -> Check:
    """One of these. What is wrong inside can be told where only one of them has an inside."""
    finds = [check.find for check in checks if check.find]
    return Check(
        lambda value: any(check.holds(value) for check in checks),
        {"anyOf": [check.schema for check in checks]},
        finds[0] if len(finds) == 1 else None,
    )


def by_type(**kinds: Check) -> Check:
    """An object whose `type` says which of these it is."""

    def holds(value: Any) -> bool:
        if not isinstance(value, dict) or not isinstance(kind := value.get("type"), str):
            return False
        return kind in kinds and kinds[kind].holds(value)

    def find(path: str, value: Any) -> Misfit | None:
        if not isinstance(value, dict):
            return None
        if "type" not in value:
            return Misfit(f"{path}.type", "is missing")
        if not kind.holds(value["type"]):
            return _misfit(kind, f"{path}.type", value["type"])
        return _misfit(kinds[value["type"]], path, value)

    kind = one_of(*kinds)
    return Check(holds, {"anyOf": [check.schema for check in kinds.values()]}, find)


def closed(required: tuple[str, ...] = (), /, **fields: Check) -> Check:
    """An object with these fields only, each absent or as its check wants it."""
    needed = frozenset(required)

    def holds(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and needed <= value.keys()
            and all(name in fields and fields[name].holds(item) for name, item in value.items())
        )

    def find(path: str, value: Any) -> Misfit | None:
        if not isinstance(value, dict):
            return None
        for name, item in value.items():
            if name not in fields:
                return Misfit(f"{path}.{name}", None)
            if not fields[name].holds(item):
                return _misfit(fields[name], f"{path}.{name}", item)
        return next((Misfit(f"{path}.{name}", "is missing") for name in required if name not in value), None)

    return Check(holds, object_schema({name: check.schema for name, check in fields.items()}, required), find)


def object_schema(fields: Mapping[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    """Of an object with these fields only."""
    schema = {"type": "object", "properties": dict(fields), "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema


def at_most(max_bytes: int, check: Check) -> Check:
    """The same, of limited size as JSON."""

    def find(path: str, value: Any) -> Misfit | None:
        if check.holds(value):
            return Misfit(path, f"must be at most {max_bytes} bytes as JSON")
        return _misfit(check, path, value)

    return Check(lambda value: check.holds(value) and json_bytes(value) <= max_bytes, check.schema, find)


boolean = Check(lambda value: isinstance(value, bool), {"type": "boolean"})
any_object = Check(lambda value: isinstance(value, dict), {"type": "object"})
any_list = Check(lambda value: isinstance(value, list), {"type": "array"})
null = Check(lambda value: value is None, {"type": "null"})


def nullable(check: Check) -> Check:
    def find(path: str, value: Any) -> Misfit:
        return _misfit(check, path, value)

    holds = check.holds
    return Check(lambda value: value is None or holds(value), {"anyOf": [check.schema, null.schema]}, find)


def json_bytes(value: object) -> int:
    """Length of a value as compact JSON in UTF-8."""
    try:
        return len(orjson.dumps(value))
    except TypeError:  # an integer of more than 64 bits
        return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def _array(item: Check, max_items: int, min_items: int) -> Schema:
    schema: dict[str, Any] = {"type": "array", "items": item.schema, "maxItems": max_items}
    return {**schema, "minItems": min_items} if min_items else schema


def _misfit(check: Check, path: str, value: Any) -> Misfit:
    found = check.find(path, value) if check.find else None
    return found or Misfit(path, f"must be {_words(check.schema)}")


_KINDS = {"object": "an object", "array": "a list", "string": "a text", "boolean": "true or false", "null": "null"}


def _words(schema: Schema) -> str:
    """What is wanted, as far as a few words say it."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_words, schema["anyOf"])))
    if "enum" in schema:
        return " or ".join(f'"{one}"' for one in schema["enum"])
    if "maxLength" in schema:
        return f"a text of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
    return _KINDS.get(schema.get("type", ""), "another value")
