"""What was decided, and what then happened: one entry per admitted request."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from app.domain.decision import Decision
from app.domain.usage import Usage

# A decision over ten models keeps about 10 KiB alive, so this is some 20 MiB.
REMEMBERED = 2_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended."""

    result: str
    """`ok`, `cancelled` (the caller left), or the code of the error."""
    model: str | None = None
    """Who answered; None when nobody did."""
    replica: str | None = None
    reason: str | None = None
    attempts: int = 0
    usage: Usage | None = None
    cost_usd: float | None = None
    ttft_s: float | None = None
    """From the start of the request to the first piece of the answer."""
    duration_s: float = 0.0
    overhead_s: float = 0.0
    """What the gateway itself took before the answer began."""


@dataclass(slots=True)
class Entry:
    """One admitted request; the decision and the outcome are filled in as they come."""

    request_id: str
    key_id: str
    decision: Decision | None = None
    outcome: Outcome | None = None


class Journal(Protocol):
    """Keeps entries. Each admitted entry is closed exactly once, whatever happens to the request."""

    def admitted(self, entry: Entry) -> None: ...

    def decided(self, entry: Entry) -> None: ...

    def closed(self, entry: Entry) -> None: ...

    def find(self, decision_id: str, key_id: str) -> Entry | None:
        """The entry of a decision, for the key that asked for it; None for anybody else."""
        ...


class RecentDecisions:
    """A bounded memory of the latest decisions, lost when the process ends."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def admitted(self, entry: Entry) -> None:
        """Nothing can be asked about before there is a decision."""

    def decided(self, entry: Entry) -> None:
        if entry.decision is None:
            return
        self._entries[entry.decision.decision_id] = entry
        if len(self._entries) > self._remembered:
            self._entries.popitem(last=False)

    def closed(self, entry: Entry) -> None:
        """The entry is the same object: what happened is in it by now."""

    def find(self, decision_id: str, key_id: str) -> Entry | None:
        entry = self._entries.get(decision_id)
        return entry if entry is not None and entry.key_id == key_id else None
