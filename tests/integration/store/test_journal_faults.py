"""The journal while its store is away, or its disk is full: nothing of it is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from app.routing.outline import Outlines
from app.store.journal.kept import INTERRUPTED
from app.store.journal.recorder import Recorder
from app.store.journal.recording import RecordedJournal, in_spools
from app.store.journal.rows import Facts, sealed
from app.store.journal.spool import Spool
from app.store.redis_client import StoreDown
from app.store.sqlite import FILE
from app.telemetry import Telemetry
from tests.fakes.full_disk import files_of_at_most
from tests.fakes.journal_process import OK, entry, opened, recording
from tests.fakes.redis_server import running_redis
from tests.fakes.world import request


def journalled(journal: RecordedJournal, first: int, count: int) -> None:
    for number in range(first, first + count):
        one = entry(number)
        journal.admitted(one)
        journal.decided(one)
        one.outcome = OK
        journal.closed(one)


@asynccontextmanager
async def recording_by_hand(folder: Path, **limits: int) -> AsyncIterator[tuple[RecordedJournal, Recorder]]:
    """A journal of which nothing is recorded by itself, until it ends."""
    spool = Spool(folder / "spool", **limits)
    async with opened(folder, None) as store:
        recorder = Recorder(spool, store, Telemetry(), time.monotonic, time.time)
        try:
            yield RecordedJournal(spool, store, Outlines(), time.time), recorder
        finally:
            await recorder.aclose()


async def names(folder: Path, redis: str | None) -> list[str]:
    async with opened(folder, redis) as store:
        return [json.loads(record)["request_id"] for _, record in await store.after(None, 10_000)]


async def caught_up(folder: Path, redis: str | None, count: int, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s), opened(folder, redis) as store:
        while len(await store.after(None, 10_000)) < count:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("fault", ["killed", "stalled", "out of memory", "read-only"])
async def test_what_happens_while_redis_is_away_is_recorded_when_it_is_back(
    tmp_path: Path, fault: str, full_size: bool
) -> None:
    if not full_size and fault not in ("killed", "stalled"):
        pytest.skip("at full size only: to the recorder it is what a killed one is")
    with running_redis(tmp_path) as redis:
        async with recording(tmp_path, redis.url) as (journal, recorder):
            journalled(journal, 0, 100)
            await recorder.record()
            {
                "killed": redis.kill,
                "stalled": redis.pause,
                "out of memory": redis.run_out_of_memory,
                "read-only": redis.become_read_only,
            }[fault]()
            for number in range(100, 400, 50):
                journalled(journal, number, 50)
                with pytest.raises(StoreDown):
                    await recorder.record()
            assert not journal.spool.is_stopped, "callers notice nothing"
            {"killed": redis.start, "stalled": redis.resume}.get(fault, redis.recover)()
            journalled(journal, 400, 100)
            await caught_up(tmp_path, redis.url, 500)
        assert await names(tmp_path, redis.url) == [f"req-{number}" for number in range(500)], "once each, in order"


async def test_a_batch_that_meets_a_value_of_another_type_is_not_done_by_half(tmp_path: Path) -> None:
    with running_redis(tmp_path) as redis:
        async with recording(tmp_path, redis.url) as (journal, recorder):
            journalled(journal, 0, 10)
            await recorder.record()
            money = redis.do("KEYS", "thalamus:spent:*")
            for name in money:
                redis.do("RENAME", name, b"kept:" + name)
                redis.do("SET", name, "not a hash")
            journalled(journal, 10, 10)
            for _ in range(3):
                with pytest.raises(StoreDown, match="WRONGTYPE"):
                    await recorder.record()
            for name in money:
                redis.do("RENAME", b"kept:" + name, name)
            await recorder.record()
        assert await names(tmp_path, redis.url) == [f"req-{number}" for number in range(20)], "once each, in order"


async def test_a_gateway_that_ends_while_redis_is_away_leaves_its_records_to_the_next(tmp_path: Path) -> None:
    with running_redis(tmp_path) as redis:
        async with recording(tmp_path, redis.url) as (journal, _):
            redis.kill()
            journalled(journal, 0, 50)
        redis.start()
        async with recording(tmp_path, redis.url):
            await caught_up(tmp_path, redis.url, 50)
        assert list((tmp_path / "spool").iterdir()) == []


async def test_a_spool_that_cannot_be_read_does_not_keep_others_from_being_recorded(tmp_path: Path) -> None:
    # Of today: what is older than a month goes at once.
    end = sealed(Facts(time.time(), 0.5, "tester", None), b'{"end":{"outcome":"ok"}}')
    dead = [Spool(tmp_path / "spool") for _ in range(3)]
    for spool in dead:
        spool.end(
            spool.admit(b'{"key":"tester"}'),
            end if spool.path != min(one.path for one in dead) else b"of another release",
        )
        spool.flush()
        spool.close(is_done=False)
    async with opened(tmp_path, None) as store:
        recorder = Recorder(Spool(tmp_path / "spool"), store, Telemetry(), time.monotonic, time.time)
        await recorder.recover()
        assert len(await store.after(None, 10)) == 2
        await recorder.aclose()
    assert len(list((tmp_path / "spool").iterdir())) == 1, "it stays for somebody to look at"


async def test_a_database_that_another_process_holds_is_waited_for_in_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.sqlite.WAIT_S", 0.05)
    async with recording(tmp_path, None) as (journal, recorder):
        holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        journalled(journal, 0, 50)
        with pytest.raises(StoreDown):
            await recorder.record()
        holder.execute("ROLLBACK")
        holder.close()
        await recorder.record()
    assert len(await names(tmp_path, None)) == 50


async def test_a_disk_that_is_full_for_a_while_costs_no_record(tmp_path: Path) -> None:
    async with recording(tmp_path, None) as (journal, recorder):
        journalled(journal, 0, 20)
        await recorder.record()
        with files_of_at_most(4_096):
            journalled(journal, 20, 50)
            assert journal.spool.is_stopped, "who has a hard budget is not served now"
            assert await journal.look_up("dec-5", "tester") is not None
        await recorder.record()
        assert not journal.spool.is_stopped
        journalled(journal, 70, 10)
    assert await names(tmp_path, None) == [f"req-{number}" for number in range(80)]


async def test_ends_for_which_there_is_no_room_are_recorded_briefly_with_their_cost(tmp_path: Path) -> None:
    # Three times what may wait.
    long = request(conversation=(("user", "\U0001f642" * 32_000),))
    async with recording(tmp_path, None) as (journal, recorder):
        entries = [replace(entry(number), request=long, keeps_text=True) for number in range(200)]
        for one in entries:
            journal.admitted(one)
            journal.decided(one)
        with files_of_at_most(4_096):
            for one in entries:
                one.outcome = OK
                journal.closed(one)
            await recorder.sync()
            assert journal.spool.is_stopped
        await recorder.record()
        assert (journal.spool.is_stopped, journal.spool.dropped) == (False, 0)
    async with opened(tmp_path, None) as store:
        records = [json.loads(record) for _, record in await store.after(None, 1_000)]
    assert [one["request_id"] for one in records] == [one.request_id for one in entries]
    assert {(one["end"]["outcome"], one["end"]["cost_usd"]) for one in records} == {("ok", OK.cost_usd)}
    assert 0 < sum("messages" in one for one in records) < len(records)


async def test_one_request_that_runs_for_long_neither_stops_the_journal_nor_is_told_twice(tmp_path: Path) -> None:
    limit_bytes, segment_bytes = 200_000, 20_000
    ended = 0
    async with recording_by_hand(tmp_path, limit_bytes=limit_bytes, segment_bytes=segment_bytes) as (journal, recorder):
        spool, long = journal.spool, entry(1_000_000)
        journal.admitted(long)
        journal.decided(long)
        written_bytes = most_bytes = 0
        while written_bytes < 10 * limit_bytes:
            before = spool.kept_bytes
            journalled(journal, ended, 10)
            spool.flush()
            ended, written_bytes = ended + 10, written_bytes + spool.kept_bytes - before
            await recorder.record()
            assert not spool.is_stopped
            most_bytes = max(most_bytes, spool.kept_bytes)
        assert most_bytes < 4 * segment_bytes
        crashed = _as_a_crash_leaves(tmp_path)
        assert (found := in_spools(tmp_path / "spool", "dec-1000000")) is not None
        assert "end" not in found.record
        long.outcome = OK
        journal.closed(long)
    expected = [f"req-{number}" for number in range(ended)] + ["req-1000000"]
    assert await names(tmp_path, None) == expected
    async with recording(crashed, None) as (_, recorder):
        await recorder.recover()
    assert await names(crashed, None) == expected
    async with opened(crashed, None) as store:
        assert (last := await store.find("dec-1000000")) is not None
        assert last.record["end"]["outcome"] == INTERRUPTED


async def test_a_spool_that_an_outage_filled_goes_on_though_its_first_request_still_runs(tmp_path: Path) -> None:
    async with recording_by_hand(tmp_path, limit_bytes=200_000, segment_bytes=20_000) as (journal, recorder):
        spool, long = journal.spool, entry(1_000_000)
        journal.admitted(long)
        journal.decided(long)
        ended = 0
        while not spool.is_stopped:
            journalled(journal, ended, 10)
            ended += 10
        await recorder.record()
        assert spool.is_stopped, "what runs keeps all of it"
        await recorder.record()
        await recorder.sync()
        assert not spool.is_stopped
        long.outcome = OK
        journal.closed(long)
    assert await names(tmp_path, None) == [f"req-{number}" for number in range(ended)] + ["req-1000000"]


def _as_a_crash_leaves(folder: Path) -> Path:
    """A copy, so that there is one who goes on too."""
    copy = folder / "crashed"
    shutil.copytree(folder / "spool", copy / "spool")
    with closing(sqlite3.connect(folder / FILE)) as database:
        database.execute("VACUUM INTO ?", (str(copy / FILE),))
    return copy


async def test_a_recorder_that_is_stopped_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    for trial in range(40):
        folder = tmp_path / str(trial)
        async with recording_by_hand(folder) as (journal, recorder):
            journalled(journal, 0, 50)
            recording_now = asyncio.create_task(recorder.record())
            await asyncio.sleep(trial / 4_000)
            recording_now.cancel()
            with suppress(asyncio.CancelledError):
                await recording_now
        assert len(await names(folder, None)) == 50
        assert list((folder / "spool").iterdir()) == []


async def test_what_is_settled_is_on_the_disk_within_a_second_however_long_the_store_takes(tmp_path: Path) -> None:
    async with recording(tmp_path, None) as (journal, _):
        holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        journalled(journal, 0, 1)
        # By then the recorder waits for the database.
        await asyncio.sleep(1.0)
        journalled(journal, 1, 1)
        await asyncio.sleep(1.0)
        found = in_spools(tmp_path / "spool", "dec-1")
        holder.execute("ROLLBACK")
        holder.close()
    assert found is not None
    assert "end" in found.record
    assert len(await names(tmp_path, None)) == 2
