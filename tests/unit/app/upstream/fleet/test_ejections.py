"""When replicas go out, and when they come back."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from app.errors import (
    AnswerTooLarge,
    UpstreamBusy,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.answers.answer import Answer, Form
from app.upstream.answers.told import ToldFailure
from app.upstream.fleet.changes import Change
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.fleet.replica import EJECTED_AT_MOST_S, EJECTED_FOR_S
from app.upstream.fleet.replicas import Replicas
from app.upstream.http.deadline import OutOfTime
from tests.fakes.fleet import BROKEN, Paid, World
from tests.fakes.world import catalog


@pytest.fixture
def world() -> World:
    return World()


def test_five_failures_in_a_row_eject_and_four_do_not(world: World) -> None:
    world.fail(world.a, FAILURES_TO_EJECT - 1)
    world.replicas.succeeded(world.a)
    world.fail(world.a, FAILURES_TO_EJECT - 1)
    assert world.a.ejected_until is None
    world.fail(world.a, 1)
    assert {world.replicas.pick(world.small) for _ in range(4)} == {world.b}
    assert "replica.ejected" in world.log.getvalue()


@pytest.mark.parametrize(
    "error",
    [
        UpstreamBusy("full"),
        UpstreamRejected("bad", status=400),
        OutOfTime("late"),
        UpstreamRateLimited("slow down"),
        AnswerTooLarge("long"),
        ToldFailure({"message": "bad", "code": 400}),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_what_is_not_the_replicas_fault_never_ejects_it(world: World, error: UpstreamError, begun: bool) -> None:
    for _ in range(20):
        world.replicas.failed(world.a, error, begun=begun)
    assert world.a.ejected_until is None


@pytest.mark.parametrize("code", [500, 503, "server_error", None, 40303])
def test_a_begun_answer_that_ends_in_any_other_error_counts(world: World, code: object) -> None:
    for _ in range(FAILURES_TO_EJECT):
        world.replicas.failed(world.a, ToldFailure({"message": "bad", "code": code}), begun=True)
    assert world.a.ejected_until is not None


@pytest.fixture
def paid() -> Paid:
    return Paid()


def test_a_paid_service_that_is_out_gets_one_request_after_a_while_and_then_more(paid: Paid) -> None:
    paid.fail(paid.a)
    paid.clock.advance(EJECTED_FOR_S)
    with paid.lease(paid.a) as probe:
        assert {paid.replicas.pick(paid.small) for _ in range(9)} == {paid.b}, "one probe at a time"
        probe.hand_to(Answer(Form("small", stream=True)))
    assert paid.a.ejected_until is None
    assert "replica.restored" in paid.log.getvalue()


def test_a_request_that_probes_in_vain_keeps_it_out(paid: Paid) -> None:
    paid.fail(paid.a)
    paid.clock.advance(EJECTED_FOR_S)
    with pytest.raises(UpstreamTimeout), paid.lease(paid.a):
        raise UpstreamTimeout("silent")
    assert {paid.replicas.pick(paid.small) for _ in range(9)} == {paid.b}
    paid.clock.advance(EJECTED_FOR_S)
    assert paid.replicas.pick(paid.small, without={paid.b}) is paid.a


def test_a_probing_request_whose_caller_left_lets_the_next_one_probe(paid: Paid) -> None:
    paid.fail(paid.a)
    paid.clock.advance(EJECTED_FOR_S)
    with pytest.raises(KeyboardInterrupt), paid.lease(paid.a):
        raise KeyboardInterrupt
    assert paid.replicas.pick(paid.small, without={paid.b}) is paid.a


def test_a_paid_service_is_never_due_for_a_probe_of_ours(paid: Paid) -> None:
    for replica in paid.replicas.all:
        paid.fail(replica)
    paid.clock.advance(EJECTED_FOR_S)
    assert paid.replicas.ejections.due_probes() == []


def test_callers_are_not_sent_to_a_worker_that_is_out_until_a_probe_has_succeeded(world: World) -> None:
    world.fail(world.a)
    assert world.replicas.ejections.due_probes() == []
    world.clock.advance(EJECTED_FOR_S)
    assert world.replicas.ejections.due_probes() == [world.a]
    assert world.replicas.ejections.due_probes() == [], "one probe at a time"
    world.replicas.ejections.probed(world.a, UpstreamTimeout("no token"))
    assert world.replicas.ejections.due_probes() == [], "at most one each second"
    assert world.replicas.pick(world.small, without={world.b}) is None
    world.clock.advance(1.0)
    assert world.replicas.ejections.due_probes() == [world.a]
    world.replicas.ejections.probed(world.a, None)
    assert world.replicas.pick(world.small, without={world.b}) is world.a


def test_a_probe_that_is_refused_for_its_content_shows_a_worker_that_answers(world: World) -> None:
    world.fail(world.a)
    world.replicas.ejections.probed(world.a, UpstreamRejected("no chat template", status=400))
    assert world.a.ejected_until is None


def test_a_worker_that_was_started_again_is_probed_at_once(world: World) -> None:
    world.fail(world.a)
    world.replicas.scraped(world.a, running=0, waiting=0)
    assert world.replicas.ejections.due_probes() == [], "its page answered all the time, so nothing is new"
    world.replicas.silent(world.a, UpstreamUnreachable("no"))
    world.replicas.scraped(world.a, running=0, waiting=0)
    assert world.replicas.ejections.due_probes() == [world.a]


def test_when_all_are_out_each_worker_is_probed_every_second(world: World) -> None:
    for replica in world.replicas.all:
        world.fail(replica)
    probes = 0
    for _ in range(40):
        world.clock.advance(0.25)
        due = world.replicas.ejections.due_probes()
        probes += len(due)
        for replica in due:
            world.replicas.ejections.probed(replica, BROKEN)
    assert 3 * 9 <= probes <= 3 * 10


def test_each_ejection_is_longer_than_the_last_and_well_behaved_minutes_forgive(world: World) -> None:
    lasted_s = []
    for well_s in (0, 1, 1, 1, 300, 1):
        world.clock.advance(well_s)
        world.fail(world.a)
        assert world.a.ejected_until
        lasted_s.append(world.a.ejected_until - world.clock())
        world.replicas.ejections.probed(world.a, None)
    assert lasted_s == [10, 20, 30, 40, 10, 20]
    for _ in range(50):
        world.fail(world.a)
        world.replicas.ejections.probed(world.a, None)
    assert world.a.ejected_for_s == EJECTED_AT_MOST_S


def test_a_page_that_refuses_connections_ejects_before_any_request_fails(world: World) -> None:
    for _ in range(FAILURES_TO_EJECT):
        world.replicas.silent(world.a, UpstreamUnreachable("no"))
    assert world.a.ejected_until is not None


@pytest.mark.parametrize(("kind", "healthy"), [("openai", True), ("vllm", False)])
def test_a_hosted_replica_whose_time_is_over_needs_a_request_to_come_back(
    kind: Literal["vllm", "openai"], healthy: bool
) -> None:
    world = World()
    for replica in world.replicas.all:
        replica.backend = replace(replica.backend, kind=kind)
        world.fail(replica)
    assert not world.replicas.ejections.any_healthy()
    world.clock.advance(EJECTED_FOR_S)
    assert world.replicas.ejections.any_healthy() is healthy


def test_readiness_does_not_flicker_while_a_caller_s_request_finds_out(world: World) -> None:
    world.other.backend = replace(world.other.backend, kind="openai")
    for replica in world.replicas.all:
        world.fail(replica)
    world.clock.advance(EJECTED_FOR_S)
    with world.lease(world.other):
        assert world.replicas.ejections.any_healthy()
    world.fail(world.other, 1)
    assert not world.replicas.ejections.any_healthy()


def test_a_replica_that_is_out_and_taken_out_of_the_configuration_is_not_counted_as_out(world: World) -> None:
    telemetry = Telemetry(log=EventLog(world.log))
    before = Replicas(catalog(world.small, world.large), world.clock, telemetry)
    for replica in before.all:
        for _ in range(FAILURES_TO_EJECT):
            before.failed(replica, BROKEN)
    after = Replicas(catalog(world.small), world.clock, telemetry, before=before)
    before.ejections.gone(after.ejections)
    (kept,) = after.all
    assert kept.ejected_until is not None
    assert telemetry.metrics.registry.get_sample_value("thalamus_replicas_out", {"backend": "other"}) == 1


def test_what_one_process_sees_of_a_replica_another_one_hears(world: World) -> None:
    other = World()
    told: list[Change] = []
    the_catalog = catalog(world.small, urls={"pair": ("http://127.0.0.1:1", "http://127.0.0.1:2")})
    teller = Replicas(the_catalog, world.clock, Telemetry(log=EventLog(world.log)), tell=told.append)
    a, _ = teller.of("pair")
    for _ in range(FAILURES_TO_EJECT):
        teller.failed(a, BROKEN)
    other.replicas.hear(told[0])
    other.replicas.hear(told[0])
    assert other.replicas.pick(other.small) is other.b
    assert "replica.ejected" not in other.log.getvalue(), "it is in the log of who saw it"
    teller.succeeded(a, world.clock())
    other.replicas.hear(told[1])
    assert [change.what for change in told] == ["dead", "back"]
    assert other.a.ejected_until is None
    other.replicas.hear(Change("nobody", "http://127.0.0.1:1", "out"))


@pytest.mark.parametrize("answered", [0, 9])
def test_what_another_gateway_says_takes_out_who_then_fails_here_too(world: World, answered: int) -> None:
    for _ in range(answered):
        world.replicas.succeeded(world.a)
    world.replicas.hear(Change("pair", world.a.url, "dead"), from_afar=True)
    assert not world.a.is_dead
    world.fail(world.a, 1)
    assert (world.a.ejected_until, world.a.is_dead) == (world.clock() + EJECTED_FOR_S, True)


def test_what_another_gateway_says_is_forgotten_where_it_is_not_so(world: World) -> None:
    world.replicas.hear(Change("pair", world.a.url, "out"), from_afar=True)
    world.replicas.succeeded(world.a)
    world.fail(world.a, 1)
    assert world.a.ejected_until is None


def test_what_another_gateway_says_is_believed_where_it_fails_here_too(world: World) -> None:
    world.fail(world.a, 1)
    world.replicas.succeeded(world.a)
    world.replicas.hear(Change("pair", world.a.url, "dead"), from_afar=True)
    assert world.a.ejected_until is not None
