"""What comes back with an answer that a caller sends again, as the official client does with all fields that it got.

Null is the same as absent, whatever the field; some other fields are only the client's own, or of one backend alone.
None of them reaches a backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.api.bodies.checks import Schema, object_schema


def take_out(value: object, *names: str, kept: str | None = None) -> None:
    """Take null fields but for one, and fields of these names, out of an object; what is none stays as it is."""
    if isinstance(value, dict):
        for name in [name for name, held in value.items() if (held is None and name != kept) or name in names]:
            del value[name]


def objects_in(holder: object, name: str) -> Iterable[dict[str, Any]]:
    """Those in a list that another object may have under this name."""
    held = holder.get(name) if isinstance(holder, dict) else None
    return [one for one in held if isinstance(one, dict)] if isinstance(held, list) else ()


def echoed(fields: Mapping[str, Schema], required: tuple[str, ...] = (), *taken_out: str) -> Schema:
    """Of an object with these fields, of which those that are not required may be null, as may be any other."""
    lenient = {name: one if name in required else {"anyOf": [one, {"type": "null"}]} for name, one in fields.items()}
    schema = object_schema({**lenient, **{name: {} for name in taken_out}}, required)
    return {**schema, "additionalProperties": {"type": "null"}}
