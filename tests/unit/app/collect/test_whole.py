"""A file is written whole or not at all, and named where it is not."""

from pathlib import Path

import pytest

from app.collect.whole import write_whole
from tests.fakes.full_disk import files_of_at_most


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "failures.jsonl", "before")

    with files_of_at_most(100), pytest.raises(OSError, match=r"failures\.part"):
        write_whole(tmp_path / "failures.jsonl", "x" * 200)

    assert (tmp_path / "failures.jsonl").read_text() == "before"
