"""Concurrency, requests and tokens per minute."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RateLimited
from app.store.limits.limits import Bucket, MemoryLimits, max_connections
from tests.fakes.clock import FakeClock
from tests.fakes.world import FakeKey

FREE = FakeKey()


async def test_a_key_has_as_many_requests_in_flight_as_it_may_and_no_more() -> None:
    limits = MemoryLimits(100, FakeClock())
    key = FakeKey(concurrency=2)
    slots = [await limits.acquire(key, 0) for _ in range(2)]
    with pytest.raises(RateLimited) as caught:
        await limits.acquire(key, 0)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    await limits.acquire(FakeKey(id="another"), 0)
    slots[0].release(0)
    slots[0].release(0)
    await limits.acquire(key, 0)
    with pytest.raises(RateLimited):
        await limits.acquire(key, 0)


async def test_all_keys_together_fill_the_gateway() -> None:
    limits = MemoryLimits(2, FakeClock())
    first, second = await limits.acquire(FREE, 0), await limits.acquire(FakeKey(id="another"), 0)
    assert limits.fullness() == 1
    first.release(0)
    first.release(0)
    assert limits.fullness() == 0.5
    second.release(0)
    assert (limits.fullness(), limits.in_flight) == (0, 0)


@pytest.mark.parametrize(
    ("key", "wait_s"),
    [
        (FakeKey(concurrency=1), 1),
        (FakeKey(requests_per_minute=1), 60),
        (FakeKey(tokens_per_minute=60), 40),
        (FakeKey(tokens_per_minute=1000), None),
        (FakeKey(), None),
    ],
)
async def test_a_look_says_whether_another_request_would_be_refused_and_takes_nothing(
    key: FakeKey, wait_s: int | None
) -> None:
    limits = MemoryLimits(100, FakeClock())
    limits.look(key)
    slot = await limits.acquire(key, 60)
    if key.tokens_per_minute == 60:
        slot.release(100)
    for _ in range(3):
        if wait_s is None:
            limits.look(key)
            continue
        with pytest.raises(RateLimited) as caught:
            limits.look(key)
        assert caught.value.retry_after_s == wait_s
    assert limits.in_flight == (0 if key.tokens_per_minute == 60 else 1)


async def test_one_that_gets_no_place_uses_a_request_and_nothing_else() -> None:
    clock = FakeClock()
    limits = MemoryLimits(100, clock)
    key = FakeKey(requests_per_minute=3, tokens_per_minute=100, concurrency=1)
    limits.count(FakeKey(id="free"))
    limits.count(key)
    assert limits.in_flight == 0
    slot = await limits.acquire(key, 10)
    left = slot.headers()
    assert (left["x-ratelimit-remaining-requests"], left["x-ratelimit-remaining-tokens"]) == ("1", "90")
    slot.release(10)
    limits.count(key)
    with pytest.raises(RateLimited, match="3 requests per minute") as caught:
        limits.look(key)
    assert caught.value.retry_after_s == 20
    clock.advance(20)
    limits.look(key)


async def test_a_key_hears_what_it_has_left() -> None:
    clock = FakeClock()
    limits = MemoryLimits(100, clock)
    key = FakeKey(requests_per_minute=60, tokens_per_minute=1_000_000)
    slot = await limits.acquire(key, 250_000)
    assert slot.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-tokens": "750000",
        "x-ratelimit-reset-tokens": "15s",
    }
    clock.advance(15)
    assert slot.headers()["x-ratelimit-remaining-tokens"] == "1000000"
    free = await limits.acquire(FakeKey(id="free"), 0)
    assert free.headers() == {}, "there is nothing to be left of no limit"


@pytest.mark.parametrize("concurrency", [1, None])
async def test_who_is_refused_hears_what_is_left_too(concurrency: int | None) -> None:
    limits = MemoryLimits(100, FakeClock())
    key = FakeKey(requests_per_minute=1, concurrency=concurrency)
    await limits.acquire(key, 0)
    with pytest.raises(RateLimited) as caught:
        await limits.acquire(key, 0)
    headers = caught.value.headers()
    assert headers["retry-after"] == ("1" if concurrency else "60")
    assert (headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-reset-requests"]) == ("0", "60s")


def test_less_than_half_of_the_open_files_are_for_callers() -> None:
    assert max_connections(1024) == 444
    assert max_connections(1) == 1
    assert max_connections() == max_connections(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


async def test_requests_per_minute_refill_evenly() -> None:
    clock = FakeClock()
    limits = MemoryLimits(100, clock)
    key = FakeKey(requests_per_minute=6)
    for _ in range(6):
        (await limits.acquire(key, 0)).release(0)
    with pytest.raises(RateLimited) as caught:
        await limits.acquire(key, 0)
    assert caught.value.retry_after_s == 10
    assert "6 requests per minute" in caught.value.message
    clock.advance(10)
    await limits.acquire(key, 0)
    with pytest.raises(RateLimited):
        await limits.acquire(key, 0)


async def test_tokens_are_taken_as_expected_and_settled_as_used() -> None:
    clock = FakeClock()
    limits = MemoryLimits(100, clock)
    key = FakeKey(tokens_per_minute=600)
    slot = await limits.acquire(key, 500)
    with pytest.raises(RateLimited):
        await limits.acquire(key, 200)
    slot.release(100)
    (await limits.acquire(key, 500)).release(700)
    with pytest.raises(RateLimited) as caught:
        await limits.acquire(key, 10)
    assert caught.value.retry_after_s == 21, "200 tokens of debt and 10 more, at 10 a second"
    clock.advance(21)
    await limits.acquire(key, 10)


async def test_a_request_larger_than_a_minutes_tokens_is_not_refused_for_ever() -> None:
    limits = MemoryLimits(100, FakeClock())
    await limits.acquire(FakeKey(tokens_per_minute=600), 10_000)


async def test_a_refused_request_takes_nothing() -> None:
    limits = MemoryLimits(100, FakeClock())
    key = FakeKey(requests_per_minute=1, tokens_per_minute=100)
    (await limits.acquire(key, 0)).release(0)
    for _ in range(5):
        with pytest.raises(RateLimited):
            await limits.acquire(key, 50)
    assert limits.in_flight == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 30)), max_size=60))
def test_no_window_gives_more_than_its_share_and_one_minutes_worth(steps: list[tuple[float, int]]) -> None:
    clock = FakeClock()
    bucket = Bucket(60, clock)
    taken, began_at = 0, clock.now
    for pause_s, amount in steps:
        clock.advance(pause_s)
        if not bucket.wait_s(amount):
            bucket.take(amount)
            taken += amount
        assert taken <= 60 + (clock.now - began_at) + 1e-3


async def test_other_limits_keep_what_was_used_and_what_is_held() -> None:
    clock = FakeClock()
    limits = MemoryLimits(100, clock)
    before = FakeKey(requests_per_minute=10, concurrency=2)
    held = await limits.acquire(before, 0)
    for _ in range(4):
        (await limits.acquire(before, 0)).release(0)

    after = FakeKey(requests_per_minute=20, concurrency=1)
    limits.adopt(100, [after])
    with pytest.raises(RateLimited, match="1 requests in flight"):
        await limits.acquire(after, 0)
    held.release(0)
    for _ in range(10):
        (await limits.acquire(after, 0)).release(0)
    with pytest.raises(RateLimited, match="20 requests per minute"):
        await limits.acquire(after, 0)


async def test_a_limit_that_is_new_or_gone_counts_from_then_on() -> None:
    limits = MemoryLimits(100, FakeClock())
    key = FakeKey(tokens_per_minute=10)
    (await limits.acquire(key, 10)).release(10)
    limits.adopt(100, [FakeKey(requests_per_minute=1)])
    (await limits.acquire(FakeKey(requests_per_minute=1), 1_000)).release(1_000)
    with pytest.raises(RateLimited, match="1 requests per minute"):
        await limits.acquire(FakeKey(requests_per_minute=1), 0)


async def test_a_smaller_gateway_is_fuller() -> None:
    limits = MemoryLimits(100, FakeClock())
    slots = [await limits.acquire(FREE, 0) for _ in range(3)]
    limits.adopt(2, [FREE])
    assert limits.fullness() == 1.5
    for slot in slots:
        slot.release(0)
    assert limits.fullness() == 0


async def test_a_key_that_is_taken_out_is_forgotten_once_it_holds_nothing() -> None:
    limits = MemoryLimits(100, FakeClock())
    key = FakeKey(requests_per_minute=1)
    held = await limits.acquire(key, 0)
    limits.adopt(100, [])
    with pytest.raises(RateLimited):
        await limits.acquire(key, 0)
    held.release(0)
    limits.adopt(100, [])
    await limits.acquire(key, 0)


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0, 1))
def test_another_size_leaves_a_bucket_as_full_as_it_was(before: float, after: float, taken: float) -> None:
    bucket = Bucket(before, FakeClock())
    bucket.take(before * taken)
    share = 1 - taken
    changed = bucket.rerated(after)
    assert changed.wait_s(after * share * 0.999) == 0
    if share < 0.99:
        assert changed.wait_s(after * (share + 0.01)) > 0
