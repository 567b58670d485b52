"""What was decided, and what then happened: one entry per admitted request."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.domain.decision import Decision, Shared
from app.domain.frozen import frozen
from app.domain.request import Request
from app.domain.usage import Usage
from app.store.journal.kept import Kept

OK, CANCELLED = "ok", "cancelled"
"""How a request ends that does not fail: answered, or left by its caller."""
# A decision over ten models keeps about 10 KiB alive, one over more so much more.
REMEMBERED, REMEMBERED_BYTES = 2_000, 32 << 20
BYTES_PER_CANDIDATE, BYTES_OF_THE_REST = 1 << 10, 2 << 10


@frozen
class Outcome:
    """How a request ended."""

    result: str
    """`OK`, `CANCELLED`, or the code of the error."""
    model: str | None = None
    """Who answered, or was at work on an answer when its caller left or had no time left; None when nobody was."""
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
    mean_logprob: float | None = None
    """Of the answer's tokens, where it says how probable they were."""
    served_as: str | None = None
    """What its backend calls the model that answered."""
    predicted_as: str | None = None
    """What the artifact calls it, where it is there."""


@dataclass(slots=True)
class Entry:
    """One admitted request; the decision and the outcome are filled in as they come."""

    request_id: str
    key_id: str
    decision: Decision | None = None
    outcome: Outcome | None = None
    refusal: object = None
    """What its refusal follows from, where no model was eligible."""
    request: Request | None = None
    """Until it is over."""
    operation: str = "chat"
    at: float = 0.0
    """When it was admitted, by wall clock."""
    config: str | None = None
    """Version of the configuration that it sees."""
    tenant: str | None = None
    keeps_text: bool = False
    """Whether the prompt's text may be kept."""
    reserved_usd: float | None = None
    """What is held back of a hard budget for it, to be known when it is decided; None where no budget is hard."""
    held_in: str | None = None
    """The day or month of the budget of which that is held."""
    seq: int = 0
    """The number of its first row in the spool; 0 before there is one."""
    feedback: dict[str, Any] | None = None


class Journal(Protocol):
    """Keeps entries. Each admitted entry is closed exactly once, whatever happens to the request."""

    def admitted(self, entry: Entry) -> None: ...

    def decided(self, entry: Entry) -> None:
        """To be called before anything is sent."""

    def closed(self, entry: Entry) -> None: ...

    def find(self, decision_id: str, key_id: str) -> Entry | None:
        """The entry of a decision, for the key that asked for it; None for anybody else."""
        ...

    async def look_up(self, decision_id: str, key_id: str) -> Kept | None:
        """The same for what is no longer, or was never, in this process' memory; None too where nothing is kept.

        Raises:
            StoreDown: that cannot be said now.
        """
        ...

    async def feedback(self, decision_id: str) -> dict[str, Any] | None:
        """What was said of a decision, as far as it is kept.

        Raises:
            StoreDown: that cannot be said now.
        """
        ...

    def rated(self, entry: Entry | None, feedback: dict[str, Any]) -> bool:
        """Keep what a caller thinks of an answer, with `decision_id` and `key`; whether it can be kept now.

        Of two the later one holds.
        """
        ...


class RecentDecisions:
    """A bounded memory of the latest decisions, lost when the process ends."""

    def __init__(self, remembered: int = REMEMBERED, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        """Both are maxima; the bytes are estimated by the number of candidates, what limits list and what is shared."""
        self._remembered, self._remembered_bytes = remembered, remembered_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, tuple[Entry, int]] = OrderedDict()
        """Each with its estimated bytes."""
        self._last_shared: Shared | None = None
        """What the latest one shares with its neighbours: the first of them has it counted."""

    def admitted(self, entry: Entry) -> None:
        """Nothing can be asked about before there is a decision."""

    def decided(self, entry: Entry) -> None:
        if entry.decision is None or entry.decision.decision_id in self._entries:
            return
        size = BYTES_OF_THE_REST + len(entry.decision.candidates) * BYTES_PER_CANDIDATE
        if entry.request is not None and entry.request.preferences.limits:
            size += _bytes_of_names(entry.request.preferences.limits)
        shared = entry.decision.shared
        if shared is not None and shared is not self._last_shared:
            size += shared.nbytes
        self._last_shared = shared
        self._entries[entry.decision.decision_id] = entry, size
        self._bytes += size
        while len(self._entries) > self._remembered or self._bytes > self._remembered_bytes:
            _, (_, oldest_size) = self._entries.popitem(last=False)
            self._bytes -= oldest_size

    def closed(self, entry: Entry) -> None:
        """The entry is the same object: what happened is in it by now. What was asked is no longer needed."""
        entry.request = entry.refusal = None

    def find(self, decision_id: str, key_id: str) -> Entry | None:
        entry, _ = self._entries.get(decision_id, (None, 0))
        return entry if entry is not None and entry.key_id == key_id else None

    async def look_up(self, decision_id: str, key_id: str) -> Kept | None:  # noqa: ARG002 - nothing is kept
        return None

    async def feedback(self, decision_id: str) -> dict[str, Any] | None:  # noqa: ARG002 - nothing is kept
        return None

    def rated(self, entry: Entry | None, feedback: dict[str, Any]) -> bool:
        """Only what is remembered can be rated."""
        if entry is not None:
            entry.feedback = feedback
        return entry is not None


def _bytes_of_names(limits: Mapping[str, Any]) -> int:
    """What lists of names take; other limits are numbers."""
    lists = [limit for limit in limits.values() if isinstance(limit, frozenset)]
    return sum(sys.getsizeof(names) + sum(map(sys.getsizeof, names)) for names in lists)
