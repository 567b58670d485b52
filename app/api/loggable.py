"""Which `param` of an error a log may show: what the gateway's own tables name, and `other` for everything else.

A field that nobody knows has a name that its caller wrote, and it may say anything: a prompt, a person, a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from app.api.bodies.checks import Schema
from app.api.bodies.feedback_body import FEEDBACK_SCHEMA
from app.api.bodies.steering import HOP_HEADER
from app.api.operations import OPERATIONS
from app.domain.vocabulary import VOCABULARY
from app.forms.grants import Grant
from app.telemetry.names import OTHER

# A place in a list is not a name. The longest list that is checked item by item has four digits.
_INDEX = re.compile(r"\[[0-9]{1,4}\]")


def loggable(param: str | None) -> str | None:
    """The same, where each name on its dotted path is one of ours."""
    if param is None or param in _KNOWN or all(name in _KNOWN for name in _INDEX.sub("", param).split(".")):
        return param
    return OTHER


def _names(schema: object) -> Iterator[str]:
    """Of all fields that a schema describes, at any depth."""
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        for part in schema.values():
            yield from _names(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _names(part)


def _schemas() -> Iterator[Schema]:
    yield VOCABULARY.body_schema
    yield FEEDBACK_SCHEMA
    yield Grant.model_json_schema()
    for operation in OPERATIONS.values():
        yield {"properties": {name: one.check.schema for name, one in operation.fields.items()}}
        yield from operation.inner.values()


_KNOWN = frozenset(
    [name for schema in _schemas() for name in _names(schema)]
    + [HOP_HEADER, *VOCABULARY.headers, "environment", "grace_s"]
)
