"""What holds for limits wherever they are kept: in one process, between processes of a machine, or in Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from app.errors import RateLimited
from app.store.limits.limits import MemoryLimits
from tests.fakes.clock import FakeClock
from tests.fakes.limiters import Limiter, limiter
from tests.fakes.redis_server import RedisServer, running_redis
from tests.fakes.world import FakeKey

pytestmark = pytest.mark.timing

KINDS = ("memory", "shared", "redis")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=KINDS)
async def one(redis: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[Limiter]:
    redis.do("FLUSHALL")
    async with limiter(request.param, redis) as made:
        yield made


async def take(limiter: Limiter, key: FakeKey, tokens: int = 0, used: int = 0) -> None:
    (await limiter.limits.acquire(key, tokens)).release(used)


async def test_a_key_has_as_many_requests_in_flight_as_it_may_and_no_more(one: Limiter) -> None:
    key = FakeKey(concurrency=2)
    slots = [await one.limits.acquire(key, 0) for _ in range(2)]
    with pytest.raises(RateLimited, match="2 requests in flight") as caught:
        await one.limits.acquire(key, 0)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    await one.limits.acquire(FakeKey(id="another", concurrency=1), 0)
    slots[0].release(0)
    slots[0].release(0)
    await one.limits.acquire(key, 0)
    with pytest.raises(RateLimited):
        await one.limits.acquire(key, 0)


async def test_many_that_come_at_once_get_no_place_too_many(one: Limiter) -> None:
    key = FakeKey(concurrency=7)
    answers = await asyncio.gather(*(one.limits.acquire(key, 0) for _ in range(50)), return_exceptions=True)
    assert sum(not isinstance(answer, Exception) for answer in answers) == 7


async def test_all_keys_together_fill_the_gateway(one: Limiter) -> None:
    slots = [
        await one.limits.acquire(FakeKey(id=name, concurrency=limit), 0) for name, limit in (("a", 1), ("b", None))
    ]
    assert one.limits.fullness() == 0.02
    with pytest.raises(RateLimited):
        await one.limits.acquire(FakeKey(id="a", concurrency=1), 0)
    assert one.limits.fullness() == 0.02
    for slot in slots:
        slot.release(0)
        slot.release(0)
    assert one.limits.fullness() == 0


async def test_one_that_gets_no_place_uses_a_request_and_nothing_else(one: Limiter) -> None:
    key = FakeKey(requests_per_minute=3, tokens_per_minute=100, concurrency=1)
    one.limits.count(FakeKey(id="free"))
    one.limits.count(key)
    slot = await one.limits.acquire(key, 10)
    left = slot.headers()
    assert (left["x-ratelimit-remaining-requests"], left["x-ratelimit-remaining-tokens"]) == ("1", "90")
    slot.release(10)
    one.limits.count(key)
    with pytest.raises(RateLimited, match="3 requests per minute"):
        one.limits.look(key)
    await asyncio.sleep(0.02)
    with pytest.raises(RateLimited, match="3 requests per minute"):
        await one.limits.acquire(key, 10)
    one.advance(20)
    one.limits.look(key)
    await take(one, key)


async def test_who_never_gets_a_place_is_over_the_limit_in_the_end(one: Limiter) -> None:
    key = FakeKey(requests_per_minute=3)
    for _ in range(3):
        one.limits.look(key)
        one.limits.count(key)
        await asyncio.sleep(0.02)
    with pytest.raises(RateLimited, match="3 requests per minute") as caught:
        one.limits.look(key)
    assert caught.value.retry_after_s == 20
    assert caught.value.headers()["x-ratelimit-remaining-requests"] == "0"


async def test_a_key_hears_what_it_has_left(one: Limiter) -> None:
    key = FakeKey(requests_per_minute=60, tokens_per_minute=1_000_000)
    slot = await one.limits.acquire(key, 250_000)
    assert slot.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-tokens": "750000",
        "x-ratelimit-reset-tokens": "15s",
    }
    one.advance(15)
    assert slot.headers()["x-ratelimit-remaining-tokens"] == "1000000"
    free = await one.limits.acquire(FakeKey(id="free"), 0)
    assert free.headers() == {}, "there is nothing to be left of no limit"


@pytest.mark.parametrize("concurrency", [1, None])
async def test_who_is_refused_hears_what_is_left_too(one: Limiter, concurrency: int | None) -> None:
    key = FakeKey(requests_per_minute=1, concurrency=concurrency)
    await one.limits.acquire(key, 0)
    with pytest.raises(RateLimited) as caught:
        await one.limits.acquire(key, 0)
    headers = caught.value.headers()
    assert headers["retry-after"] == ("1" if concurrency else "60")
    assert (headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-reset-requests"]) == ("0", "60s")


async def test_requests_per_minute_refill_evenly(one: Limiter) -> None:
    key = FakeKey(requests_per_minute=6)
    for _ in range(6):
        await take(one, key)
    with pytest.raises(RateLimited, match="6 requests per minute") as caught:
        await take(one, key)
    assert caught.value.retry_after_s == 10
    one.advance(10)
    await take(one, key)
    with pytest.raises(RateLimited):
        await take(one, key)


async def test_tokens_are_taken_as_expected_and_settled_as_used(one: Limiter) -> None:
    key = FakeKey(tokens_per_minute=600)
    slot = await one.limits.acquire(key, 500)
    with pytest.raises(RateLimited):
        await take(one, key, 200)
    slot.release(100)
    await take(one, key, 500, used=700)
    with pytest.raises(RateLimited, match="600 tokens per minute") as caught:
        await take(one, key, 10)
    assert caught.value.retry_after_s == 21, "200 tokens of debt and 10 more, at 10 a second"
    one.advance(21)
    await take(one, key, 10)


async def test_a_request_larger_than_a_minutes_tokens_is_not_refused_for_ever(one: Limiter) -> None:
    await take(one, FakeKey(tokens_per_minute=600), 10_000)


async def test_a_refused_request_takes_nothing(one: Limiter) -> None:
    key = FakeKey(requests_per_minute=2, tokens_per_minute=100, concurrency=1)
    await take(one, key, 60, used=60)
    for _ in range(5):
        with pytest.raises(RateLimited, match="100 tokens"):
            await take(one, key, 90)
    await take(one, key, 40, used=40)
    assert one.limits.fullness() == 0


async def test_other_limits_keep_what_was_used_and_what_is_held(one: Limiter) -> None:
    before = FakeKey(requests_per_minute=10, concurrency=2)
    held = await one.limits.acquire(before, 0)
    for _ in range(4):
        await take(one, before)
    after = FakeKey(requests_per_minute=20, concurrency=1)
    one.limits.adopt(100, [after])
    with pytest.raises(RateLimited, match="1 requests in flight"):
        await take(one, after)
    held.release(0)
    for _ in range(10):
        await take(one, after)
    with pytest.raises(RateLimited, match="20 requests per minute"):
        await take(one, after)


async def test_a_limit_that_is_new_or_gone_counts_from_then_on(one: Limiter) -> None:
    await take(one, FakeKey(tokens_per_minute=10), 10, used=10)
    after = FakeKey(requests_per_minute=1)
    one.limits.adopt(100, [after])
    await take(one, after, 1_000, used=1_000)
    with pytest.raises(RateLimited, match="1 requests per minute"):
        await take(one, after)


async def test_a_smaller_gateway_is_fuller(one: Limiter) -> None:
    slots = [await one.limits.acquire(FakeKey(concurrency=9), 0) for _ in range(3)]
    one.limits.adopt(2, [FakeKey(concurrency=9)])
    assert one.limits.fullness() == 1.5
    for slot in slots:
        slot.release(0)
    assert one.limits.fullness() == 0


@pytest.mark.parametrize("one", ["shared", "redis"], indirect=True)
@pytest.mark.parametrize("seed", range(20))
async def test_all_of_them_decide_alike(one: Limiter, seed: int) -> None:
    """Against the simplest of them. Amounts and pauses are such that no decision hangs on a millisecond."""
    rng, clock = random.Random(seed), FakeClock()
    alone = Limiter(MemoryLimits(100, clock), clock)
    key = FakeKey(concurrency=3, requests_per_minute=20, tokens_per_minute=200)
    held: list[tuple[Any, Any]] = []
    for _ in range(40):
        tokens = rng.randrange(0, 120, 10)
        verdicts = [await verdict(limiter, key, tokens) for limiter in (one, alone)]
        assert isinstance(verdicts[0], str) == isinstance(verdicts[1], str), verdicts
        if isinstance(verdicts[0], str):
            assert verdicts[0] == verdicts[1]
        else:
            held.append((verdicts[0], verdicts[1]))
        if held and rng.random() < 0.6:
            used = rng.randrange(0, 120, 10)
            for slot in held.pop(rng.randrange(len(held))):
                slot.release(used)
        if rng.random() < 0.5:
            for limiter in (one, alone):
                limiter.advance(3)


async def verdict(limiter: Limiter, key: FakeKey, tokens: int) -> Any:
    """A slot, or what is over."""
    try:
        return await limiter.limits.acquire(key, tokens)
    except RateLimited as exc:
        return exc.message.split(";")[0]
