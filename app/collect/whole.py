"""Files that appear whole or not at all, and are named where they do not."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """The text in a file.

    Raises:
        OSError: it cannot be written, with its name; what was there before still is.
    """
    part = path.with_suffix(".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(part)) from exc
