"""Files of an operator that are no YAML, or strange YAML: he is told, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import UsageError
from app.forms.yaml_files import read_yaml


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
