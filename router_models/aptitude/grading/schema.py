"""JSON schemas of references: whether one can be used at all, and whether an answer fits it.

How it works: a schema may refer to parts of itself and to nothing else, as nothing is fetched. Its patterns are
searched for in the sandbox before an answer is checked against it, since one can take for ever on the wrong text.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from router_models.aptitude.grading.reference import GraderError
from router_models.aptitude.grading.sandbox import search_all


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise GraderError where it is no schema, or refers to what is not in it."""
    import jsonschema  # only who grades by schema needs it
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY, specification_with

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
        draft = specification_with(str(schema.get("$schema", "")), default=DRAFT202012)
        root = draft.create_resource(schema)
        resolver = EMPTY_REGISTRY.resolver_with_root(root)
        for reference in _references(schema):
            resolver.lookup(reference)
    except jsonschema.SchemaError as exc:
        raise GraderError(f"not a JSON schema: {exc.message}") from exc
    except Unresolvable as exc:
        raise GraderError(f"the schema refers to what is not in it: {exc.ref!r}") from exc
    except RecursionError as exc:
        raise GraderError("the schema is nested too deeply") from exc


def fits(value: dict[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether an answer is as the schema says. Raises GraderError where that does not come to an end."""
    import jsonschema
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY

    # In a process that can be stopped first: a pattern that comes to an end there does so here too.
    if None in search_all([*_searches(value, schema)]):
        raise GraderError("takes too long on this answer: a pattern of the schema")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        return bool(kind(schema, registry=EMPTY_REGISTRY).is_valid(value))
    except (RecursionError, Unresolvable) as exc:
        raise GraderError("the schema does not end on this answer, or refers to what is not in it") from exc


def _references(schema: object) -> Iterator[str]:
    """Every "$ref" in a schema; none where an "$id" inside of it gives some of them another base."""
    inner = [part for part in _parts(schema) if isinstance(part, dict)][1:]
    if not any(isinstance(part.get("$id"), str) for part in inner):
        for part in (schema, *inner):
            if isinstance(part, dict) and isinstance(part.get("$ref"), str):
                yield part["$ref"]


def _searches(value: object, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each pattern of the schema with each text of the value that it may be searched for in."""
    objects = [part for part in _parts(value) if isinstance(part, dict)]
    texts = {part for part in _parts(value) if isinstance(part, str)}
    names = {name for each in objects for name in each}
    for part in _parts(schema):
        if isinstance(part, dict) and isinstance(pattern := part.get("pattern"), str):
            yield from ((pattern, text) for text in texts)
        if isinstance(part, dict) and isinstance(patterns := part.get("patternProperties"), dict):
            yield from ((pattern, name) for pattern in patterns for name in names)


def _parts(value: object) -> Iterator[object]:
    """The value and everything in it, but names."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        yield part
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
