"""The memory of recent decisions."""

from __future__ import annotations

from dataclasses import replace

from app.domain.request import Preferences
from app.store.journal.journal import Entry, Outcome, RecentDecisions
from tests.fakes.world import decision, request


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


def test_large_decisions_push_more_of_the_others_out() -> None:
    journal = RecentDecisions(remembered_bytes=100 << 10)
    for number in range(10):
        journal.decided(entry(number))
    many = Entry("req-many", "mine", replace(decision(*map(str, range(80))), decision_id="dec-many"))
    journal.decided(many)
    kept = [number for number in range(10) if journal.find(f"dec-{number}", "mine")]
    assert journal.find("dec-many", "mine") is many
    assert kept == [4, 5, 6, 7, 8, 9], "82 KiB, and six times 3"


def test_names_that_a_request_lists_count() -> None:
    journal = RecentDecisions(remembered_bytes=100 << 10)
    for number in range(10):
        journal.decided(entry(number))
    listing = entry(10)
    names = frozenset(f"{number}".ljust(200) for number in range(300))
    listing.request = request(preferences=Preferences({"exclude": names, "max_cost_usd": 1.0}))
    journal.decided(listing)
    kept = [number for number in range(11) if journal.find(f"dec-{number}", "mine")]
    assert kept == [5, 6, 7, 8, 9, 10], "300 names take 80 KiB, and five times 3"


def test_a_decision_that_is_told_twice_counts_once() -> None:
    journal = RecentDecisions(remembered_bytes=10 << 10)
    journal.decided(entry(1))
    for _ in range(100):
        journal.decided(entry(2))
    assert journal.find("dec-1", "mine")


class Picture:
    nbytes = 40 << 10


def test_what_several_decisions_share_counts_once_and_each_new_picture_anew() -> None:
    for pictures, remembered in (([Picture()] * 10, 10), ([Picture() for _ in range(10)], 2)):
        journal = RecentDecisions(remembered_bytes=100 << 10)
        for number, picture in enumerate(pictures):
            each = Entry("req", "mine", replace(decision("small"), decision_id=f"dec-{number}", shared=picture))
            journal.decided(each)
            journal.decided(each)
        assert sum(journal.find(f"dec-{number}", "mine") is not None for number in range(10)) == remembered
