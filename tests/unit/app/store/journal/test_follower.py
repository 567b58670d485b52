"""How the rows of a spool become records: after any crash of who reads it, each once."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from app.store.journal.follower import Follower
from app.store.journal.kept import INTERRUPTED, Ended
from app.store.journal.rows import Facts, sealed
from app.store.journal.spool import Spool, segment_path

BATCH_ROWS = 20
BEGUN = b'{"time":7,"key":"tester","profile":"default","decision_id":"dec-1","expected_usd":0.25}'
END = sealed(Facts(7.0, 0.5, "tester", "dec-1"), b'{"end":{"outcome":"ok","cost_usd":0.5}}')


def spool_with(folder: Path, ended: int, left_open: int) -> Spool:
    spool = Spool(folder)
    for _ in range(ended):
        spool.end(spool.admit(BEGUN), END)
    for _ in range(left_open):
        spool.admit(BEGUN)
    return spool


def finished(spool: Spool, applied: int = 0) -> list[Ended]:
    """What is applied of it by a process that finds so much done."""
    follower = Follower(spool.path, BATCH_ROWS, applied)
    rows: list[Ended] = []
    while batch := follower.batch():
        rows += batch.ended
        follower.applied = batch.until
    for batch in follower.interrupted(9.0):
        rows += batch.ended
    return rows


def test_what_has_no_end_is_interrupted_at_what_was_expected(tmp_path: Path) -> None:
    *_, last = finished(spool_with(tmp_path, 1, 1))
    end = json.loads(last.record)["end"]
    assert (end["outcome"], end["cost_usd"], end["reconstructed"], last.usd) == (INTERRUPTED, 0.25, True, 0.25)


def test_what_is_interrupted_was_held_of_the_day_that_its_first_row_names(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.admit(BEGUN[:-1] + b',"reserved_usd":0.75,"held_in":"1970-01-01"}')
    (last,) = finished(spool)
    assert (last.usd, last.held_in) == (0.75, "1970-01-01")


def test_a_reader_that_finds_a_part_done_does_the_rest(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 3 * BATCH_ROWS // 2, 3 * BATCH_ROWS // 2)
    rows = finished(spool)
    assert [row.seq for row in rows] == sorted({row.seq for row in rows})
    for done in range(0, len(rows), 7):
        assert finished(spool, rows[done].seq) == rows[done + 1 :], "whether it was interrupted ones or others"


def test_a_reader_whose_last_step_was_done_without_its_knowing_does_nothing_twice(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 1, 3)
    assert finished(spool, finished(spool)[-1].seq) == []


def test_what_was_handed_out_comes_again_unchanged_until_it_is_applied(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 2, 1)
    follower = Follower(spool.path, BATCH_ROWS)
    lost = follower.batch()
    spool.admit(BEGUN)
    assert follower.batch() == lost
    assert len(lost.ended) == 2
    follower.applied = lost.until
    assert follower.batch().until == lost.until + 1


def test_what_was_read_before_a_failure_is_in_the_next_batch(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=1_000)
    while spool.mark.segment < 2:
        spool.end(spool.admit(BEGUN), END)
    second, aside = segment_path(spool.path, 2), tmp_path / "aside"
    second.rename(aside)
    second.mkdir()
    follower = Follower(spool.path, BATCH_ROWS)
    with pytest.raises(IsADirectoryError):
        follower.batch()
    second.rmdir()
    aside.rename(second)
    assert [row.seq for row in follower.batch().ended] == [row.seq for row in finished(spool)][:-1]


class Life:
    """A process that journals at random, with who records it; `check` is a crash."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.spool, self.random = Spool(folder, segment_bytes=2_000), random.Random(seed)
        self.follower = Follower(self.spool.path, BATCH_ROWS)
        self.running: list[int] = []
        self.ended: set[int] = set()
        self.recorded: list[int] = []
        self.most_bytes = self.dropped = 0

    def admit(self) -> None:
        self.running.append(self.spool.admit(BEGUN))

    def end(self) -> None:
        """Of those that began lately, so that some run for very long."""
        if len(self.running) > 3:
            of = self.running.pop(self.random.randrange(3, len(self.running)))
            self.spool.end(of, END)
            self.ended.add(of)

    def record(self) -> None:
        """What the recorder does, with a crash after each of its steps."""
        self.spool.flush()
        while (batch := self.follower.batch(self.spool.mark)).until > self.follower.applied:
            self.recorded += [one.of for one in batch.ended]
            self.follower.applied = batch.until
            self.check()
        for path in self.follower.done_with():
            self.spool.freed(path.stat().st_size)
            path.unlink()
            self.dropped += 1
            self.check()
        self.spool.carry(self.follower.left_behind(1))
        self.check()
        self.most_bytes = max(self.most_bytes, self.spool.kept_bytes)

    def check(self) -> None:
        """All that was let in has one record, whoever finishes it, and however far one has come who died at that."""
        rows = finished(self.spool, self.follower.applied)
        told = Counter(self.recorded + [row.of for row in rows])
        assert told == dict.fromkeys([*self.ended, *self.running], 1)
        if rows:
            done = self.random.randrange(len(rows))
            assert finished(self.spool, rows[done].seq) == rows[done + 1 :]


@pytest.mark.parametrize("seed", range(5))
def test_requests_that_run_for_long_have_one_record_wherever_it_ends_and_hold_up_nothing(
    tmp_path: Path, seed: int
) -> None:
    life = Life(tmp_path, seed)
    for _ in range(400):
        life.random.choice([life.admit, life.end, life.end, life.record])()
        life.check()
    assert life.dropped > 5
    assert life.most_bytes < 6 * 2_000
