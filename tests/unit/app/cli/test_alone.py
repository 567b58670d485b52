"""One `thalamus onboard` at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from app.cli.alone import alone
from app.errors import UsageError


def test_all_folders_are_held_and_let_go_together(tmp_path: Path) -> None:
    (tmp_path / "east").mkdir()
    (tmp_path / "west").mkdir()
    with alone(tmp_path / "east", tmp_path):
        with pytest.raises(UsageError, match=f"at work in {tmp_path};"), alone(tmp_path / "west", tmp_path):
            pass
        with alone(tmp_path / "west"):
            pass
    with alone(tmp_path, tmp_path / "west"):
        pass


def test_a_folder_that_is_given_twice_is_held_once(tmp_path: Path) -> None:
    with alone(tmp_path, tmp_path / "." / "x" / ".."):
        pass


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(UsageError, match=r"keeps no locks \(No locks available\); use a local folder"),
        alone(tmp_path),
    ):
        pass
