"""YAML with comments: an operator's own words and layout stay, and what is new reads back as the same value."""

from __future__ import annotations

import io
from datetime import date
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.util import load_yaml_guess_indent

GUESS = "guess: "
"""How a comment on a guessed value begins."""
# Lines are never folded: a value and its comment stay on one.
_NO_FOLDING = 1 << 16


class _Representer(RoundTripRepresenter):
    """Writes null as a word: a key with nothing behind it looks forgotten."""

    def represent_null(self, data: Any) -> Any:  # noqa: ARG002  # the interface's
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_null)


def read_commented(text: str) -> Any:
    """The content of a YAML text, with its comments."""
    return _yaml().load(text)


def write_commented(content: Any, like: str = "") -> str:
    """The content as YAML, indented as the text `like` is, or as this project's own files are."""
    _, sequence, offset = load_yaml_guess_indent(like) if like else (None, None, None)
    out = io.StringIO()
    writer = _yaml()
    # Without a sequence there is nothing to tell from; the first one is then written as in this project's files.
    offset = 2 if offset is None or sequence is None else offset
    writer.indent(mapping=2, sequence=offset + 2, offset=offset)
    writer.dump(content, out)
    return out.getvalue()


def plain(value: Any) -> Any:
    """A value in the form that is written: the loader of the settings reads it back the same.

    Words that YAML 1.1 takes for something else, such as `no` or `1e3`, get quotes. Lists of values stand on one line.
    """
    if isinstance(value, str):
        return value if _is_plain(value) else DoubleQuotedScalarString(value)
    if isinstance(value, date):
        return value.replace()  # the same object twice would be written as an anchor and an alias
    if isinstance(value, dict):
        return CommentedMap({plain(name): plain(one) for name, one in value.items()})
    if isinstance(value, list | tuple):
        sequence = CommentedSeq(plain(one) for one in value)
        if not any(isinstance(one, dict | list | tuple) for one in value):
            sequence.fa.set_flow_style()
        return sequence
    return value


def on_one_line(value: dict[str, Any]) -> CommentedMap:
    """A mapping, and those inside it, between braces."""
    mapping = CommentedMap(
        {name: on_one_line(one) if isinstance(one, dict) else plain(one) for name, one in value.items()}
    )
    mapping.fa.set_flow_style()
    return mapping


def one_line(text: str) -> str:
    """A text as a comment can hold it."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def mark_guess(mapping: CommentedMap, key: str, source: str) -> None:
    """Write behind a value that it is a guess, and where it comes from."""
    mapping.yaml_add_eol_comment(GUESS + one_line(source).removeprefix("guess "), key)


def drop_guess(mapping: CommentedMap, key: str) -> None:
    """Take away the comment that says so; what follows on lines of its own stays."""
    token = (mapping.ca.items.get(key) or [None] * 3)[2]
    if token is not None and token.value.lstrip("# ").startswith(GUESS.rstrip()):
        token.value = "\n" + token.value.partition("\n")[2]


def _is_plain(text: str) -> bool:
    """Whether it is read as itself without quotes, alone and between brackets."""
    try:
        return bool(yaml.safe_load(text) == text and yaml.safe_load(f"[{text}]") == [text])
    except (yaml.YAMLError, ValueError):  # to YAML, 2024-13-45 is a date, and a wrong one
        return False


def _yaml() -> YAML:
    editor = YAML()
    editor.Representer = _Representer
    editor.preserve_quotes = True
    editor.width = _NO_FOLDING
    return editor
