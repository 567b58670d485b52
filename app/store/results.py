"""What each feature has heard last of the store that it needs, and the line in the log when that changes."""

from __future__ import annotations

from collections.abc import Callable

from app.store.keys.issuer import Log
from app.store.redis_client import StoreDown

Heard = Callable[[StoreDown | None], None]
"""Hears how it went each time that the store was asked; None is well."""


class Results:
    """By feature."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._failed: set[str] = set()

    def hear(self, feature: str, error: StoreDown | None) -> None:
        if error is None and feature in self._failed:
            self._failed.discard(feature)
            self._log.write("store.resumed", feature=feature)
        elif error is not None and feature not in self._failed:
            self._failed.add(feature)
            self._log.write("store.failed", feature=feature, why=str(error))

    def is_well(self, feature: str) -> bool:
        """As far as is known."""
        return feature not in self._failed


def nobody(_: StoreDown | None) -> None:
    """Nobody wants to hear."""
