"""What was decided, and what then happened: one entry per admitted request."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from app.domain.decision import Decision
from app.domain.usage import Usage

# A decision over ten models keeps about 10 KiB alive, one over more so much more.
REMEMBERED, REMEMBERED_BYTES = 2_000, 32 << 20
BYTES_PER_CANDIDATE, BYTES_OF_THE_REST = 1 << 10, 2 << 10


class Outcome(NamedTuple):
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

    def __init__(self, remembered: int = REMEMBERED, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        """Both are maxima; the bytes are estimated by the number of candidates."""
        self._remembered, self._remembered_bytes = remembered, remembered_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[Entry, int]] = OrderedDict()
        """Each with its estimated bytes."""

    def admitted(self, entry: Entry) -> None:
        """Nothing can be asked about before there is a decision."""

    def decided(self, entry: Entry) -> None:
        if entry.decision is None:
            return
        decision_id = entry.decision.decision_id
        size = BYTES_OF_THE_REST + len(entry.decision.candidates) * BYTES_PER_CANDIDATE
        if known := self._entries.pop(decision_id, None):
            self._bytes -= known[1]
        self._entries[decision_id] = entry, size
        self._bytes += size
        while len(self._entries) > self._remembered or self._bytes > self._remembered_bytes:
            _, (_, oldest_size) = self._entries.popitem(last=False)
            self._bytes -= oldest_size

    def closed(self, entry: Entry) -> None:
        """The entry is the same object: what happened is in it by now."""

    def find(self, decision_id: str, key_id: str) -> Entry | None:
        entry, _ = self._entries.get(decision_id, (None, 0))
        return entry if entry is not None and entry.key_id == key_id else None
