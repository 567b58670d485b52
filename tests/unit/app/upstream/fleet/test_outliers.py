"""Which replicas stand out among their peers: by their share of failures they go out, by slowness they are spared."""

from __future__ import annotations

import io
import random

import pytest

from app.errors import UpstreamBroken, UpstreamDisconnected
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.answers.answer import Answer, Form
from app.upstream.fleet.outliers import MIN_BEGINNINGS, MIN_REQUESTS
from app.upstream.fleet.replica import SLICE_S, SLICES, Outcomes, Replica
from app.upstream.fleet.replicas import Replicas
from tests.fakes.clock import FakeClock
from tests.fakes.world import catalog, model, request

STREAM = request(stream=True)
BROKEN = UpstreamBroken("no")


class World:
    """A backend of so many replicas, and another one of a single one."""

    def __init__(self, count: int = 4) -> None:
        self.clock = FakeClock()
        self.log = io.StringIO()
        self.small = model("small", "pool")
        urls = tuple(f"http://127.0.0.1:{number}" for number in range(1, count + 1))
        the_catalog = catalog(self.small, model("large", "other"), urls={"pool": urls})
        chance = random.Random(1).random
        self.replicas = Replicas(the_catalog, self.clock, Telemetry(log=EventLog(self.log)), chance)
        self.pool = self.replicas.of("pool")
        (self.other,) = self.replicas.of("other")

    @property
    def out(self) -> list[Replica]:
        return [replica for replica in self.pool if replica.ejected_until is not None]

    def ask(self, replica: Replica, *, fails: bool = False, seconds: float = 0.05) -> None:
        try:
            with self.replicas.lease(replica, self.small, STREAM) as lease:
                self.clock.advance(seconds)
                if fails:
                    raise BROKEN
                answer = Answer(Form("small", stream=True))
                lease.hand_to(answer)
        except UpstreamBroken:
            return
        answer.complete = True
        answer.close()

    def load(self, per_replica: int, fail: dict[int, float], every_s: float = 0.01, seed: int = 7) -> None:
        """So many requests on each, of which shares fail, as `fail` says by number."""
        rng = random.Random(seed)
        for _ in range(per_replica):
            for number, replica in enumerate(self.pool):
                self.clock.advance(every_s)
                self.ask(replica, fails=rng.random() < fail.get(number, 0.0), seconds=0.0)


def test_a_replica_of_which_a_third_fails_goes_out_and_the_others_stay() -> None:
    world = World()
    world.load(100, {0: 0.3})
    assert world.out == [world.pool[0]]
    assert '"rule":"share"' in world.log.getvalue()


@pytest.mark.parametrize("seed", range(20))
def test_a_replica_that_fails_seldom_stays(seed: int) -> None:
    world = World()
    world.load(200, {0: 0.05}, seed=seed)
    assert world.out == []


def test_few_requests_say_nothing() -> None:
    world = World()
    for number in range(MIN_REQUESTS - 1):
        world.ask(world.pool[0], fails=number % 2 == 0)
    assert world.out == []


def test_when_all_fail_alike_nobody_stands_out() -> None:
    world = World()
    world.load(200, dict.fromkeys(range(4), 0.35))
    assert all(replica.is_dead for replica in world.out), "five in a row happen at this rate, too"
    assert '"rule":"share"' not in world.log.getvalue()


def test_at_most_half_of_a_backend_goes_out_by_its_share() -> None:
    world = World(count=2)
    world.load(100, {0: 0.4})
    assert world.out == [world.pool[0]]
    for number in range(100):
        world.clock.advance(1)
        world.ask(world.pool[1], fails=number % 2 == 0)
    assert world.out == [world.pool[0]], "now nobody is left who does better"


def test_the_last_one_of_the_fleet_does_not_go_out_by_its_share() -> None:
    world = World(count=1)
    for _ in range(5):
        world.replicas.failed(world.other, BROKEN)
    world.load(100, {0: 0.4})
    assert not any(replica.ejected_until is not None and not replica.is_dead for replica in world.pool)


def test_streams_that_are_cut_count_once() -> None:
    world = World()
    for _ in range(MIN_REQUESTS):
        with world.replicas.lease(world.pool[0], world.small, STREAM) as lease:
            answer = Answer(Form("small", stream=True))
            lease.hand_to(answer)
        answer.error = UpstreamDisconnected("cut")
        answer.close()
    assert world.pool[0].outcomes.counts(world.clock()) == (MIN_REQUESTS, MIN_REQUESTS)
    assert world.out == [world.pool[0]]


def test_outcomes_are_forgotten_after_a_while() -> None:
    outcomes = Outcomes()
    outcomes.begun(1000.0)
    outcomes.failed(1000.0, begun=False)
    assert outcomes.counts(1000.0 + SLICE_S * (SLICES - 1)) == (1, 2)
    assert outcomes.counts(1000.0 + SLICE_S * SLICES) == (0, 0)
    outcomes.begun(5000.0)
    assert outcomes.counts(5000.0) == (0, 1)


def test_a_replica_ten_times_slower_is_chosen_seldom_and_stays() -> None:
    world = World()
    for _ in range(MIN_BEGINNINGS + 10):
        for number, replica in enumerate(world.pool):
            world.ask(replica, seconds=0.5 if number == 0 else 0.05)
    picked = [world.replicas.pick(world.small) for _ in range(400)]
    assert picked.count(world.pool[0]) == 0
    assert world.out == []
    assert world.pool[0].drag == pytest.approx(10, rel=0.05)
    assert world.log.getvalue().count("replica.slowed") == 1, "said once, as long as it lasts"
    for replica in world.pool[1:]:
        replica.in_flight = 30
    assert world.replicas.pick(world.small, without={*world.pool[2:]}) is world.pool[0], "better slow than after thirty"


def test_a_replica_that_was_slow_is_tried_again_after_a_while() -> None:
    world = World()
    for _ in range(MIN_BEGINNINGS + 10):
        for number, replica in enumerate(world.pool):
            world.ask(replica, seconds=0.5 if number == 0 else 0.05)
    world.clock.advance(60)
    assert world.replicas.pick(world.small, without={*world.pool[1:]}) is world.pool[0]
    assert [world.replicas.pick(world.small) for _ in range(400)].count(world.pool[0]) > 60
    for _ in range(10):
        for replica in world.pool:
            world.ask(replica, seconds=0.05)
    assert world.pool[0].drag == 1.0


def test_differences_that_nobody_notices_are_none() -> None:
    world = World()
    for _ in range(MIN_BEGINNINGS + 10):
        for number, replica in enumerate(world.pool):
            world.ask(replica, seconds=0.01 if number == 0 else 0.001)
    assert {replica.drag for replica in world.pool} == {1.0}


def test_plain_answers_are_compared_with_plain_ones() -> None:
    world = World(count=2)
    streaming, plain = world.pool
    for _ in range(MIN_BEGINNINGS + 10):
        world.replicas.began(streaming, 0.05, world.replicas.clock(), stream=True)
        world.replicas.began(plain, 5.0, world.replicas.clock(), stream=False)
        world.clock.advance(0.1)
    assert (streaming.drag, plain.drag) == (1.0, 1.0)


def test_who_is_left_waiting_for_longer_than_usual_says_that_a_replica_is_slow() -> None:
    world = World()
    for _ in range(MIN_BEGINNINGS + 10):
        for replica in world.pool:
            world.ask(replica, seconds=0.05)
    for seconds in (0.01, 2.0):
        for _ in range(10):
            world.clock.advance(seconds)
            world.replicas.left(world.pool[0], seconds, stream=True)
        assert (world.pool[0].drag > 1) == (seconds > 0.05)
