"""A file that one process at a time may hold; the lock ends with the process."""

from __future__ import annotations

import fcntl
from pathlib import Path

from app.errors import UsageError


def hold(descriptor: int, folder: Path, in_use: str) -> None:
    """Lock an open file of this folder.

    Raises:
        UsageError: another process holds it, told as `in_use`, or the file system keeps no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise UsageError(in_use) from exc
    except OSError as exc:
        raise UsageError(f"{folder}: its file system keeps no locks ({exc.strerror}); use a local folder") from exc
