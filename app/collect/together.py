"""Tasks that end together, and the one reason that is said of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from app.errors import UsageError

Told = UsageError | OSError
"""What an operator can change."""


@contextlib.contextmanager
def one_reason() -> Iterator[None]:
    """Around a group of tasks: what ended it is raised by itself, the first of several."""
    reason: Told | None = None
    try:
        yield
    except* (UsageError, OSError) as group:
        # Before Python 3.11.4 what is raised here comes out in a group of its own.
        reason = _first(group)
    if reason is not None:
        raise reason


def _first(group: BaseExceptionGroup[Told]) -> Told:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
