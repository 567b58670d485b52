"""How many share the limits, as one knows it who starts while Redis is down."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.store.limits.holders import FEWER_AFTER_S, FILE, Holders
from tests.fakes.clock import FakeClock


def test_who_starts_knows_how_many_there_were(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert Holders(folder, 1, FakeClock()).number == 1
    Holders(folder, 1, FakeClock()).hear(3)
    assert Holders(folder, 1, FakeClock()).number == 3
    assert Holders(folder, 4, FakeClock()).number == 4, "its own processes at least"
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_smaller_number_counts_after_a_minute_without_a_larger_one(tmp_path: Path) -> None:
    clock = FakeClock()
    holders = Holders(tmp_path, 1, clock)
    for number in (3, 2):
        hear_for(FEWER_AFTER_S - 1, number, holders, clock)
    hear_for(1, 3, holders, clock)
    hear_for(FEWER_AFTER_S - 1, 2, holders, clock)
    assert holders.number == Holders(tmp_path, 1, clock).number == 3
    holders.hear(2)
    assert holders.number == Holders(tmp_path, 1, clock).number == 2


def hear_for(seconds: float, number: int, holders: Holders, clock: FakeClock) -> None:
    """Once a second, beginning now."""
    for _ in range(int(seconds)):
        holders.hear(number)
        clock.advance(1)


@pytest.mark.parametrize("away_s", [FEWER_AFTER_S - 10, FEWER_AFTER_S * 3])
def test_who_comes_back_to_redis_first_is_not_alone_for_that(tmp_path: Path, away_s: float) -> None:
    clock = FakeClock()
    holders = Holders(tmp_path, 1, clock)
    hear_for(10, 4, holders, clock)
    clock.advance(away_s)
    hear_for(FEWER_AFTER_S - 1, 1, holders, clock)
    assert holders.number == 4


@pytest.mark.parametrize("text", ["", "many", "-3", "1.5", "é"])
def test_a_file_that_says_nothing_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    assert Holders(tmp_path, 2, FakeClock()).number == 2


def test_a_disk_that_takes_nothing_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    holders = Holders(tmp_path / "file", 1, FakeClock())
    holders.hear(3)
    assert holders.number == 3
