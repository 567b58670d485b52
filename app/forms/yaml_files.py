"""YAML of an operator into checked forms; what is wrong is said with file, key and what was expected, one per line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from app.errors import UsageError, without_credentials
from app.forms.expected import expected, form_at

Form = TypeVar("Form", bound=BaseModel)
# What a key of a file is called whose value may be a secret, or have been meant to name one.
_SECRET = re.compile("secret|password|credential|pepper|(^|_)key")


class _Loader(yaml.SafeLoader):
    """Safe types only, and no key twice: the second would silently win."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: list[Any] = []
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`: what stands beside it may override it
            continue
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} occurs twice", key_node.start_mark)
        seen.append(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_bytes(path: Path, option: str = "--config") -> bytes:
    """The content of a file; `option` is the one that names it.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror or exc}; say where it is with {option}") from exc


def read_yaml(path: Path, option: str = "--config") -> Any:
    """What a file says.

    Raises:
        UsageError: it cannot be read, or is no YAML.
    """
    return _parsed(path, read_bytes(path, option))


def load_form(path: Path, form: type[Form], content: bytes | None = None, option: str = "--config") -> Form:
    """Read a file, or the content that was read from it, into a form; `option` is what names the file.

    Raises:
        UsageError: it cannot be read, is no YAML, or does not fit; one line for each thing that is wrong.
    """
    said = _parsed(path, read_bytes(path, option) if content is None else content)
    try:
        return form.model_validate({} if said is None else said)
    except ValidationError as exc:
        raise UsageError("\n".join(f"{path}: {line}" for line in _lines(exc, form))) from exc


def refuse(path: Path, problems: Sequence[str]) -> None:
    """Raise UsageError with one line for each problem, if there are any."""
    if problems:
        raise UsageError("\n".join(f"{path}: {problem}" for problem in problems))


def _parsed(path: Path, content: bytes) -> Any:
    try:
        return yaml.load(content, _Loader)  # noqa: S506 - it is a SafeLoader
    except RecursionError as exc:
        raise UsageError(f"{path}: expected a file that is not nested as deep as this one") from exc
    except yaml.YAMLError as exc:
        raise UsageError(f"{path}: {_yaml_problem(exc)}") from exc
    # PyYAML recognises a date or a number by its look, and says this of those that are none: 2025-13-45, `!!int x`.
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as exc:
        raise UsageError(f"{path}: expected YAML in UTF-8, with dates and numbers that exist; got {exc}") from exc


def _yaml_problem(exc: Exception) -> str:
    mark = getattr(exc, "problem_mark", None)
    place = f"line {mark.line + 1} column {mark.column + 1}: " if mark else ""
    return f"{place}{getattr(exc, 'problem', None) or 'expected YAML in UTF-8'}"


def _lines(error: ValidationError, form: type[BaseModel]) -> list[str]:
    found = error.errors(include_url=False)
    wrong = [one["loc"] for one in found]
    # An item that is wrong is not counted: that a list of such items has too few says nothing of the file.
    told = [one for one in found if one["type"] != "too_short" or not any(_is_within(loc, one["loc"]) for loc in wrong)]
    return [f"{dotted(one['loc'])}: {_expected(one, form)}" for one in told]


def _is_within(loc: Sequence[int | str], outer: Sequence[int | str]) -> bool:
    return len(loc) > len(outer) and tuple(loc[: len(outer)]) == tuple(outer)


def dotted(loc: Sequence[int | str]) -> str:
    """A place in a file as people write it: models[0].name."""
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return shown.removeprefix(".") or "the file"


def _expected(error: Mapping[str, Any], form: type[BaseModel]) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        inner = form_at(form, error["loc"][:-1])
        known = sorted(inner.model_fields if inner else ())
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"is not a key; did you mean {near[0]}?" if near else f"is not a key; known are {', '.join(known)}"
    message, said = expected(error, form), error["input"]
    shown = repr(without_credentials(said) if isinstance(said, str) else said)
    # A form as a whole is not worth showing, and a secret must not be.
    hidden = isinstance(said, dict | list | BaseModel) or len(shown) > 80 or _may_be_secret(error["loc"], said)
    return message if hidden else f"{message}, got {shown}"


def _may_be_secret(loc: Sequence[int | str], said: object) -> bool:
    """Whether this may be one, by its place; of keys and of the store only numbers in fields of their own are none."""
    whose, *place = loc or ("",)
    if whose == "store" or (whose == "keys" and (isinstance(said, str) or len(place) < 2)):
        return True
    return any(_SECRET.search(part) for part in place or (whose,) if isinstance(part, str))
