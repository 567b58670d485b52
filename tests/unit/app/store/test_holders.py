"""How many share the limits, as one knows it who starts while Redis is down."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.store.holders import FEWER_AFTER_S, FILE, Holders
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
        holders.hear(number)
        clock.advance(FEWER_AFTER_S - 1)
    holders.hear(3)
    clock.advance(FEWER_AFTER_S - 1)
    holders.hear(2)
    assert holders.number == Holders(tmp_path, 1, clock).number == 3
    clock.advance(1)
    holders.hear(2)
    assert holders.number == Holders(tmp_path, 1, clock).number == 2


@pytest.mark.parametrize("text", ["", "many", "-3", "1.5", "é"])
def test_a_file_that_says_nothing_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    assert Holders(tmp_path, 2, FakeClock()).number == 2


def test_a_disk_that_takes_nothing_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    holders = Holders(tmp_path / "file", 1, FakeClock())
    holders.hear(3)
    assert holders.number == 3
