"""The places for exchanges with a backend: who gets the next one, and that none is lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from app.errors import UpstreamBusy
from app.upstream.http.pool import Places, origin, path_of, share_of_one

LONG_S = 60.0


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_whoever_came_first_gets_the_next_place() -> None:
    places = Places(2, 2, LONG_S)
    order: list[int] = []

    async def one(number: int) -> None:
        await places.take("a" if number % 2 else "b")
        order.append(number)

    waiting = [asyncio.ensure_future(one(number)) for number in range(6)]
    await settled()
    for _ in range(4):
        places.give_back("a" if places.taken and order[-1] % 2 else "b")
        await settled()
    assert order == [0, 1, 2, 3, 4, 5]
    await asyncio.gather(*waiting)


async def test_one_replica_cannot_take_what_is_kept_for_the_others() -> None:
    places = Places(4, share_of_one(4, 2), LONG_S)
    hung = [asyncio.ensure_future(places.take("hung")) for _ in range(9)]
    await settled()
    assert places.taken == 3
    await places.take("other")
    places.give_back("other")
    await settled()
    assert places.taken == 3, "the line of the one that hangs stands still"
    for call in hung:
        call.cancel()
    await asyncio.gather(*hung, return_exceptions=True)
    assert places.taken == 3


@pytest.mark.parametrize(
    ("limit", "replicas", "share"), [(256, 1, 256), (256, 2, 192), (256, 4, 160), (3, 2, 2), (1, 2, 1), (4, 8, 1)]
)
def test_half_of_each_other_replicas_share_is_kept(limit: int, replicas: int, share: int) -> None:
    assert share_of_one(limit, replicas) == share


async def test_who_waits_too_long_is_refused_and_leaves_the_line() -> None:
    places = Places(1, 1, 0.0)
    await places.take("a")
    for _ in range(3):
        with pytest.raises(UpstreamBusy) as caught:
            await places.take("a")
        assert caught.value.retry_after_s == 0
    places.give_back("a")
    await places.take("a")
    assert places.taken == 1


async def test_a_place_given_to_someone_who_leaves_goes_to_the_next() -> None:
    places = Places(1, 1, LONG_S)
    await places.take("a")
    leaving, staying = (asyncio.ensure_future(places.take("a")) for _ in range(2))
    await settled()
    places.give_back("a")
    leaving.cancel()  # it has the place already, and has not heard of it
    await asyncio.wait_for(staying, 1)
    assert leaving.cancelled()
    assert places.taken == 1


@pytest.mark.parametrize("seed", range(20))
async def test_no_place_is_lost_or_given_twice(seed: int) -> None:
    chance = random.Random(seed)
    places = Places(3, 2, LONG_S)
    most: dict[str, int] = {"a": 0, "b": 0, "all": 0}
    held = dict.fromkeys(most, 0)

    async def one(replica: str) -> None:
        await places.take(replica)
        try:
            for name in (replica, "all"):
                held[name] += 1
                most[name] = max(most[name], held[name])
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            for name in (replica, "all"):
                held[name] -= 1
            places.give_back(replica)

    calls: list[asyncio.Future[None]] = []
    for _ in range(200):
        calls.append(asyncio.ensure_future(one(chance.choice("ab"))))
        if chance.random() < 0.5:
            chance.choice(calls).cancel()
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
    await asyncio.gather(*calls, return_exceptions=True)
    assert places.taken == 0
    assert most == {"a": 2, "b": 2, "all": 3}


@pytest.mark.parametrize(
    ("url", "its_origin", "path"),
    [
        ("http://Host:8000/v1/chat", "http://host:8000", "/v1/chat"),
        ("HTTPS://host", "https://host", "/"),
        ("http://[::1]:1/a b/ü", "http://[::1]:1", "/a%20b/%C3%BC"),
        ("http://host/a%20b", "http://host", "/a%20b"),
    ],
)
def test_a_url_is_an_origin_and_a_path(url: str, its_origin: str, path: str) -> None:
    assert (origin(url), path_of(url)) == (its_origin, path)
