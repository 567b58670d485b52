"""Limits that several processes share: here several views of one table."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import RateLimited
from app.store.limits.limits import MemoryLimits
from app.store.limits.shared_limits import SharedLimits, Table
from tests.fakes.clock import FakeClock
from tests.fakes.world import FakeKey

WORKERS = 3


class Processes:
    """As many views as there are workers."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.table = Table.create(WORKERS)
        self.views = [SharedLimits(self.table, number, 100, self.clock) for number in range(WORKERS)]

    def close(self) -> None:
        for view in self.views:
            view.close()
        os.close(self.table.descriptor)


@pytest.fixture
def processes() -> Iterator[Processes]:
    found = Processes()
    yield found
    found.close()


async def test_concurrency_is_one_number_for_all(processes: Processes) -> None:
    key = FakeKey(concurrency=2)
    first, second, third = processes.views
    slot = await first.acquire(key, 0)
    await second.acquire(key, 0)
    with pytest.raises(RateLimited, match="2 requests in flight"):
        await third.acquire(key, 0)
    assert [view.in_flight for view in processes.views] == [2, 2, 2]
    assert third.fullness() == 0.02
    slot.release(0)
    slot.release(0)
    await third.acquire(key, 0)


@pytest.mark.parametrize("key", [FakeKey(concurrency=2), FakeKey(requests_per_minute=2)])
async def test_a_look_sees_what_others_took(processes: Processes, key: FakeKey) -> None:
    first, second, third = processes.views
    third.look(key)
    slots = [await view.acquire(key, 0) for view in (first, third)]
    for view in (first, third):
        with pytest.raises(RateLimited):
            view.look(key)
    second.look(key)
    for slot in slots:
        slot.release(0)
    processes.clock.advance(60)
    third.look(key)
    assert [view.in_flight for view in processes.views] == [0, 0, 0]


async def test_one_that_got_no_place_is_counted_by_all(processes: Processes) -> None:
    first, second, third = processes.views
    key = FakeKey(requests_per_minute=3, tokens_per_minute=100)
    first.count(key)
    second.count(key)
    left = (await third.acquire(key, 10)).headers()
    assert (left["x-ratelimit-remaining-requests"], left["x-ratelimit-remaining-tokens"]) == ("0", "90")
    with pytest.raises(RateLimited, match="3 requests per minute"):
        first.look(key)
    first.count(FakeKey(id="free"))
    assert first.in_flight == 1


async def test_requests_and_tokens_are_taken_from_one_bucket(processes: Processes) -> None:
    key = FakeKey(requests_per_minute=3, tokens_per_minute=100)
    for view in processes.views:
        (await view.acquire(key, 10)).release(30)
    with pytest.raises(RateLimited, match="3 requests per minute"):
        await processes.views[0].acquire(key, 0)
    processes.clock.advance(20)
    with pytest.raises(RateLimited, match="100 tokens per minute"):
        await processes.views[1].acquire(key, 90)
    slot = await processes.views[2].acquire(key, 40)
    assert slot.headers()["x-ratelimit-remaining-tokens"] == "3"


async def test_what_a_process_that_died_held_is_given_back(processes: Processes) -> None:
    key, other = FakeKey(concurrency=2), FakeKey(id="other")
    dead, alive, parent = processes.views
    await dead.acquire(key, 0)
    await dead.acquire(other, 0)
    await alive.acquire(key, 0)
    parent.forget(0)
    assert alive.in_flight == 1
    await alive.acquire(key, 0)
    with pytest.raises(RateLimited):
        await alive.acquire(key, 0)


async def test_other_limits_of_a_key_keep_what_it_has_used(processes: Processes) -> None:
    one, another, _ = processes.views
    for _ in range(5):
        (await one.acquire(FakeKey(requests_per_minute=10), 0)).release(0)
    for _ in range(10):
        (await another.acquire(FakeKey(requests_per_minute=20), 0)).release(0)
    with pytest.raises(RateLimited, match="20 requests"):
        await one.acquire(FakeKey(requests_per_minute=20), 0)


async def test_keys_that_are_gone_make_room(processes: Processes) -> None:
    one, another, _ = processes.views
    slot = await one.acquire(FakeKey(id="held"), 0)
    (await one.acquire(FakeKey(id="gone", requests_per_minute=1), 0)).release(0)
    another.adopt(50, [])
    assert another.fullness() == 0.02
    (await one.acquire(FakeKey(id="gone", requests_per_minute=1), 0)).release(0)
    slot.release(0)
    assert one.in_flight == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, WORKERS - 1), st.integers(0, 60), st.floats(0, 30)), max_size=30))
def test_several_processes_decide_as_one_would(calls: list[tuple[int, int, float]]) -> None:
    processes, key = Processes(), FakeKey(concurrency=3, requests_per_minute=6, tokens_per_minute=100)
    alone = MemoryLimits(100, processes.clock)

    async def run() -> None:
        held = []
        for worker, tokens, seconds in calls:
            answers: list[Any] = []
            for limits in (processes.views[worker], alone):
                try:
                    answers.append(await limits.acquire(key, tokens))
                except RateLimited as exc:
                    answers.append(exc.message)
            if isinstance(answers[0], str) or isinstance(answers[1], str):
                assert answers[0] == answers[1]
            else:
                held.append(answers)
            processes.clock.advance(seconds)
            if len(held) > 1:
                for slot in held.pop(0):
                    slot.release(tokens // 2)

    asyncio.run(run())
    processes.close()
