"""What decisions are made from, told as they are made to whoever counts it."""

from __future__ import annotations

from typing import Protocol

from app.domain.decision import Encoder


class Tally(Protocol):
    """Hears what decisions are made from."""

    def predicted(self, encoder: Encoder, *, unfamiliar: bool = False) -> None:
        """What this encoder said; of a prompt that it knows nothing like, it is not to be trusted."""

    def excluded(self, constraint: str, models: int) -> None:
        """So many models that the key may use did not pass."""

    def predictor_failed(self) -> None:
        """An encoder that should have read the prompt did not."""

    def decision_took(self, seconds: float) -> None:
        """From the request to its decision."""


class _Nobody:
    def predicted(self, encoder: Encoder, *, unfamiliar: bool = False) -> None:
        """Nobody listens."""

    def excluded(self, constraint: str, models: int) -> None:
        """Nobody listens."""

    def predictor_failed(self) -> None:
        """Nobody listens."""

    def decision_took(self, seconds: float) -> None:
        """Nobody listens."""


NOBODY: Tally = _Nobody()
"""For decisions that nobody is answered by."""
