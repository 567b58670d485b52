"""A file is written whole or not at all, and named where it is not."""

import os
from pathlib import Path

import pytest

from app.collect.whole import unfinished, write_whole
from tests.fakes.full_disk import files_of_at_most


def test_a_full_disk_is_named_and_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "failures.jsonl", "before")

    with files_of_at_most(100), pytest.raises(OSError, match=r"failures\.jsonl'"):
        write_whole(tmp_path / "failures.jsonl", "x" * 200)

    assert (tmp_path / "failures.jsonl").read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["failures.jsonl"]


def test_what_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with unfinished(tmp_path / "table.parquet") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()

    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link_and_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("before")
    (tmp_path / "link.html").symlink_to("page.html")
    write_whole(tmp_path / "link.html", "after")

    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text() == "after"

    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
