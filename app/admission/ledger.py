"""Where it is written what requests take and how they end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from app.admission.endings import Endings
from app.admission.promises import Promises
from app.store.journal.journal import Journal
from app.store.limits.limits import Limits
from app.store.money.budgets import Budgets
from app.telemetry import Telemetry


class Open(Protocol):
    """A request that has not ended."""

    @property
    def backend(self) -> str | None:
        """Whose answer it is; None before one has begun."""
        ...

    def cut(self) -> None:
        """End it now, whatever it waits for."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """One for each configuration; a request keeps the one that it came under."""

    limits: Limits
    journal: Journal
    budgets: Budgets
    telemetry: Telemetry
    promises: Promises
    """Where it is counted what became of what was promised."""
    config: str | None = None
    """Version of the configuration that these requests see."""
    open: set[Open] = field(default_factory=set)
    """Requests that have not ended."""
    endings: Endings = field(init=False)
    """Where it is told how those ended that have."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "endings", Endings(self.journal, self.promises, self.telemetry))
