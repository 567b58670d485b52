"""Rows on the disk: what a crash, a torn write and a full disk leave of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.store.journal.follower import Follower
from app.store.journal.kept import Batch
from app.store.journal.recording import in_spools
from app.store.journal.rows import Facts, sealed
from app.store.journal.spool import ADMITTED, ENDED, Spool, adopt, packed, segment_path, segments, spools, unpacked
from tests.fakes.full_disk import files_of_at_most

REST = b'{"end":{"outcome":"ok","cost_usd":0.5}}'
END = sealed(Facts(0.0, 0.5, "tester", None), REST)


def read(spool: Spool) -> Batch:
    return Follower(spool.path, 100).batch()


def test_the_two_rows_of_a_request_become_one_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.end(spool.admit(b'{"key":"tester"}'), END)
    spool.flush()
    (record,) = read(spool).ended
    assert (record.key_id, record.usd) == ("tester", 0.5)
    assert record.record == b'{"key":"tester",' + REST[1:]


def test_a_decision_is_found_in_a_spool_unless_another_release_wrote_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number, end in enumerate((sealed(Facts(0.0, 0.5, "tester", "dec-0"), REST), b'{"decision_id":"dec-1"}')):
        spool.end(spool.admit(b'{"key":"tester","decision_id":"dec-%d"}' % number), end)
    spool.flush()
    found = in_spools(tmp_path, "dec-0")
    assert found is not None
    assert found.record == {"key": "tester", "decision_id": "dec-0", "end": {"outcome": "ok", "cost_usd": 0.5}}
    assert in_spools(tmp_path, "dec-1") is None


def test_a_decision_is_found_whole_though_its_rows_are_in_different_segments(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=10)
    first = spool.admit(b'{"key":"tester","decision_id":"dec-0","chosen":"small"}')
    spool.admit(b'{"decision_id":"dec-1"}')
    spool.carry([first])
    spool.end(first, sealed(Facts(0.0, 0.5, "tester", "dec-0"), REST))
    spool.admit(b'{"decision_id":"dec-2"}')
    spool.admit(b'{"decision_id":"dec-3"}')
    assert len(segments(spool.path)) == 4
    found = in_spools(tmp_path, "dec-0")
    assert found is not None
    assert (found.record["chosen"], found.record["end"]["outcome"]) == ("small", "ok")


def test_a_first_row_is_on_the_disk_at_once_and_takes_with_it_what_waits(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.end(spool.admit(b"{}"), END)
    assert read(spool).ended == []
    spool.admit(b"{}")
    assert len(read(spool).ended) == 1


@pytest.mark.parametrize("kept", range(0, 120, 7))
def test_a_row_that_is_torn_is_as_if_it_had_not_been_written(kept: int) -> None:
    rows = packed(1, 0, ADMITTED, b"x" * 50) + packed(2, 1, ENDED, b"y" * 50)
    whole = [row.seq for row, _ in unpacked(rows[:kept])]
    assert whole == ([1] if kept >= len(rows) // 2 else [])


def test_a_row_with_a_wrong_bit_ends_what_can_be_read() -> None:
    rows = bytearray(packed(1, 0, ADMITTED, b"x" * 50) + packed(2, 0, ADMITTED, b"y" * 50))
    rows[-3] ^= 1
    assert [row.seq for row, _ in unpacked(bytes(rows))] == [1]


def test_a_spool_belongs_to_its_process_until_that_lets_go(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert adopt(spool.path) is None
    spool.close(is_done=False)
    assert adopt(spool.path) is not None
    assert spools(tmp_path) == [spool.path]


def test_nothing_is_left_of_a_spool_that_is_done_with(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.admit(b"{}")
    spool.close(is_done=True)
    assert list(tmp_path.iterdir()) == []


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert {path.stat().st_mode & 0o077 for path in [tmp_path / "spool", spool.path, *spool.path.iterdir()]} == {0}


def test_segments_go_when_all_their_requests_are_over(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=1_000)
    first = spool.admit(b"{}")
    for _ in range(50):
        spool.end(spool.admit(b"{}"), END)
    follower = Follower(spool.path, 100)
    follower.applied = follower.batch().until
    assert follower.done_with() == [], "the oldest holds a request that runs, and rows never outlive their first ones"
    spool.end(first, END)
    spool.flush()
    follower.applied = follower.batch().until
    assert follower.done_with() == [path for _, path in segments(spool.path)][:-1]


def test_segments_go_too_when_what_runs_is_carried_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=1_000)
    first, ended = spool.admit(b"{}"), spool.admit(b"{}")
    for _ in range(50):
        spool.end(spool.admit(b"{}"), END)
    follower = Follower(spool.path, 100)
    follower.applied = follower.batch().until
    spool.end(ended, END)
    assert follower.left_behind(1_000) == []
    assert follower.left_behind(1) == [first, ended], "as far as was read"
    spool.carry(follower.left_behind(1))
    follower.applied = follower.batch().until
    assert follower.done_with() == [], "one that has ended is not carried on, and its end is not written yet"
    spool.flush()
    follower.applied = follower.batch().until
    assert follower.done_with() == [path for _, path in segments(spool.path)][:-1]
    assert (follower.open, follower.left_behind(0)) == (1, [])


def test_what_is_carried_on_may_exceed_the_limit_but_never_begins_a_segment(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit_bytes=100, segment_bytes=10)
    first = spool.admit(b"{}")
    while not spool.is_stopped:
        spool.admit(b"{}")
    written = spool.mark
    spool.carry([first])
    assert spool.mark.segment == written.segment
    assert spool.mark.offset == written.offset + len(packed(first, 0, ADMITTED, b"{}"))
    spool.freed(spool.kept_bytes)
    with files_of_at_most(0):
        spool.flush()
    begun = spool.mark
    assert begun == (written.segment + 1, 0)
    spool.carry([first])
    assert spool.mark == begun


def test_a_full_disk_stops_it_and_what_waits_is_written_when_there_is_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.admit(b"x" * 1_000)
    with files_of_at_most(2_500):
        numbers = [spool.admit(b"x" * 1_000) for _ in range(3)]
        assert spool.is_stopped
        assert all(numbers), "a request is not refused for it"
        assert not spool.note(b"{}")
        # What was written of the row that did not fit must not hide the next ones.
        assert segment_path(spool.path, 1).stat().st_size == len(packed(1, 0, ADMITTED, b"x" * 1_000)) * 2
    spool.flush()
    assert not spool.is_stopped
    data = segment_path(spool.path, 1).read_bytes()
    assert [row.seq for row, _ in unpacked(data)] == [1, 2, 3, 4]


def test_it_is_bounded_and_goes_on_when_something_was_recorded(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit_bytes=10_000)
    while not spool.is_stopped:
        spool.admit(b"x" * 1_000)
    assert spool.kept_bytes <= 10_000
    spool.freed(5_000)
    spool.flush()
    assert not spool.is_stopped


def test_memory_is_bounded_too_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, limit_bytes=0)
    first = spool.admit(b"x" * (1 << 20))
    admitted = sum(spool.admit(b"x" * (1 << 20)) > 0 for _ in range(10))
    assert (admitted, spool.dropped) == (3, 7)
    assert spool.end(first, END), "what ends a request has room where others have none"


def test_a_brief_end_has_room_where_a_long_one_has_none_and_is_no_loss(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    numbers = [spool.admit(b'{"key":"tester"}') for _ in range(20)]
    with files_of_at_most(segment_path(spool.path, 1).stat().st_size):
        spool.admit(b"{}")
        brief = [number for number in numbers if not spool.end(number, END + b" " * (1 << 20))]
        assert len(brief) > 10
        assert all(spool.end_briefly(number, END) for number in brief)
    spool.flush()
    assert (spool.is_stopped, spool.dropped) == (False, 0)
    assert [one.of for one in read(spool).ended] == numbers
