"""What operators hear that a value should have been, in words that know nothing of how it is checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel

_LISTS = frozenset({"tuple_type", "list_type", "set_type", "frozen_set_type"})
_OBJECTS = frozenset({"model_type", "model_attributes_type"})
# Each of plain values, and of forms, whose fields follow.
_LIST = 'a list, such as ["one", "another"]', "a list of objects with fields such as"
_OBJECT = 'an object, such as {"name": "value"}', "an object with fields such as"
_NUMBER, _INTEGER, _TRUTH = "a number, such as 0.5", "a whole number, such as 8", "true or false"
_TIME = "a time with its zone, such as 2027-01-01T00:00:00Z"
_WORDS = {
    **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), _INTEGER),
    **dict.fromkeys(("bool_type", "bool_parsing"), _TRUTH),
    **dict.fromkeys(("datetime_type", "datetime_parsing", "datetime_from_date_parsing", "timezone_aware"), _TIME),
    "datetime_object_invalid": _TIME,
    "dict_type": 'an object, such as {{"name": "value"}}',
    "string_type": 'a text, such as "name"',
    "path_type": "a path",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length} characters",
    "too_short": "at least {min_length}",
    "json_invalid": "text that can be written as UTF-8",
}
# More of them than this do not help who has forgotten the form.
_FEW_FIELDS = 5


def expected(error: Mapping[str, Any], form: type[BaseModel]) -> str:
    """What one of pydantic's errors means to whoever wrote the value; `form` is that of the whole."""
    kind = error["type"]
    if kind in _LISTS | _OBJECTS:
        inner, (plain, of_forms) = form_at(form, error["loc"]), _OBJECT if kind in _OBJECTS else _LIST
        return (
            f"expected {of_forms} {', '.join(list(inner.model_fields)[:_FEW_FIELDS])}" if inner else f"expected {plain}"
        )
    if kind in _WORDS:
        return f"expected {_WORDS[kind].format_map(error.get('ctx', {}))}"
    said: str = error["msg"]
    return said.removeprefix("Value error, ").replace("Input should be", "expected")


def form_at(form: type[BaseModel], loc: Iterable[int | str]) -> type[BaseModel] | None:
    """The form of what stands at a place inside another; None where it is a plain value."""
    found: type[BaseModel] | None = form
    for part in loc:
        field = found.model_fields.get(part) if found and isinstance(part, str) else None
        if field is not None:
            found = _inner_form(field.annotation)
    return found


def _inner_form(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_inner_form(one) for one in get_args(annotation)]
    return next((one for one in found if one is not None), None)
