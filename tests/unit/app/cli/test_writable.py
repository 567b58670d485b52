"""An output that could not be written is refused before anything is made for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.cli.writable import refuse_taken, refuse_unwritable
from app.errors import UsageError


def test_a_path_where_nothing_is_yet_may_be_deep(tmp_path: Path) -> None:
    refuse_taken(tmp_path / "new" / "deeper")
    refuse_unwritable(tmp_path)


def test_what_is_there_already_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{tmp_path} is there already; name another folder with --output$"):
        refuse_taken(tmp_path)


def test_the_nearest_folder_that_is_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this user may not write, which root may everywhere."""
    (tmp_path / "file").touch()
    words = "is no folder that can be written to; let this user write there, or"
    with pytest.raises(UsageError, match=f"^{tmp_path}/file {words} name another folder with --output$"):
        refuse_taken(tmp_path / "file" / "new")

    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)
    with pytest.raises(UsageError, match=f"^{tmp_path} {words} name another folder with --output$"):
        refuse_taken(tmp_path / "new" / "deeper")
    with pytest.raises(UsageError, match=f"^{tmp_path} {words} work on a copy$"):
        refuse_unwritable(tmp_path, "work on a copy")
