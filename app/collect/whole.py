"""Files that appear whole or not at all, and are named where they do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Where to write what is to be in a file: its own name beside it, until the block ends well.

    What was there before stays if it does not, and nothing is left beside it. What is no file, such as a pipe or
    /dev/stdout, is written to itself.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    whole = path.resolve()
    part = whole.with_name(whole.name + ".part")
    try:
        yield part
        part.replace(whole)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """The text in a file.

    Raises:
        OSError: it cannot be written, with its name; what was there before still is.
    """
    try:
        with unfinished(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(path)) from exc
