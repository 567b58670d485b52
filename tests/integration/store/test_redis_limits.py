"""Limits that several gateways share: what each of them sees of the others, and of Redis when it fails."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from app.assembly.stores import open_stores
from app.errors import RateLimited
from app.settings import load_settings
from app.store.limits.holders import Holders
from app.store.limits.limits import Limits, MemoryLimits, Slot
from app.store.limits.redis_limits import RedisLimits
from app.store.limits.scripts import HOLDERS
from app.telemetry import Telemetry
from tests.fakes.deployment import write_config
from tests.fakes.limiters import let_holders_be_gone, limiter, redis_limits
from tests.fakes.process import until
from tests.fakes.redis_server import RedisServer
from tests.fakes.world import FakeKey

pytestmark = pytest.mark.timing

# A lost moment, and the next question to Redis.
BACK_WITHIN_S = 7.0
BUDGET_US = 250.0
"""CPU that limits in Redis may cost a request over limits in memory."""


@pytest.fixture
async def two(redis_server: RedisServer) -> AsyncIterator[tuple[RedisLimits, RedisLimits]]:
    async with redis_limits(redis_server) as first, redis_limits(redis_server) as second:
        yield first, second


async def places(limits: Limits, key: FakeKey) -> int:
    """How many are free; all of them are free again after this."""
    slots: list[Slot] = []
    with suppress(RateLimited):
        while len(slots) < 100:
            slots.append(await limits.acquire(key, 0))
    for slot in slots:
        slot.release(0)
    await asyncio.sleep(0.02)
    return len(slots)


async def until_both_share(first: RedisLimits, second: RedisLimits) -> None:
    """Until Redis decides for both, and has heard all that the first has to tell: answers come in order."""
    await until(lambda: first.is_shared and second.is_shared, True, BACK_WITHIN_S)
    await first.beat()
    assert first.is_shared


async def test_concurrency_is_one_number_for_all(two: tuple[RedisLimits, RedisLimits]) -> None:
    first, second = two
    key = FakeKey(concurrency=3)
    slots = [await limits.acquire(key, 0) for limits in (first, second, first)]
    for limits in two:
        with pytest.raises(RateLimited, match="3 requests in flight"):
            await limits.acquire(key, 0)
    assert (first.fullness(), second.fullness()) == (0.02, 0.01), "how full each of them is, is its own"
    second.look(key)
    first.look(FakeKey(concurrency=3, requests_per_minute=1))
    with pytest.raises(RateLimited, match="2 requests in flight"):
        first.look(FakeKey(concurrency=2))
    slots[0].release(0)
    await asyncio.sleep(0.02)
    await second.acquire(key, 0)


async def test_a_caller_that_goes_from_one_to_the_other_never_has_two_places(
    two: tuple[RedisLimits, RedisLimits],
) -> None:
    key = FakeKey(concurrency=1)
    for number in range(200):
        (await two[number % 2].acquire(key, 0)).release(0)
        await asyncio.sleep(0.001)  # its next request is on its way


async def test_requests_and_tokens_are_taken_from_one_bucket(two: tuple[RedisLimits, RedisLimits]) -> None:
    first, second = two
    key = FakeKey(requests_per_minute=3, tokens_per_minute=100)
    for limits in (first, second, first):
        (await limits.acquire(key, 10)).release(30)
        await asyncio.sleep(0.02)
    with pytest.raises(RateLimited, match="3 requests per minute") as caught:
        await second.acquire(key, 0)
    assert caught.value.headers()["x-ratelimit-remaining-tokens"] == "10"


async def test_one_that_got_no_place_is_counted_by_all(two: tuple[RedisLimits, RedisLimits]) -> None:
    first, second = two
    key = FakeKey(requests_per_minute=3)
    first.count(key)
    first.count(key)
    await asyncio.sleep(0.02)
    second.look(key)
    second.count(key)
    await asyncio.sleep(0.02)
    with pytest.raises(RateLimited, match="3 requests per minute"):
        second.look(key)
    first.look(key)
    with pytest.raises(RateLimited, match="3 requests per minute"):
        await first.acquire(key, 0)
    with pytest.raises(RateLimited, match="3 requests per minute"):
        first.look(key)
    second.look(FakeKey(requests_per_minute=6))


async def test_what_got_no_place_while_redis_was_away_is_told_afterwards(redis_server: RedisServer) -> None:
    key = FakeKey(requests_per_minute=12)
    async with redis_limits(redis_server) as first, redis_limits(redis_server) as second:
        await until_both_share(first, second)
        await first.acquire(key, 0)
        redis_server.kill()
        for _ in range(6):
            first.count(key)
            await asyncio.sleep(0.02)
        assert not first.is_shared
        with pytest.raises(RateLimited, match="6 requests per minute"):
            await first.acquire(key, 0)
        redis_server.start()
        await until_both_share(first, second)
        left = int((await second.acquire(key, 0)).headers()["x-ratelimit-remaining-requests"])
        assert 4 <= left <= 6, "8 were taken in all, and one or two are there again"


async def test_a_key_without_limits_is_no_call(redis_server: RedisServer) -> None:
    async with redis_limits(redis_server) as limits:
        before = redis_server.do("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
        for _ in range(50):
            (await limits.acquire(FakeKey(), 100)).release(100)
        assert redis_server.do("INFO", "commandstats")["cmdstat_evalsha"]["calls"] == before
        assert limits.fullness() == 0


async def test_places_of_a_holder_that_is_silent_are_free_again(redis_server: RedisServer) -> None:
    key = FakeKey(concurrency=2)
    async with redis_limits(redis_server) as dead, limiter("redis", redis_server) as alive:
        await dead.acquire(key, 0)
        await alive.limits.acquire(key, 0)
        with pytest.raises(RateLimited):
            await alive.limits.acquire(key, 0)
        let_holders_be_gone(redis_server)
        assert isinstance(alive.limits, RedisLimits)
        await alive.limits.beat()
        alive.advance(1)
        await alive.limits.acquire(key, 0)
        with pytest.raises(RateLimited):
            await alive.limits.acquire(key, 0)


async def test_one_that_was_only_taken_for_gone_holds_its_places_again(redis_server: RedisServer) -> None:
    key = FakeKey(concurrency=2)
    async with redis_limits(redis_server) as asleep, limiter("redis", redis_server) as awake:
        slot = await asleep.acquire(key, 0)
        let_holders_be_gone(redis_server)
        assert isinstance(awake.limits, RedisLimits)
        await awake.limits.beat()
        assert await places(awake.limits, key) == 2
        await asleep.beat()
        assert await places(awake.limits, key) == 1
        slot.release(0)
        await asyncio.sleep(0.02)
        assert await places(awake.limits, key) == 2


async def test_places_of_one_that_leaves_are_free_at_once(redis_server: RedisServer) -> None:
    key = FakeKey(concurrency=1)
    async with limiter("redis", redis_server) as stays:
        async with redis_limits(redis_server) as leaves:
            await leaves.acquire(key, 0)
        stays.advance(1)
        assert await places(stays.limits, key) == 1
        assert redis_server.do("ZCARD", HOLDERS) == 1


async def test_who_leaves_before_redis_has_answered_holds_nothing(two: tuple[RedisLimits, RedisLimits]) -> None:
    key, rng = FakeKey(concurrency=10, tokens_per_minute=1_000), random.Random(7)
    for _ in range(100):
        tasks = [asyncio.ensure_future(two[0].acquire(key, 1)) for _ in range(4)]
        await asyncio.sleep(rng.choice((0, 0, 0.0001, 0.0005)))
        for task in tasks:
            task.cancel()
        for got in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(got, BaseException):
                got.release(0)
    await asyncio.sleep(0.05)
    assert two[0].fullness() == 0
    assert await places(two[1], key) == 10


@pytest.mark.parametrize("fault", ["kill", "pause", "run_out_of_memory", "become_read_only"])
async def test_without_redis_each_goes_on_with_its_share_and_tells_it_afterwards(
    redis_server: RedisServer, fault: str
) -> None:
    key = FakeKey(requests_per_minute=12, concurrency=4)
    async with redis_limits(redis_server) as first, redis_limits(redis_server) as second:
        await until_both_share(first, second)
        held = await first.acquire(key, 0)
        getattr(redis_server, fault)()
        began_at = time.monotonic()
        alone = [await first.acquire(key, 0)]
        assert time.monotonic() - began_at < 0.1
        assert not first.is_shared
        with pytest.raises(RateLimited, match="2 requests in flight"):
            await first.acquire(key, 0)
        for _ in range(4):
            alone.pop().release(0)
            alone.append(await first.acquire(key, 0))
        alone.pop().release(0)
        with pytest.raises(RateLimited, match="6 requests per minute"):
            await first.acquire(key, 0)
        began_at = time.monotonic()
        {"kill": redis_server.start, "pause": redis_server.resume}.get(fault, redis_server.recover)()
        await until_both_share(first, second)
        slot = await second.acquire(key, 0)
        left = int(slot.headers()["x-ratelimit-remaining-requests"])
        slot.release(0)
        await asyncio.sleep(0.02)
        assert 4 <= left <= 6, "7 were taken in all, and one or two are there again"
        assert await places(second, FakeKey(concurrency=4)) == 3, "the one from before is still held"
        held.release(0)
        await asyncio.sleep(0.02)
        assert await places(second, FakeKey(concurrency=4)) == 4


async def test_after_a_start_without_redis_each_has_its_share_until_it_is_up(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    key = FakeKey(requests_per_minute=60, concurrency=12)
    async with AsyncExitStack() as stack:
        for number in range(3):
            await stack.enter_async_context(redis_limits(redis_server, state_dir=tmp_path / str(number)))
        await until(lambda: Holders(tmp_path / "0", 1, time.monotonic).number, 3)
    redis_server.kill()
    async with (
        redis_limits(redis_server, state_dir=tmp_path / "0") as first,
        redis_limits(redis_server, state_dir=tmp_path / "new", processes=2) as newcomer,
    ):
        assert not first.is_shared
        assert await places(first, key) == 4
        assert await places(newcomer, key) == 6, "one that was never told knows of its own processes"
        redis_server.start()
        await until_both_share(first, newcomer)
        assert await places(first, key) == 12


async def test_of_a_gateway_that_never_saw_redis_each_process_has_its_share(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"small": "http://127.0.0.1:1"}, state_dir="state", store="redis://127.0.0.1:1/0")
    async with open_stores(load_settings(config), Telemetry(), processes=3) as stores:
        assert await places(stores.limits, FakeKey(concurrency=12)) == 4


async def test_a_value_that_is_not_ours_is_thrown_away(redis_server: RedisServer) -> None:
    key = FakeKey(concurrency=2)
    async with redis_limits(redis_server) as limits:
        for name in ("thalamus:limits:tester", HOLDERS):
            redis_server.do("SET", name, "not ours")
        assert await places(limits, key) == 2
        await limits.beat()
        assert limits.is_shared


@pytest.mark.parametrize("per_minute", [1e-13, 1e308])
async def test_no_limit_of_one_key_is_a_reason_to_leave_redis(redis_server: RedisServer, per_minute: float) -> None:
    """Redis takes no number of a thousand digits for a time or for an answer."""
    odd = FakeKey("odd", requests_per_minute=per_minute, tokens_per_minute=per_minute)
    async with redis_limits(redis_server) as limits:
        (await limits.acquire(odd, 10)).release(10**12)
        with suppress(RateLimited):
            left = (await limits.acquire(odd, 10)).headers()
            assert int(left["x-ratelimit-remaining-tokens"]) > 1e10
        await limits.beat()
        await limits.acquire(FakeKey("other", requests_per_minute=1), 0)
        assert limits.is_shared


async def test_a_redis_that_has_forgotten_all_is_told_what_is_held(redis_server: RedisServer) -> None:
    key = FakeKey(concurrency=2)
    async with redis_limits(redis_server) as first, redis_limits(redis_server) as second:
        await first.acquire(key, 0)
        redis_server.do("FLUSHALL")
        await first.beat()
        assert await places(second, key) == 1


async def test_connections_that_break_at_any_moment_leave_no_place_taken(redis_server: RedisServer) -> None:
    """Four holders under load whose connections are cut: concurrency is never exceeded while Redis decides."""
    key, rng = FakeKey(concurrency=6, tokens_per_minute=1e9), random.Random(11)
    async with AsyncExitStack() as stack:
        holders = [await stack.enter_async_context(redis_limits(redis_server)) for _ in range(4)]
        served = 0

        async def call(limits: RedisLimits) -> None:
            nonlocal served
            for _ in range(150):
                with suppress(RateLimited):
                    slot = await limits.acquire(key, 5)
                    await asyncio.sleep(rng.random() * 0.002)
                    slot.release(3)
                    served += 1
                await asyncio.sleep(0)

        calls = [asyncio.ensure_future(call(limits)) for limits in holders for _ in range(3)]
        while not all(one.done() for one in calls):
            redis_server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            for limits in holders:
                await limits.beat()
            await asyncio.sleep(0.01)
        await asyncio.gather(*calls)
        for limits in holders:
            await until(partial(getattr, limits, "is_shared"), True, BACK_WITHIN_S)
            assert limits.fullness() == 0
        await asyncio.sleep(0.6)
        assert served > 100
        assert await places(holders[0], key) == 6


@pytest.mark.slow
async def test_the_cost_of_sharing(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    """CPU of this process for one request's place, beside that of limits in memory, in the same run."""
    key = FakeKey(requests_per_minute=1e9, tokens_per_minute=1e9, concurrency=1_000)
    async with redis_limits(redis_server) as limits:
        figures = {}
        for callers in (1, 32):
            memory = await cpu_s(MemoryLimits(10_000, time.monotonic), key, callers)
            figures[f"memory_us_c{callers}"] = round(1e6 * memory, 1)
            figures[f"redis_us_c{callers}"] = round(1e6 * await cpu_s(limits, key, callers), 1)
        assert limits.is_shared
    with capsys.disabled():
        print(json.dumps({"row": "limits in Redis", **figures}))
    for callers in (1, 32):
        assert figures[f"redis_us_c{callers}"] - figures[f"memory_us_c{callers}"] < 3 * BUDGET_US


async def cpu_s(limits: Limits, key: FakeKey, callers: int, total: int = 3_200) -> float:
    """Of the best of three tries: other programs only ever add to it."""

    async def call() -> None:
        for _ in range(total // callers):
            slot = await limits.acquire(key, 100)
            slot.headers()
            await asyncio.sleep(0)
            slot.release(80)

    async def once() -> float:
        began_s = time.process_time()
        await asyncio.gather(*(call() for _ in range(callers)))
        return (time.process_time() - began_s) / total

    await call()
    return min([await once() for _ in range(3)])
