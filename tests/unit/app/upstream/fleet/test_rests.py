"""Which replicas and models rest, and for how long."""

from __future__ import annotations

import pytest

from app.errors import UpstreamBusy, UpstreamRateLimited
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.fleet.changes import Change
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.fleet.replicas import Replicas
from tests.fakes.fleet import BROKEN, World
from tests.fakes.world import catalog


@pytest.fixture
def world() -> World:
    return World()


def test_a_full_replica_rests_a_moment_and_a_limited_backend_as_long_as_it_says(world: World) -> None:
    world.replicas.failed(world.a, UpstreamBusy("full"))
    assert {world.replicas.pick(world.small) for _ in range(4)} == {world.b}
    world.clock.advance(0.3)
    world.replicas.failed(world.a, UpstreamRateLimited("slow down", retry_after_s=7))
    assert world.replicas.pick(world.small) is None
    assert world.replicas.rests.retry_after_s([world.small]) == 7
    assert world.replicas.fleet().available == (False, True)
    world.clock.advance(7)
    assert world.replicas.pick(world.small) is not None


def test_a_rest_is_never_longer_than_two_minutes(world: World) -> None:
    world.replicas.failed(world.a, UpstreamRateLimited("slow down", retry_after_s=10**8))
    assert world.replicas.rests.retry_after_s([world.small]) == 120


def test_a_long_rest_is_told_and_a_short_one_is_not(world: World) -> None:
    told: list[Change] = []
    the_catalog = catalog(world.small, urls={"pair": ("http://127.0.0.1:1", "http://127.0.0.1:2")})
    teller = Replicas(the_catalog, world.clock, Telemetry(log=EventLog(world.log)), tell=told.append)
    a, b = teller.of("pair")
    teller.failed(a, UpstreamBusy("full"))
    teller.failed(b, UpstreamBusy("full", retry_after_s=5))
    assert [(change.url, change.what, change.seconds) for change in told] == [(b.url, "rests", 5)]
    world.replicas.hear(told[0])
    assert {world.replicas.pick(world.small) for _ in range(5)} == {world.a}


def test_a_rate_limit_is_told_apart_from_other_reasons_to_rest(world: World) -> None:
    other = World()
    told: list[Change] = []
    the_catalog = catalog(world.small, urls={"pair": ("http://127.0.0.1:1", "http://127.0.0.1:2")})
    teller = Replicas(the_catalog, world.clock, Telemetry(log=EventLog(world.log)), tell=told.append)
    a, b = teller.of("pair")
    for replica in (a, b):
        teller.failed(replica, UpstreamBusy("full", retry_after_s=5))
    assert (teller.rests.limited_for_s(world.small), teller.fleet().limited_for_s) == (None, (None,))
    teller.failed(a, UpstreamRateLimited("too many", retry_after_s=9))
    for change in told:
        other.replicas.hear(change)
    for replicas in (teller, other.replicas):
        assert (replicas.rests.limited_for_s(world.small), replicas.fleet().limited_for_s[0]) == (9, 9)


def test_a_replica_that_is_out_does_not_hide_that_the_others_are_over_their_rate_limit(world: World) -> None:
    for _ in range(FAILURES_TO_EJECT):
        world.replicas.failed(world.a, BROKEN)
    assert world.replicas.rests.limited_for_s(world.small) is None
    world.replicas.failed(world.b, UpstreamRateLimited("too many", retry_after_s=9))
    assert world.replicas.rests.limited_for_s(world.small) == 9


def test_nothing_is_limited_while_all_are_available_or_once_the_rest_is_over(world: World) -> None:
    assert world.replicas.fleet().limited_for_s == ()
    world.replicas.failed(world.a, UpstreamRateLimited("too many", retry_after_s=9))
    world.clock.advance(9)
    assert (world.replicas.rests.limited_for_s(world.small), world.replicas.fleet().limited_for_s) == (None, ())
