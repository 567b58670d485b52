"""Whether results can be written where they are to go: asked before there are any, as making them takes long."""

from __future__ import annotations

import os
from pathlib import Path

from app.errors import UsageError

ELSEWHERE, A_COPY = "name another folder with --output", "work on a copy"


def refuse_taken(output: Path) -> None:
    """
    Raises:
        UsageError: something is at this path already, or no folder could be made there.
    """
    if output.exists():
        raise UsageError(f"{output} is there already; {ELSEWHERE}")
    refuse_unwritable(output)


def refuse_unwritable(folder: Path, otherwise: str = ELSEWHERE) -> None:
    """
    Raises:
        UsageError: nothing could be written into the folder, or it is yet to be made and could not be.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise unwritable(there, otherwise)


def unwritable(folder: Path, otherwise: str) -> UsageError:
    """What is said where results could not be written."""
    return UsageError(f"{folder} is no folder that can be written to; let this user write there, or {otherwise}")
