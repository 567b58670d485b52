"""What a store of the journal does: the same for SQLite and for Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from app.decisions import Decisions
from app.store.journal.kept import INTERRUPTED, Batch, Ended, Feedback, JournalStore, periods_of
from app.store.journal.redis_journal import LOOKED_BACK, PATIENCE_S, RedisJournal
from app.store.journal.spool import Spool
from app.store.journal.sqlite_journal import SqliteJournal
from app.store.keys.key import Key
from app.store.redis_client import RedisClient
from app.telemetry.metrics import Metrics
from tests.fakes.journal_process import OK, entry, recording
from tests.fakes.redis_server import RedisServer, running_redis

# 2026-11-27 12:00 UTC.
NOON = 1_795_780_800.0
DAY, MONTH = "2026-11-27", "2026-11"


@dataclass
class Place:
    """Where a journal is kept, and a second look into it."""

    folder: Path
    redis: RedisServer | None

    @property
    def url(self) -> str | None:
        return self.redis.url if self.redis else None

    def spent(self, key_id: str = "tester", period: str = DAY) -> float:
        if self.redis:
            return float(self.redis.do("HGET", f"thalamus:spent:{key_id}:{period}", "spent") or 0)
        return self._sqlite("SELECT usd FROM spent WHERE key_id = ? AND period = ?", key_id, period)

    def lend(self, holder: str, usd: float, key_id: str = "tester", period: str = DAY) -> None:
        if self.redis:
            self.redis.do("HSET", f"thalamus:spent:{key_id}:{period}", f"lease:{holder}", usd)
        else:
            self._sqlite("INSERT INTO leases VALUES (?, ?, ?, ?, 0) RETURNING usd", key_id, period, holder, usd)

    def lent(self, holder: str, key_id: str = "tester", period: str = DAY) -> float:
        if self.redis:
            return float(self.redis.do("HGET", f"thalamus:spent:{key_id}:{period}", f"lease:{holder}") or 0)
        return self._sqlite(
            "SELECT usd FROM leases WHERE key_id = ? AND period = ? AND holder = ?", key_id, period, holder
        )

    def _sqlite(self, statement: str, *values: object) -> float:
        from app.store.sqlite import open_database

        connection = open_database(self.folder)
        found = connection.execute(statement, values).fetchone()
        connection.close()
        return found[0] if found else 0.0


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield Place(tmp_path, None)
        return
    with running_redis(tmp_path) as server:
        yield Place(tmp_path, server)


@pytest.fixture
async def store(place: Place) -> AsyncIterator[JournalStore]:
    if place.redis is None:
        sqlite = SqliteJournal(place.folder)
        yield sqlite
        await sqlite.aclose()
        return
    client = RedisClient(place.redis.url, None, time.monotonic, PATIENCE_S)
    yield RedisJournal(client)
    await client.aclose()


def ended(seq: int, usd: float = 0.5, at: float = NOON, key_id: str = "tester", held_in: str | None = None) -> Ended:
    record = orjson.dumps({"request_id": f"req-{seq}", "key": key_id, "end": {"outcome": "ok"}})
    return Ended(seq, seq, at, key_id, f"dec-{seq}", usd, record, held_in)


def batch(*rows: Ended, until: int | None = None, spool: str = "one") -> Batch:
    return Batch(spool, until or rows[-1].seq, list(rows))


async def requests_in(store: JournalStore) -> list[str]:
    return [orjson.loads(record)["request_id"] for _, record in await store.after(None, 100)]


async def test_a_batch_is_applied_once_however_often_it_is_sent(store: JournalStore, place: Place) -> None:
    for _ in range(3):
        await store.apply(batch(ended(1), ended(2)))
    assert await store.applied("one") == 2
    assert await requests_in(store) == ["req-1", "req-2"]
    assert (place.spent(), place.spent(period=MONTH)) == (1.0, 1.0)


async def test_of_a_batch_that_was_applied_in_part_the_rest_is(store: JournalStore, place: Place) -> None:
    """As when a command that timed out is done after all, and its rows come again in another batch."""
    await store.apply(batch(ended(1), ended(2)))
    await store.apply(batch(ended(2), ended(3)))
    assert await requests_in(store) == ["req-1", "req-2", "req-3"]
    assert place.spent() == 1.5


async def test_a_batch_without_ends_moves_on_how_far_a_spool_has_come(store: JournalStore) -> None:
    await store.apply(Batch("one", 7))
    assert await store.applied("one") == 7
    await store.forget("one")
    assert await store.applied("one") == 0


async def test_money_counts_in_the_day_and_month_in_which_it_was_asked_for(store: JournalStore, place: Place) -> None:
    midnight = 1_796_083_200.0
    await store.apply(batch(ended(1, at=midnight - 0.001), ended(2, at=midnight, usd=0.25)))
    assert (place.spent(period="2026-11-30"), place.spent(period="2026-12-01")) == (0.5, 0.25)
    assert (place.spent(period="2026-11"), place.spent(period="2026-12")) == (0.5, 0.25)


async def test_what_a_process_had_been_lent_shrinks_by_what_it_spent(store: JournalStore, place: Place) -> None:
    place.lend("one", 2.0)
    await store.apply(batch(ended(1, held_in=DAY), ended(2, held_in=DAY)))
    assert place.lent("one") == pytest.approx(1.0)
    await store.apply(batch(ended(3, held_in=DAY), spool="two"))
    assert place.lent("two") == 0.0, "who was lent nothing owes nothing"
    assert place.lent("one") == pytest.approx(1.0)


async def test_only_what_was_held_of_a_day_or_month_is_lent_of_it_no_more(store: JournalStore, place: Place) -> None:
    """A budget may have been for days, or soft, or none, when a request was let in that ends under another."""
    for period in (DAY, MONTH):
        place.lend("one", 2.0, period=period)
    await store.apply(batch(ended(1, held_in=DAY), ended(2, usd=0.25, held_in=MONTH), ended(3, usd=0.125)))
    assert (place.lent("one"), place.lent("one", period=MONTH)) == (1.5, 1.75)
    assert (place.spent(), place.spent(period=MONTH)) == (0.875, 0.875)


async def test_a_tenth_of_a_micro_dollar_is_not_lost(store: JournalStore, place: Place) -> None:
    await store.apply(batch(*[ended(number, usd=1.3e-7) for number in range(1, 51)]))
    assert place.spent() == pytest.approx(50 * 1.3e-7, rel=1e-6)


async def test_a_record_is_found_by_its_decision(store: JournalStore) -> None:
    await store.apply(batch(ended(1), ended(2)))
    found = await store.find("dec-2")
    assert found is not None
    assert (found.key_id, found.record["request_id"], found.feedback) == ("tester", "req-2", None)
    assert await store.find("dec-3") is None


async def test_of_feedback_the_later_one_holds(store: JournalStore) -> None:
    def told(seq: int, at: float, score: float) -> Feedback:
        payload = {"decision_id": "dec-1", "key": "tester", "score": score, "time": at}
        return Feedback(seq, at, "tester", "dec-1", orjson.dumps(payload))

    await store.apply(batch(ended(1)))
    await store.apply(Batch("one", 3, feedback=[told(2, NOON, 1.0), told(3, NOON + 1, 0.0)]))
    await store.apply(Batch("two", 1, feedback=[told(1, NOON - 1, 0.5)]))
    assert await store.feedback(["dec-1", "dec-2"]) == {"dec-1": {"score": 0.0, "time": NOON + 1}}
    found = await store.find("dec-1")
    assert found is not None
    assert found.feedback == {"score": 0.0, "time": NOON + 1}


async def test_records_are_read_on_from_any_place(store: JournalStore) -> None:
    await store.apply(batch(*[ended(number) for number in range(1, 11)]))
    before = await store.place_before(4)
    latest = await store.after(before, 100)
    assert [orjson.loads(record)["request_id"] for _, record in latest] == ["req-7", "req-8", "req-9", "req-10"]
    assert await store.after(latest[-1][0], 100) == []
    assert len(await store.after(await store.place_before(100), 100)) == 10


async def test_a_place_is_found_however_far_back_it_is(store: JournalStore) -> None:
    for first in range(1, 601, 100):
        await store.apply(batch(*[ended(number) for number in range(first, first + 100)]))
    for latest in (0, 1, 199, 200, 201, 399, 599, 600, 601, 100_000):
        found = await store.after(await store.place_before(latest), 1_000)
        assert [orjson.loads(record)["request_id"] for _, record in found[:1]] == [
            f"req-{max(1, 601 - latest)}" for _ in range(min(1, latest))
        ]
        assert len(found) == min(latest, 600)


async def test_redis_is_not_asked_for_much_at_a_time(redis_server: RedisServer) -> None:
    """While it reads, nobody else is served."""

    async def reads(store: JournalStore, latest: int) -> int:
        redis_server.do("CONFIG", "RESETSTAT")
        await store.place_before(latest)
        calls: int = redis_server.do("INFO", "commandstats").get("cmdstat_xrevrange", {}).get("calls", 0)
        return calls

    async with aclosing(RedisClient(redis_server.url, None, time.monotonic, PATIENCE_S)) as client:
        store = RedisJournal(client)
        for first in range(1, 1_001, 100):
            await store.apply(batch(*[ended(number) for number in range(first, first + 100)]))
        assert [await reads(store, latest) for latest in (10, 999, 1_000, 50_000)] == [1, 1_000 // LOOKED_BACK, 0, 0]


async def test_a_gateway_that_dies_leaves_its_requests_as_interrupted_at_what_was_held_back(place: Place) -> None:
    spool = Spool(place.folder / "spool")
    async with recording(place.folder, place.url) as (journal, recorder):
        dead, journal.spool = journal.spool, spool
        for number, reserved_usd in enumerate((None, 0.125), 1):
            one = entry(number)
            journal.admitted(one)
            one.reserved_usd = reserved_usd
            journal.decided(one)
        spool.close(is_done=False)
        journal.spool = dead
        await recorder.recover()
        found = await journal.look_up("dec-2", "tester")
    assert found is not None
    end = found.record["end"]
    assert (end["outcome"], end["cost_usd"], end["reconstructed"], end["model"]) == (INTERRUPTED, 0.125, True, "small")
    assert place.spent(period=periods_of(found.record["time"])[0]) == 0.125
    assert not spool.path.exists()


async def test_an_end_of_the_gateway_flushes_all_that_was_journalled(place: Place, store: JournalStore) -> None:
    async with recording(place.folder, place.url) as (journal, _):
        for number in range(300):
            one = entry(number)
            journal.admitted(one)
            journal.decided(one)
            one.outcome = OK
            journal.closed(one)
    assert len(await store.after(None, 1_000)) == 300
    assert list((place.folder / "spool").iterdir()) == []


async def test_a_decision_of_another_process_is_found_before_it_is_recorded(place: Place) -> None:
    async with recording(place.folder, place.url) as (journal, _), recording(place.folder, place.url) as (other, _):
        one = entry(1)
        journal.admitted(one)
        journal.decided(one)
        running = await other.look_up("dec-1", "tester")
        assert running is not None
        assert "end" not in running.record
        assert await other.look_up("dec-1", "somebody else") is None
        assert await other.look_up("dec-", "tester") is None
        one.outcome = OK
        journal.closed(one)
        await asyncio.sleep(0.7)
        over = await other.look_up("dec-1", "tester")
        assert over is not None
        assert over.record["end"]["outcome"] == "ok"


async def test_who_asks_another_process_at_once_hears_the_rest_that_comes_within_a_second(place: Place) -> None:
    async with recording(place.folder, place.url) as (journal, _), recording(place.folder, place.url) as (other, _):
        decisions = Decisions(other, lambda _: {}, time.monotonic, Metrics())
        one = entry(1)
        journal.admitted(one)
        journal.decided(one)
        assert (await decisions.record("dec-1", Key("tester")))["outcome"] is None
        asked = asyncio.create_task(decisions.record("dec-1", Key("tester")))
        await asyncio.sleep(0.1)
        one.outcome = OK
        journal.closed(one)
        record = await asked
        assert record["asked"] is not None
        assert record["outcome"]["result"] == "ok"
