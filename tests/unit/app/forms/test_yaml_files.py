"""Files of an operator that are no YAML, or strange YAML: he is told, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import UsageError
from app.forms.catalog_file import CatalogForm
from app.forms.yaml_files import load_form, read_yaml


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [1", "line 1 column"),
        (b"a: 1\na: 2", "occurs twice"),
        (b"a: \xff", "UTF-8"),
        (b"a: \0", "UTF-8"),
        (b"a: 2025-13-45", "month must be in 1..12"),
        (b"a: !!int x", "numbers that exist"),
        (b"a: !!float x", "numbers that exist"),
        (b"a: !!bool x", "numbers that exist"),
        (b"a: !!timestamp x", "numbers that exist"),
        (b"? {a: 1}\n: 2", "unhashable"),
        (b"[" * 5000, "nested"),
        (b"a: !!python/object:os.system []", "could not determine a constructor"),
    ],
)
def test_what_is_no_yaml_is_told_in_one_line(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as told:
        read_yaml(path)
    assert str(told.value).startswith(str(path))
    assert says in str(told.value)
    assert "\n" not in str(told.value)


BACKENDS = b"backends: [{name: here, kind: vllm, urls: ['http://127.0.0.1:8000']}]\n"


def test_a_list_whose_items_are_wrong_is_not_called_too_short(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_bytes(BACKENDS + b"models: [{name: one, served_as: one, backend: here, card: {context_tokens: 0.5}}]")
    with pytest.raises(UsageError) as told:
        load_form(path, CatalogForm)
    assert str(told.value).startswith(f"{path}: models[0].card.context_tokens: ")
    assert "\n" not in str(told.value)


def test_a_list_that_is_too_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_bytes(BACKENDS + b"models: []")
    with pytest.raises(UsageError, match=r"models: expected at least 1$"):
        load_form(path, CatalogForm)
