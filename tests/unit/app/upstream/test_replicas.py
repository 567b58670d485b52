"""Choosing, ejecting and resting replicas, and what the router is told about the fleet."""

from __future__ import annotations

import io

import pytest

from app.domain.usage import Usage
from app.errors import (
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDisconnected,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.answer import Answer, Form
from app.upstream.deadline import OutOfTime
from app.upstream.replicas import FAILURES_TO_EJECT, PROBE_AFTER_S, Lease, Replica, Replicas
from tests.fakes.clock import FakeClock
from tests.fakes.world import catalog, model

BROKEN = UpstreamBroken("no")


class World:
    """Two replicas of the backend `pair`, one of `other`."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = io.StringIO()
        self.small, self.large = model("small", "pair"), model("large", "other")
        the_catalog = catalog(self.small, self.large, urls={"pair": ("http://127.0.0.1:1", "http://127.0.0.1:2")})
        self.replicas = Replicas(the_catalog, self.clock, Telemetry(log=EventLog(self.log)))
        self.a, self.b = self.replicas.of("pair")
        (self.other,) = self.replicas.of("other")

    def fail(self, replica: Replica, times: int = FAILURES_TO_EJECT) -> None:
        for _ in range(times):
            self.replicas.failed(replica, BROKEN)

    def lease(self, replica: Replica | None = None) -> Lease:
        return self.replicas.lease(replica or self.a, self.small, input_tokens=100)


@pytest.fixture
def world() -> World:
    return World()


def test_the_replica_with_the_fewest_requests_is_taken(world: World) -> None:
    with world.lease(world.a):
        assert {world.replicas.least_loaded("pair") for _ in range(4)} == {world.b}
    assert (world.a.in_flight, world.b.in_flight) == (0, 0)


def test_equal_replicas_take_turns(world: World) -> None:
    assert {world.replicas.least_loaded("pair") for _ in range(2)} == {world.a, world.b}


def test_what_other_gateways_put_on_a_worker_counts(world: World) -> None:
    world.replicas.scraped(world.a, running=3, waiting=2)
    assert world.replicas.least_loaded("pair") is world.b
    assert world.replicas.least_loaded("pair") is world.b
    world.clock.advance(6)
    assert {world.replicas.least_loaded("pair") for _ in range(2)} == {world.a, world.b}, "an old page says nothing"


def test_five_failures_in_a_row_eject_and_four_do_not(world: World) -> None:
    world.fail(world.a, FAILURES_TO_EJECT - 1)
    world.replicas.succeeded(world.a)
    world.fail(world.a, FAILURES_TO_EJECT - 1)
    assert world.a.ejected_until is None
    world.fail(world.a, 1)
    assert {world.replicas.least_loaded("pair") for _ in range(4)} == {world.b}
    assert "replica.ejected" in world.log.getvalue()


@pytest.mark.parametrize(
    "error",
    [UpstreamBusy("full"), UpstreamRejected("bad", status=400), OutOfTime("late"), UpstreamRateLimited("slow down")],
)
def test_what_is_not_the_replicas_fault_never_ejects_it(
    world: World, error: UpstreamBusy | UpstreamRejected | OutOfTime
) -> None:
    for _ in range(20):
        world.replicas.failed(world.a, error)
    assert world.a.ejected_until is None


def test_an_ejected_replica_gets_one_request_after_a_while_and_then_all(world: World) -> None:
    world.fail(world.a)
    world.clock.advance(PROBE_AFTER_S)
    with world.lease(world.a) as probe:
        assert {world.replicas.least_loaded("pair") for _ in range(4)} == {world.b}, "one probe at a time"
        probe.hand_to(Answer(Form("small", stream=True)), world.clock())
    assert {world.replicas.least_loaded("pair") for _ in range(2)} <= {world.a, world.b}
    assert world.a.ejected_until is None
    assert "replica.restored" in world.log.getvalue()


def test_a_probe_that_fails_keeps_it_out(world: World) -> None:
    world.fail(world.a)
    world.clock.advance(PROBE_AFTER_S)
    with pytest.raises(UpstreamTimeout), world.lease(world.a):
        raise UpstreamTimeout("silent")
    assert {world.replicas.least_loaded("pair") for _ in range(4)} == {world.b}


def test_a_probe_whose_caller_left_lets_the_next_request_probe(world: World) -> None:
    world.fail(world.a)
    world.clock.advance(PROBE_AFTER_S)
    with pytest.raises(KeyboardInterrupt), world.lease(world.a):
        raise KeyboardInterrupt
    assert world.replicas.least_loaded("pair", without={world.b}) is world.a


def test_a_page_that_answers_again_lets_the_probe_come_early(world: World) -> None:
    world.fail(world.a)
    assert world.replicas.least_loaded("pair", without={world.b}) is None
    world.replicas.scraped(world.a, running=0, waiting=0)
    assert world.replicas.least_loaded("pair", without={world.b}) is world.a


def test_a_page_that_refuses_connections_ejects_before_any_request_fails(world: World) -> None:
    for _ in range(FAILURES_TO_EJECT):
        world.replicas.unreachable(world.a, UpstreamUnreachable("no"))
    assert world.a.ejected_until is not None


def test_when_all_replicas_are_ejected_all_are_tried(world: World) -> None:
    for replica in world.replicas.all:
        world.fail(replica)
    assert {world.replicas.least_loaded("pair") for _ in range(2)} == {world.a, world.b}
    assert world.replicas.fleet().available == (True, True)
    assert not world.replicas.any_healthy()


def test_a_full_replica_rests_a_moment_and_a_limited_backend_as_long_as_it_says(world: World) -> None:
    world.replicas.failed(world.a, UpstreamBusy("full"))
    assert {world.replicas.least_loaded("pair") for _ in range(4)} == {world.b}
    world.clock.advance(0.3)
    world.replicas.failed(world.a, UpstreamRateLimited("slow down", retry_after_s=7))
    assert world.replicas.least_loaded("pair") is None
    assert world.replicas.retry_after_s({"pair"}) == 7
    assert world.replicas.fleet().available == (False, True)
    world.clock.advance(7)
    assert world.replicas.least_loaded("pair") is not None


def test_a_rest_is_never_longer_than_two_minutes(world: World) -> None:
    world.replicas.failed(world.a, UpstreamRateLimited("slow down", retry_after_s=10**8))
    assert world.replicas.retry_after_s({"pair"}) == 120


def streamed(tokens: int) -> Answer:
    answer = Answer(Form("small", stream=True))
    answer.usage, answer.complete = Usage(100, tokens), True
    return answer


def test_the_fleet_learns_speed_and_wait_from_answers(world: World) -> None:
    assert world.replicas.fleet().s_per_output_token == (None, None)
    answer = streamed(tokens=11)
    with world.lease() as lease:
        # 100 tokens at 1000 a second: 0.1 s of prefill are expected, 0.4 s more were waiting.
        world.clock.advance(0.5)
        lease.hand_to(answer, world.clock())
    world.clock.advance(1.0)
    answer.close()

    fleet = world.replicas.fleet()
    assert fleet.s_per_output_token[0] == pytest.approx(0.1)
    assert list(fleet.wait_s) == pytest.approx([0.4, 0.0])
    world.clock.advance(30)
    assert world.replicas.fleet().wait_s[0] == pytest.approx(0.4 / 2.718, rel=0.01), "a wait that was seen fades"
    world.clock.advance(300)
    assert world.replicas.fleet().s_per_output_token[0] is None, "what was seen long ago is not of late"


def test_a_queue_that_a_worker_reports_is_waited_for(world: World) -> None:
    answer = streamed(tokens=11)
    with world.lease() as lease:
        lease.hand_to(answer, world.clock())
    world.clock.advance(2.0)
    answer.close()
    for replica in (world.a, world.b):
        world.replicas.scraped(replica, running=4, waiting=6)
    world.clock.advance(1.0)
    assert world.replicas.fleet().wait_s[0] == pytest.approx(2.0 * 6 / 4)


def test_a_cut_answer_counts_against_its_replica_and_teaches_nothing(world: World) -> None:
    answer = streamed(tokens=11)
    answer.complete, answer.error = False, UpstreamDisconnected("cut")
    with world.lease() as lease:
        lease.hand_to(answer, world.clock())
    answer.close()
    assert (world.a.failures, world.a.in_flight) == (1, 0)
    assert world.replicas.fleet().s_per_output_token == (None, None)


def test_a_refused_connection_gives_the_place_back_and_counts(world: World) -> None:
    with pytest.raises(UpstreamUnreachable), world.lease(world.a):
        raise UpstreamUnreachable("no")
    assert (world.a.failures, world.a.in_flight) == (1, 0)


def test_another_configuration_keeps_the_replicas_that_stay(world: World) -> None:
    world.fail(world.a)
    with world.lease(world.b):
        urls = {"pair": ("http://127.0.0.1:1", "http://127.0.0.1:2/", "http://127.0.0.1:3")}
        the_catalog = catalog(world.small, urls=urls)
        after = Replicas(the_catalog, world.clock, Telemetry(log=EventLog(world.log)), world.replicas)
        a, b, new = after.of("pair")
        assert (a, b) == (world.a, world.b)
        assert (a.ejected_until, b.in_flight, new.in_flight) == (world.clock() + PROBE_AFTER_S, 1, 0)
        assert after.of("other") == ()
        assert all(replica.backend is the_catalog.backends[0] for replica in (a, b, new))
    assert b.in_flight == 0


def test_a_replica_that_is_out_and_taken_out_of_the_configuration_is_not_counted_as_out(world: World) -> None:
    telemetry = Telemetry(log=EventLog(world.log))
    before = Replicas(catalog(world.small, world.large), world.clock, telemetry)
    for replica in before.all:
        for _ in range(FAILURES_TO_EJECT):
            before.failed(replica, BROKEN)
    after = Replicas(catalog(world.small), world.clock, telemetry, before)
    before.gone(after)
    (kept,) = after.all
    assert kept.ejected_until is not None
    assert telemetry.metrics.registry.get_sample_value("thalamus_replicas_out", {"backend": "other"}) == 1
