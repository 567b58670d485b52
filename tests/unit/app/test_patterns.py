"""Patterns mean the same to every Python that the project runs on.

Up to Python 3.11.4, which Debian 12 has and so the image, a group that is repeated possessively keeps what its last try
took before it failed (gh-100061): `(?:%[0-9]{2})*+` matches a percent sign alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ALLOWED = {
    "app/upstream/http/pool.py": "no pattern, but the characters of a path",
}


def possessive_groups(source: str) -> Iterator[str]:
    without_classes = re.sub(r"\[(?:\\.|[^\]\\])+\]", "[]", source)
    yield from re.findall(r"(?<!\\)\)(?:[*+?]|\{[^{}]*\}|\{\{[^{}]*\}\})\+", without_classes)


@pytest.mark.parametrize("source", ["(?:a)*+", "(a)++", "(?:a)?+", "(?:a){2}+", "(?:a){{1,2}}+"])
def test_possessive_groups_are_found(source: str) -> None:
    assert list(possessive_groups(source))


@pytest.mark.parametrize("source", ["[a-z]*+", "[()*+]", "(?:a)*", r"\)*+", "sum(x) + 1", "(?>(?:a)*)"])
def test_nothing_else_is_taken_for_one(source: str) -> None:
    assert not list(possessive_groups(source))


def test_no_group_is_repeated_possessively() -> None:
    sources = [path for folder in ("app", "router_models") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in sources if any(possessive_groups(path.read_text()))}
    assert found == set(ALLOWED)
