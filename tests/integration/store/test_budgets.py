"""Budgets over both banks: the same promises, on SQLite and on a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.errors import BudgetSpent, BudgetUnavailable
from app.store.keys.key import Budget
from app.store.money.accounts import Hold
from app.store.money.budgets import TELL_AGAIN_S, Bank, Purse
from app.store.money.redis_bank import QUIET_S, RedisBank
from app.store.money.sqlite_bank import SqliteBank
from app.store.redis_client import LEFT_ALONE_S, RedisClient
from app.store.sqlite import open_database, transaction
from tests.fakes.clock import FakeClock
from tests.fakes.redis_server import RedisServer, running_redis
from tests.fakes.sqlite_bank import break_leases, mend_leases

pytestmark = pytest.mark.timing

NOW = 1_795_700_000.0
"""Some time on 2026-11-26."""
DAY, MONTH = "2026-11-26", "2026-11"
BUDGET = Budget(10.0)
SILENT_S, LONG_S = 0.4, 600.0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@dataclass
class Town:
    """Purses on one bank, and the journal's part: what was spent is recorded."""

    kind: str
    folder: Path
    redis: RedisServer
    stack: AsyncExitStack
    wall: FakeClock = field(default_factory=lambda: FakeClock(NOW))
    clock: Callable[[], float] = time.monotonic
    quiet_s: float = QUIET_S
    """For so long nothing is lent after a loss."""

    async def purse(self, holder: str, silent_s: float = LONG_S) -> Purse:
        purse = Purse(self.bank(holder, silent_s), self.clock, self.wall)
        await purse.tend()
        self.stack.push_async_callback(purse.__aexit__)
        return purse

    def bank(self, holder: str, silent_s: float = LONG_S) -> Bank:
        if self.kind == "sqlite":
            return SqliteBank(self.folder, holder, silent_s=silent_s)
        client = RedisClient(self.redis.url, None, time.monotonic)
        self.stack.push_async_callback(client.aclose)
        return RedisBank(client, holder, silent_s, self.quiet_s)

    def record(self, holder: str, usd: float, key_id: str = "k", period: str = DAY) -> None:
        if self.kind == "redis":
            name = f"thalamus:spent:{key_id}:{period}"
            self.redis.do("HINCRBYFLOAT", name, "spent", usd)
            self.redis.do("HINCRBYFLOAT", name, f"lease:{holder}", -usd)
            return
        connection = open_database(self.folder)
        with transaction(connection):
            where = (key_id, period)
            connection.execute("INSERT OR IGNORE INTO spent VALUES (?, ?, 0)", where)
            connection.execute("UPDATE spent SET usd = usd + ? WHERE key_id = ? AND period = ?", (usd, *where))
            connection.execute(
                "UPDATE leases SET usd = usd - ? WHERE key_id = ? AND period = ? AND holder = ?", (usd, *where, holder)
            )
        connection.close()

    def fail(self) -> None:
        """From now on the bank can write nothing."""
        if self.kind == "redis":
            self.redis.become_read_only()
        else:
            break_leases(self.folder)

    def recover(self) -> None:
        if self.kind == "redis":
            self.redis.recover()
        else:
            mend_leases(self.folder)

    async def left(self, most: float = 1e-6) -> float:
        """What somebody new can still get of the whole budget."""
        purse = await self.purse("auditor")
        account = purse.account("k", BUDGET)
        hold = await purse.draw(account, BUDGET.usd, most)
        taken_usd = hold.usd
        hold.settle(0.0)
        account.is_used = False
        await purse.tend()
        return taken_usd


@pytest.fixture(params=["sqlite", "redis"])
async def town(request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer) -> AsyncIterator[Town]:
    async with _town(request.param, tmp_path, redis) as made:
        yield made


@asynccontextmanager
async def _town(kind: str, folder: Path, redis: RedisServer) -> AsyncIterator[Town]:
    if kind == "redis":
        redis.do("FLUSHALL")
        redis.do("HSET", "thalamus:bank", "epoch", "first", "heard", str(redis.do("TIME")[0] + 1))
    async with AsyncExitStack() as stack:
        yield Town(kind, folder, redis, stack)


async def _hold(purse: Purse, usd: float, budget: Budget = BUDGET, least: float | None = None) -> Hold:
    account = purse.account("k", budget)
    return purse.take(account, usd) or await purse.draw(account, usd, usd if least is None else least)


async def test_a_budget_for_ten_admits_ten_from_two_processes(town: Town) -> None:
    purses = [await town.purse("a"), await town.purse("b")]
    held = await asyncio.gather(*(_hold(purses[n % 2], 1.0) for n in range(200)), return_exceptions=True)
    assert sum(isinstance(one, Hold) for one in held) == 10
    assert all(isinstance(one, Hold | BudgetSpent) for one in held)


async def test_most_requests_ask_no_bank(town: Town) -> None:
    purse = await town.purse("a")
    account = purse.account("k", BUDGET)
    first = await _hold(purse, 0.01)
    assert account.free_usd == pytest.approx(0.05 * 10 - 0.01)
    assert all(purse.take(account, 0.01) for _ in range(49))
    assert purse.take(account, 0.01) is None
    assert first.usd == 0.01


async def test_what_was_not_spent_can_be_held_again(town: Town) -> None:
    purse = await town.purse("a")
    hold = await _hold(purse, 10.0)
    with pytest.raises(BudgetSpent, match="held for requests in flight") as refused:
        await _hold(purse, 1.0)
    assert (refused.value.may_retry, refused.value.retry_after_s) == (True, 1)
    hold.settle(4.0)
    assert (await _hold(purse, 6.0)).usd == pytest.approx(6.0)


async def test_a_spent_budget_says_when_the_next_begins(town: Town) -> None:
    purse = await town.purse("a")
    (await _hold(purse, 10.0)).settle(9.5)
    with pytest.raises(BudgetSpent, match=r"\$10 a day is spent: \$0.500000 is left.* 2026-11-27T00:00:00Z") as refused:
        await _hold(purse, 1.0)
    assert (refused.value.may_retry, refused.value.headers()["x-should-retry"]) == (False, "false")
    assert NOW + (refused.value.retry_after_s or 0) == pytest.approx(1_795_737_600, abs=2)


async def test_recording_what_was_spent_changes_nothing_that_is_left(town: Town) -> None:
    purse = await town.purse("a")
    (await _hold(purse, 4.0)).settle(3.0)
    account = purse.account("k", BUDGET)
    for usd in (1.0, 2.0):
        before = account.free_usd
        town.record("a", usd)
        account.is_used, account.largest_usd = True, BUDGET.usd
        await purse.tend()
        assert account.free_usd == pytest.approx(before)
    assert purse.told()[0].spent_usd == pytest.approx(3.0)
    assert account.known_spent_usd == pytest.approx(3.0)


async def test_idle_slices_go_back(town: Town) -> None:
    purse = await town.purse("a")
    (await _hold(purse, 6.0)).settle(1.0)
    await purse.tend()
    await purse.tend()
    assert await town.left() == pytest.approx(9.0)


async def test_what_is_left_is_lent_where_less_will_do(town: Town) -> None:
    one, other = await town.purse("a"), await town.purse("b")
    await _hold(one, 9.0)
    assert (await _hold(other, 5.0, least=0.5)).usd == pytest.approx(1.0)


async def test_a_dead_holder_loses_what_it_was_lent_but_not_what_it_spent(town: Town) -> None:
    dead, alive = await town.purse("dead", SILENT_S), await town.purse("alive", SILENT_S)
    (await _hold(dead, 5.0)).settle(2.0)
    town.record("dead", 2.0)
    with pytest.raises(BudgetSpent):
        await _hold(alive, 8.0)
    for _ in range(7):
        await asyncio.sleep(0.1)
        await alive.tend()
    assert (await _hold(alive, 8.0)).usd == pytest.approx(8.0)


async def test_a_holder_that_lives_keeps_what_it_was_lent(town: Town) -> None:
    slow, other = await town.purse("slow", SILENT_S), await town.purse("other", SILENT_S)
    await _hold(slow, 5.0)
    for _ in range(6):
        await asyncio.sleep(SILENT_S / 3)
        await slow.tend()
    with pytest.raises(BudgetSpent):
        await _hold(other, 6.0)


async def test_a_holder_that_was_taken_for_dead_claims_what_is_in_flight(town: Town) -> None:
    other = await town.purse("other", SILENT_S)
    town.clock = clock = FakeClock(time.monotonic())
    slept = await town.purse("slept", SILENT_S)
    hold = await _hold(slept, 5.0)
    clock.advance(LONG_S)
    for _ in range(7):
        await asyncio.sleep(0.1)
        await other.tend()
    (await _hold(other, 1.0)).settle(0.0)
    await slept.tend()
    with pytest.raises(BudgetSpent):
        await _hold(other, 6.0)
    hold.settle(1.0)
    assert slept.account("k", BUDGET).free_usd == pytest.approx(4.0)


async def test_a_request_dearer_than_its_worst_case_is_made_up_for(town: Town) -> None:
    purse = await town.purse("a")
    (await _hold(purse, 1.0)).settle(3.0)
    await purse.tend()
    town.record("a", 3.0)
    assert await town.left() == pytest.approx(7.0)


async def test_a_new_day_begins_with_a_whole_budget(town: Town) -> None:
    purse = await town.purse("a")
    late = await _hold(purse, 9.0)
    town.wall.advance(86_400)
    assert (await _hold(purse, 10.0)).usd == 10.0
    late.settle(9.0)
    with pytest.raises(BudgetSpent):
        await _hold(purse, 0.1)


async def test_a_month_lasts_longer_than_a_day(town: Town) -> None:
    purse, budget = await town.purse("a"), Budget(10.0, "month")
    (await _hold(purse, 10.0, budget)).settle(10.0)
    town.wall.advance(86_400)
    with pytest.raises(BudgetSpent, match=r"\$10 a month is spent.* 2026-12-01T00:00:00Z"):
        await _hold(purse, 1.0, budget)


async def test_a_soft_budget_refuses_nothing_and_tells_how_far_it_is_overdrawn(town: Town) -> None:
    purse, budget = await town.purse("a"), Budget(1.0, hard=False)
    hold = await _hold(purse, 5.0, budget)
    assert hold.over_usd == 0.0
    hold.settle(1.5)
    town.record("a", 1.5)
    await purse.tend()
    assert (await _hold(purse, 5.0, budget)).over_usd == pytest.approx(0.5)


async def test_who_leaves_while_money_is_fetched_takes_none_with_him(town: Town) -> None:
    purse = await town.purse("a")
    account = purse.account("k", BUDGET)
    waiting = asyncio.create_task(_hold(purse, 9.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0.2)
    assert account.reserved_usd == 0.0
    assert (await _hold(purse, 10.0)).usd == 10.0


async def test_a_purse_gives_everything_back_when_it_is_closed(town: Town) -> None:
    async with Purse(town.bank("a"), town.clock, town.wall) as purse:
        (await _hold(purse, 6.0)).settle(1.0)
    town.record("a", 1.0)
    assert await town.left() == pytest.approx(9.0)


async def test_what_was_to_go_back_while_the_bank_failed_is_free_again(town: Town) -> None:
    purse = await town.purse("a")
    (await _hold(purse, 6.0)).settle(1.0)
    await purse.tend()
    town.fail()
    for _ in range(2):
        await purse.tend()
    town.recover()
    for _ in range(3):
        await purse.tend()
    assert await town.left() == pytest.approx(9.0)


# What only Redis does.


Loss = Callable[[RedisServer], None]
"""What Redis does with the data that it has."""


def _evict(redis: RedisServer) -> None:
    redis.do("DEL", f"thalamus:spent:k:{DAY}")


def _evict_and_record(redis: RedisServer) -> None:
    _evict(redis)
    redis.do("HINCRBYFLOAT", f"thalamus:spent:k:{DAY}", "spent", 0.1)


def _evict_what_never_expires(redis: RedisServer) -> None:
    _evict(redis)
    redis.do("DEL", "thalamus:accounts")


def _forget_what_was_spent(redis: RedisServer) -> None:
    redis.do("HDEL", f"thalamus:spent:k:{DAY}", "spent")


@pytest.fixture
async def redis_town(tmp_path: Path, redis: RedisServer) -> AsyncIterator[Town]:
    async with _town("redis", tmp_path, redis) as made:
        yield made


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        (RedisServer.pause, RedisServer.resume),
        (RedisServer.kill, RedisServer.start),
        (RedisServer.run_out_of_memory, RedisServer.recover),
        (RedisServer.become_read_only, RedisServer.recover),
    ],
)
async def test_hard_budgets_are_closed_while_redis_is_away_and_soft_ones_are_not(
    redis_town: Town, break_it: Callable[[RedisServer], None], mend_it: Callable[[RedisServer], None]
) -> None:
    purse = await redis_town.purse("a")
    hold = await _hold(purse, 1.0)
    break_it(redis_town.redis)
    try:
        with pytest.raises(BudgetUnavailable):
            await _hold(purse, 1.0)
        assert purse.take(purse.account("soft", Budget(1.0, hard=False)), 5.0)
    finally:
        mend_it(redis_town.redis)
    hold.settle(1.0)
    async with asyncio.timeout(10):
        while purse.account("k", BUDGET).is_in_doubt:
            await asyncio.sleep(0.1)
            await purse.tend()
    assert (await _hold(purse, 9.0)).usd == pytest.approx(9.0)


async def test_a_slice_is_not_trusted_for_long_without_its_bank(redis_town: Town) -> None:
    clock = FakeClock(time.monotonic())
    redis_town.clock = clock
    purse = await redis_town.purse("a")
    await _hold(purse, 0.1)
    account = purse.account("k", BUDGET)
    redis_town.redis.pause()
    try:
        assert purse.take(account, 0.1)
        clock.advance(3.1)
        assert purse.take(account, 0.1) is None
        with pytest.raises(BudgetUnavailable):
            await _hold(purse, 0.1)
    finally:
        redis_town.redis.resume()


async def test_a_lent_answer_that_was_lost_is_found_again(redis_town: Town) -> None:
    """Redis does what it was asked when it wakes, though nobody waits for the answer."""
    purse = await redis_town.purse("a")
    await _hold(purse, 1.0)
    redis_town.redis.pause()
    with pytest.raises(BudgetUnavailable):
        await _hold(purse, 5.0)
    redis_town.redis.resume()
    async with asyncio.timeout(10):
        while purse.account("k", BUDGET).is_in_doubt:
            await asyncio.sleep(0.1)
            await purse.tend()
    await purse.tend()
    assert await redis_town.left() == pytest.approx(9.0)


async def test_a_flushed_redis_lends_nothing_before_all_have_said_what_they_know(redis_town: Town) -> None:
    one, other = await redis_town.purse("a"), await redis_town.purse("b")
    (await _hold(one, 5.0)).settle(4.0)
    await _hold(other, 3.0)
    for purse in (other, other, one, one):
        await purse.tend()
    redis_town.record("a", 4.0)
    one.account("k", BUDGET).is_used = True
    await one.tend()
    redis_town.redis.do("FLUSHALL")

    stranger = await redis_town.purse("c")
    with pytest.raises(BudgetUnavailable):
        await _hold(stranger, 0.1)
    began_at = time.monotonic()
    await asyncio.sleep(LEFT_ALONE_S)
    for purse in (one, other):
        await purse.tend()
    with pytest.raises(BudgetUnavailable):
        await _hold(other, 0.1)
    await asyncio.sleep(QUIET_S + 0.2)
    assert time.monotonic() - began_at < 2 * QUIET_S
    assert (await _hold(stranger, 10.0, least=0.1)).usd == pytest.approx(10.0 - 4.0 - 3.0)


async def test_the_first_to_start_waits_for_those_that_had_left_redis_alone(redis_town: Town) -> None:
    redis_town.redis.do("FLUSHALL")
    began_at = time.monotonic()
    async with Purse(redis_town.bank("a"), redis_town.clock, redis_town.wall) as purse:
        assert LEFT_ALONE_S < time.monotonic() - began_at < QUIET_S + 1.0
        await _hold(purse, 1.0)
    began_at = time.monotonic()
    async with Purse(redis_town.bank("b"), redis_town.clock, redis_town.wall):
        assert time.monotonic() - began_at < 1.0


async def _spend_and_rest(town: Town, purse: Purse, holder: str, usd: float) -> None:
    (await _hold(purse, usd)).settle(usd)
    town.record(holder, usd)
    for _ in range(3):
        await purse.tend()


@pytest.fixture
def impatient_town(redis_town: Town) -> Town:
    """Whose holders all speak often enough for a short wait."""
    redis_town.quiet_s = 1.5
    return redis_town


async def _left_after_a_loss(purses: list[Purse]) -> float:
    """What the last of them gets of the budget when Redis lends again; until then all have closed."""
    began_at = time.monotonic()
    while True:
        await asyncio.gather(*(purse.tend() for purse in purses))
        try:
            return (await _hold(purses[-1], 10.0, least=0.01)).usd
        except BudgetUnavailable:
            assert time.monotonic() - began_at < 2 * QUIET_S
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("lose", [_evict, _evict_and_record])
async def test_who_never_heard_of_an_account_is_lent_nothing_of_it_when_it_was_evicted(
    impatient_town: Town, lose: Loss
) -> None:
    one, other = await impatient_town.purse("a"), await impatient_town.purse("b")
    await _spend_and_rest(impatient_town, one, "a", 4.0)
    lose(impatient_town.redis)
    with pytest.raises(BudgetUnavailable):
        await _hold(other, 0.1)
    assert await _left_after_a_loss([one, other]) == pytest.approx(6.0)


@pytest.mark.parametrize("lose", [_evict, _evict_what_never_expires, _forget_what_was_spent])
async def test_a_loss_is_noticed_though_nobody_spends(redis_town: Town, lose: Loss) -> None:
    redis_town.clock = clock = FakeClock(time.monotonic())
    one = await redis_town.purse("a")
    await _spend_and_rest(redis_town, one, "a", 4.0)
    lose(redis_town.redis)
    clock.advance(TELL_AGAIN_S + 1.0)
    await one.tend()
    with pytest.raises(BudgetUnavailable):
        await _hold(one, 0.1)
    assert float(redis_town.redis.do("HGET", f"thalamus:spent:k:{DAY}", "spent")) == pytest.approx(4.0)


async def test_a_redis_that_goes_back_hears_what_was_spent_and_lent_since(impatient_town: Town) -> None:
    one, other = await impatient_town.purse("a"), await impatient_town.purse("b")
    await _hold(other, 1.0)
    await _spend_and_rest(impatient_town, one, "a", 2.0)
    earlier = impatient_town.redis.copy()
    await _spend_and_rest(impatient_town, one, "a", 1.5)
    lent = await _hold(one, 2.5)
    await other.tend()
    impatient_town.redis.go_back(earlier)

    await other.tend()
    with pytest.raises(BudgetUnavailable):
        await _hold(other, 0.1)
    assert await _left_after_a_loss([one, other]) == pytest.approx(10.0 - 3.5 - 1.0 - lent.usd)


async def test_a_loss_that_was_made_up_for_is_none(impatient_town: Town) -> None:
    one, other = await impatient_town.purse("a"), await impatient_town.purse("b")
    await _spend_and_rest(impatient_town, one, "a", 4.0)
    _evict(impatient_town.redis)
    assert await _left_after_a_loss([one, other]) == pytest.approx(6.0)
    for purse in (one, other, one, other):
        await purse.tend()
    (await _hold(other, 0.0)).settle(0.0)


async def test_a_newcomer_takes_none_of_those_for_dead_whom_redis_was_away_from(redis_town: Town) -> None:
    one = await redis_town.purse("a", SILENT_S)
    hold = await _hold(one, 5.0)
    await asyncio.sleep(SILENT_S + 0.1)
    stranger = await redis_town.purse("b", SILENT_S)
    with pytest.raises(BudgetUnavailable):
        await _hold(stranger, 6.0)
    await one.tend()
    assert float(redis_town.redis.do("HGET", f"thalamus:spent:k:{DAY}", "lease:a")) >= hold.usd
