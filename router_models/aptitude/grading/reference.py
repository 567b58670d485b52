"""What a grader is told of the right answer: a text, or a JSON object whose fields stand with each grader."""

import json
from collections.abc import Mapping
from typing import Any


class GraderError(ValueError):
    """The grader does not exist or cannot use this reference; one line that says why."""


def fields_of(reference: str, *needed: str) -> dict[str, Any]:
    """Those of a reference that is a JSON object. Raises GraderError where it is none, or lacks what is needed."""
    try:
        fields = json.loads(reference)
    except ValueError as exc:
        raise GraderError(f"the reference is not JSON: {reference[:60]!r}") from exc
    if not isinstance(fields, dict) or not set(needed) <= set(fields):
        raise GraderError(f"the reference must be a JSON object with {', '.join(needed)}")
    return fields


def check_kinds(fields: Mapping[str, Any], kind: type, words: str, *names: str) -> None:
    """Raise GraderError where one of these fields is there and of another kind than this, which the words name."""
    for name in names:
        if not isinstance(fields.get(name, kind()), kind):
            raise GraderError(f'"{name}" must be {words}, not {json.dumps(fields[name])[:40]}')
