"""One `thalamus onboard` at a time in a folder: what a second one writes would not have the models of the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from app.cli.writable import A_COPY, unwritable
from app.collect.locking import hold

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
        raise unwritable(folder, A_COPY) from exc
    with file:
        in_use = (
            f"another `thalamus onboard` is at work in {folder}; nothing was sent. Run this once it has ended; "
            "models that one run names sit side by side where their backends differ"
        )
        hold(file.fileno(), folder, in_use)
        yield
