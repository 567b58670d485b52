"""What became of decisions, for those who asked for them; and what they think of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NamedTuple

from app.admission.admitted import Caller
from app.domain.clock import Clock
from app.domain.decision import Decision
from app.errors import Overloaded, UnknownDecision
from app.store.journal.journal import Entry, Journal, Outcome
from app.store.journal.kept import Kept
from app.store.journal.telling import record_of
from app.store.limits.ratings import Ratings
from app.store.redis_client import StoreDown
from app.telemetry.metrics import Metrics

# What another process has written of a request that is over can be seen after this: its second row waits for half a
# second, and on another machine it is seen where records are kept only.
SEEN_AFTER_S = 1.2

_PRIVATE = frozenset({"replica", "served_as", "predicted_as"})
Describe = Callable[[Decision], Mapping[str, Any]]
"""The record of a decision, as JSON."""


class _Found(NamedTuple):
    """A decision, where this process remembers it or where it is kept."""

    entry: Entry | None
    kept: Kept | None


class Decisions:
    """Finds and tells them, to the keys whose they are."""

    def __init__(
        self, journal: Journal, describe: Describe, clock: Clock, metrics: Metrics, is_shared: bool = False
    ) -> None:
        """`is_shared`: other gateways write to the same journal."""
        self._journal, self._describe, self._is_shared = journal, describe, is_shared
        self._ratings, self._metrics = Ratings(clock), metrics

    def described(self, decision: Decision, outcome: Outcome | None) -> Mapping[str, Any]:
        """The record of a decision, with what happened so far."""
        return {**self._describe(decision), "outcome": None if outcome is None else _public(outcome)}

    async def record(self, decision_id: str, key: Caller) -> Mapping[str, Any]:
        """The record of a decision that this key asked for, with what then happened as far as it is known.

        Raises:
            UnknownDecision: there is none, or it is somebody else's.
            Overloaded: it is not in this process' memory, and the store does not answer.
        """
        entry, kept = await self._found(decision_id, key)
        if kept is not None:
            return record_of(kept)
        assert entry is not None and entry.decision is not None  # noqa: S101, PT018 - for the type checker
        feedback = None
        with suppress(StoreDown):
            feedback = await self._journal.feedback(decision_id)
        return {**self.described(entry.decision, entry.outcome), "feedback": feedback or entry.feedback}

    def hear(self, key: Caller) -> None:
        """Ask this before reading what a caller says of an answer.

        Raises:
            RateLimited: this key has said enough for now.
        """
        self._ratings.take(key.id)

    async def rate(self, rating: Mapping[str, Any], key: Caller) -> None:
        """Keep what this key's caller thinks of an answer: `decision_id`, `score` in [0, 1], `thumbs` if it was that.

        Raises:
            UnknownDecision, Overloaded: as `record`; or it cannot be kept now.
        """
        found = await self._found(rating["decision_id"], key)
        if not self._journal.rated(found.entry, {**rating, "key": key.id}):
            raise Overloaded("feedback cannot be kept now; send it again later", retry_after_s=5)
        self._metrics.promises.judged(*_promised(found), rating["score"])

    async def _found(self, decision_id: str, key: Caller) -> _Found:
        if entry := self._journal.find(decision_id, key.id):
            return _Found(entry, None)
        try:
            kept = await self._journal.look_up(decision_id, key.id)
            if self._may_be_on_its_way(kept):
                await asyncio.sleep(SEEN_AFTER_S)
                kept = await self._journal.look_up(decision_id, key.id)
        except StoreDown as exc:
            raise Overloaded("records of decisions cannot be read now; ask again", retry_after_s=5) from exc
        if kept is None:
            raise UnknownDecision(f"this key has asked for no decision {decision_id}, or it is no longer kept")
        return _Found(None, kept)

    def _may_be_on_its_way(self, kept: Kept | None) -> bool:
        """Whether more of it may be seen in a moment: it is another gateway's, or only how it began is there yet."""
        return self._is_shared if kept is None else "end" not in kept.record


def _promised(found: _Found) -> tuple[str, float | None]:
    """Who answered, and what was predicted of that answer's quality."""
    if found.entry and found.entry.decision:
        decision, outcome = found.entry.decision, found.entry.outcome
        model = outcome.model if outcome and outcome.model else decision.chosen.model.name
        return model, next((each.quality for each in decision.candidates if each.model.name == model), None)
    record = record_of(found.kept) if found.kept else {}
    model = (record.get("outcome") or {}).get("model") or record.get("model") or ""
    return model, next((each.get("quality") for each in record.get("candidates", ()) if each["model"] == model), None)


def _public(outcome: Outcome) -> Mapping[str, Any]:
    """What callers learn of an outcome: all but the address of the worker, and what others call the model."""
    return {name: value for name, value in asdict(outcome).items() if name not in _PRIVATE}
