"""Which of several usable replicas gets a request."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from app.domain.models import Backend
from app.upstream.fleet.choosing import LOAD_FACTOR, MORE_LOAD, cheaper_of_two, fingerprint, home_of
from app.upstream.fleet.replica import DRAG_FADES_S, Replica

POOL = Backend("pool", "vllm", ())


def replicas(count: int) -> list[Replica]:
    urls = [f"http://10.0.0.{number}:8000" for number in range(count)]
    return [Replica(POOL, url, fingerprint(url)) for url in urls]


def test_of_two_drawn_at_random_the_cheaper_one_is_taken() -> None:
    fleet = replicas(8)
    for number, replica in enumerate(fleet):
        replica.in_flight = number
    chance = random.Random(3).random
    picked = Counter(fleet.index(cheaper_of_two(fleet, 0.0, chance)) for _ in range(7_000))
    # Number k wins against the 7 - k busier ones, of 28 pairs.
    for number in range(8):
        assert picked[number] == pytest.approx(7_000 * (7 - number) / 28, rel=0.15, abs=1)


def test_many_requests_that_stay_are_spread_nearly_evenly() -> None:
    fleet = replicas(10)
    chance = random.Random(5).random
    for _ in range(10_000):
        cheaper_of_two(fleet, 0.0, chance).in_flight += 1
    assert max(replica.in_flight for replica in fleet) <= 1_010


def test_sessions_are_spread_over_all_and_stay_where_they_are() -> None:
    fleet = replicas(5)
    homes = {session: home_of(session, fleet, 0.0) for session in map(str, range(5_000))}
    counts = Counter(id(home) for home in homes.values())
    assert all(900 < count < 1_100 for count in counts.values())
    assert all(home_of(session, fleet[::-1], 0.0) is home for session, home in homes.items())


def test_a_replica_that_goes_moves_only_its_own_sessions() -> None:
    fleet = replicas(5)
    gone, *left = fleet
    for session in map(str, range(1_000)):
        home = home_of(session, fleet, 0.0)
        assert (home_of(session, left, 0.0) is home) == (home is not gone)


def test_a_session_moves_on_while_its_replica_is_clearly_busier_than_the_least_busy() -> None:
    fleet = replicas(3)
    home = home_of("s", fleet, 0.0)
    home.in_flight = int(LOAD_FACTOR + MORE_LOAD) - 1
    assert home_of("s", fleet, 0.0) is home
    home.in_flight += 1
    other = home_of("s", fleet, 0.0)
    assert other is not home
    assert home_of("s", fleet, 0.0) is other, "always to the same one"
    for replica in fleet:
        replica.in_flight += 40
    assert home_of("s", fleet, 0.0) is home


def test_places_are_the_same_in_every_process() -> None:
    assert fingerprint("http://10.0.0.1:8000") == 0x466CF36C0B783AF5


def test_a_slow_replica_costs_as_much_more_until_nothing_was_heard_of_it_for_a_while() -> None:
    (replica,) = replicas(1)
    replica.drag, replica.begun_at, replica.in_flight = 10.0, 100.0, 1
    assert replica.price(100.0) == pytest.approx(20.0)
    assert 2.0 < replica.price(100.0 + DRAG_FADES_S) < 20.0
    assert replica.price(100.0 + 3 * DRAG_FADES_S) == 2.0
