"""The memory of recent decisions."""

from __future__ import annotations

from dataclasses import replace

from app.store.journal import Entry, Outcome, RecentDecisions
from tests.fakes.world import decision


def entry(number: int, key_id: str = "mine") -> Entry:
    return Entry(f"req-{number}", key_id, replace(decision("small"), decision_id=f"dec-{number}"))


def test_a_decision_is_found_by_the_key_that_asked_and_by_no_other() -> None:
    journal = RecentDecisions()
    mine = entry(1)
    journal.decided(mine)
    assert journal.find("dec-1", "mine") is mine
    assert journal.find("dec-1", "yours") is None
    assert journal.find("dec-2", "mine") is None


def test_what_happened_is_in_the_entry_afterwards() -> None:
    journal = RecentDecisions()
    mine = entry(1)
    journal.decided(mine)
    mine.outcome = Outcome("ok")
    journal.closed(mine)
    found = journal.find("dec-1", "mine")
    assert found is not None
    assert found.outcome == Outcome("ok")


def test_only_the_latest_are_remembered() -> None:
    journal = RecentDecisions(remembered=3)
    for number in range(10):
        journal.decided(entry(number))
    assert [number for number in range(10) if journal.find(f"dec-{number}", "mine")] == [7, 8, 9]
