"""One `thalamus onboard` at a time in a folder: what a second one writes would not have the models of the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from app.collect.locking import hold
from app.errors import UsageError

LOCK = ".onboard.lock"
"""Beside the configuration and its catalogue. It stays there: who removes it lets two in."""


@contextlib.contextmanager
def alone(*folders: Path) -> Iterator[None]:
    """Hold the folders until the block ends, or the process does.

    Raises:
        UsageError: another process holds one of them, it cannot be written to, or its file system keeps no locks.
    """
    with contextlib.ExitStack() as held:
        # Everybody takes them in the same order: of two that begin at once, one gets all.
        for folder in sorted({folder.resolve() for folder in folders}):
            held.enter_context(_held(folder))
        yield


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        file = (folder / LOCK).open("a")
    except OSError as exc:
        raise unwritable(folder) from exc
    with file:
        in_use = (
            f"another `thalamus onboard` is at work in {folder}; nothing was sent. Run this once it has ended; "
            "models that one run names sit side by side where their backends differ"
        )
        hold(file.fileno(), folder, in_use)
        yield


def unwritable(folder: Path) -> UsageError:
    """What is said where results could not be written."""
    return UsageError(f"{folder} is no folder that can be written to; let this user write there, or work on a copy")
