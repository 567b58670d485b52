"""Choosing, ejecting and resting replicas, and what the router is told about the fleet."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, Literal

import pytest

from app.domain.models import Model, Speed
from app.domain.usage import Usage
from app.errors import (
    AnswerTooLarge,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.answer import Answer, Form
from app.upstream.changes import Change
from app.upstream.deadline import OutOfTime
from app.upstream.fleet_view import FLEET_IS_FRESH_S
from app.upstream.lease import Lease
from app.upstream.replica import EJECTED_AT_MOST_S, EJECTED_FOR_S, Replica
from app.upstream.replicas import FAILURES_TO_EJECT, Replicas
from app.upstream.speeds import SPEED_IS_FRESH_S, Attempted, Speeds
from app.upstream.told import ToldFailure
from tests.fakes.clock import FakeClock
from tests.fakes.world import catalog, model, request

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

    def lease(self, replica: Replica | None = None, input_tokens: int = 100, **changes: Any) -> Lease:
        asked = request(stream=True, input_tokens=input_tokens, **changes)
        return self.replicas.lease(replica or self.a, self.small, asked)


@pytest.fixture
def world() -> World:
    return World()


def test_the_replica_with_the_fewest_requests_is_taken(world: World) -> None:
    with world.lease(world.a):
        assert {world.replicas.pick(world.small) for _ in range(4)} == {world.b}
    assert (world.a.in_flight, world.b.in_flight) == (0, 0)


def test_equal_replicas_share_by_chance(world: World) -> None:
    picked = [world.replicas.pick(world.small) for _ in range(1_000)]
    assert 400 < picked.count(world.a) < 600


def test_what_other_gateways_put_on_a_worker_counts(world: World) -> None:
    world.replicas.scraped(world.a, running=3, waiting=2)
    assert world.replicas.pick(world.small) is world.b
    assert world.replicas.pick(world.small) is world.b
    world.clock.advance(6)
    assert {world.replicas.pick(world.small) for _ in range(99)} == {world.a, world.b}, "an old page says nothing"


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


class Paid(World):
    """The same fleet, of services that are paid for: no probe of ours is sent to them."""

    def __init__(self) -> None:
        super().__init__()
        for replica in self.replicas.all:
            replica.backend = replace(replica.backend, kind="openai")


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
    assert paid.replicas.due_probes() == []


def test_callers_are_not_sent_to_a_worker_that_is_out_until_a_probe_has_succeeded(world: World) -> None:
    world.fail(world.a)
    assert world.replicas.due_probes() == []
    world.clock.advance(EJECTED_FOR_S)
    assert world.replicas.due_probes() == [world.a]
    assert world.replicas.due_probes() == [], "one probe at a time"
    world.replicas.probed(world.a, UpstreamTimeout("no token"))
    assert world.replicas.due_probes() == [], "at most one each second"
    assert world.replicas.pick(world.small, without={world.b}) is None
    world.clock.advance(1.0)
    assert world.replicas.due_probes() == [world.a]
    world.replicas.probed(world.a, None)
    assert world.replicas.pick(world.small, without={world.b}) is world.a


def test_a_probe_that_is_refused_for_its_content_shows_a_worker_that_answers(world: World) -> None:
    world.fail(world.a)
    world.replicas.probed(world.a, UpstreamRejected("no chat template", status=400))
    assert world.a.ejected_until is None


def test_a_worker_that_was_started_again_is_probed_at_once(world: World) -> None:
    world.fail(world.a)
    world.replicas.scraped(world.a, running=0, waiting=0)
    assert world.replicas.due_probes() == [], "its page answered all the time, so nothing is new"
    world.replicas.silent(world.a, UpstreamUnreachable("no"))
    world.replicas.scraped(world.a, running=0, waiting=0)
    assert world.replicas.due_probes() == [world.a]


def test_when_all_are_out_each_worker_is_probed_every_second(world: World) -> None:
    for replica in world.replicas.all:
        world.fail(replica)
    probes = 0
    for _ in range(40):
        world.clock.advance(0.25)
        due = world.replicas.due_probes()
        probes += len(due)
        for replica in due:
            world.replicas.probed(replica, BROKEN)
    assert 3 * 9 <= probes <= 3 * 10


def test_each_ejection_is_longer_than_the_last_and_well_behaved_minutes_forgive(world: World) -> None:
    lasted_s = []
    for well_s in (0, 1, 1, 1, 300, 1):
        world.clock.advance(well_s)
        world.fail(world.a)
        assert world.a.ejected_until
        lasted_s.append(world.a.ejected_until - world.clock())
        world.replicas.probed(world.a, None)
    assert lasted_s == [10, 20, 30, 40, 10, 20]
    for _ in range(50):
        world.fail(world.a)
        world.replicas.probed(world.a, None)
    assert world.a.ejected_for_s == EJECTED_AT_MOST_S


def test_who_is_back_gets_a_tenth_of_its_share_at_first_and_all_of_it_after_a_while(world: World) -> None:
    world.fail(world.a)
    world.replicas.probed(world.a, None)
    shares = []
    for _ in range(3):
        picked = []
        for _ in range(1_000):
            picked.append(world.replicas.pick(world.small))
            world.clock.advance(0.01)
        shares.append(picked.count(world.a) / 500)
    assert 0.05 <= shares[0] <= 0.1
    assert 0.4 < shares[1] < 0.7
    assert 0.8 < shares[2] < 1.2


def test_who_is_back_takes_everything_where_there_is_nobody_else(world: World) -> None:
    world.fail(world.other)
    world.replicas.probed(world.other, None)
    assert {world.replicas.pick(world.large) for _ in range(99)} == {world.other}


def test_a_page_that_refuses_connections_ejects_before_any_request_fails(world: World) -> None:
    for _ in range(FAILURES_TO_EJECT):
        world.replicas.silent(world.a, UpstreamUnreachable("no"))
    assert world.a.ejected_until is not None


def test_when_all_replicas_are_ejected_all_are_tried(world: World) -> None:
    for replica in world.replicas.all:
        world.fail(replica)
    assert world.replicas.pick(world.small) is None
    assert {world.replicas.pick(world.small, last_resort=True) for _ in range(99)} == {world.a, world.b}
    assert (world.replicas.fleet().available, world.replicas.fleet().last_resort) == ((True, True), (True, True))
    assert not world.replicas.any_healthy()


@pytest.mark.parametrize(("kind", "healthy"), [("openai", True), ("vllm", False)])
def test_a_hosted_replica_whose_time_is_over_needs_a_request_to_come_back(
    kind: Literal["vllm", "openai"], healthy: bool
) -> None:
    world = World()
    for replica in world.replicas.all:
        replica.backend = replace(replica.backend, kind=kind)
        world.fail(replica)
    assert not world.replicas.any_healthy()
    world.clock.advance(EJECTED_FOR_S)
    assert world.replicas.any_healthy() is healthy


def test_readiness_does_not_flicker_while_a_caller_s_request_finds_out(world: World) -> None:
    world.other.backend = replace(world.other.backend, kind="openai")
    for replica in world.replicas.all:
        world.fail(replica)
    world.clock.advance(EJECTED_FOR_S)
    with world.lease(world.other):
        assert world.replicas.any_healthy()
    world.fail(world.other, 1)
    assert not world.replicas.any_healthy()


def test_a_full_replica_rests_a_moment_and_a_limited_backend_as_long_as_it_says(world: World) -> None:
    world.replicas.failed(world.a, UpstreamBusy("full"))
    assert {world.replicas.pick(world.small) for _ in range(4)} == {world.b}
    world.clock.advance(0.3)
    world.replicas.failed(world.a, UpstreamRateLimited("slow down", retry_after_s=7))
    assert world.replicas.pick(world.small) is None
    assert world.replicas.retry_after_s([world.small]) == 7
    assert world.replicas.fleet().available == (False, True)
    world.clock.advance(7)
    assert world.replicas.pick(world.small) is not None


def test_a_rest_is_never_longer_than_two_minutes(world: World) -> None:
    world.replicas.failed(world.a, UpstreamRateLimited("slow down", retry_after_s=10**8))
    assert world.replicas.retry_after_s([world.small]) == 120


def streamed(tokens: int) -> Answer:
    answer = Answer(Form("small", stream=True))
    answer.usage, answer.complete = Usage(100, tokens), True
    return answer


def test_the_first_token_of_a_model_without_a_stated_speed_is_learned() -> None:
    speeds = Speeds([replace(model("stated"), speed=Speed(1000.0, 0.01)), replace(model("bare"), speed=None)])
    assert speeds.picture({}, now=0.0).ttft_s == ()
    for number in (0, 1):
        speeds.learn(Attempted(speeds._models[number], 100, True, started_at=0.0), streamed(tokens=11), 0.5, now=1.5)
    assert speeds.picture({}, now=2.0).ttft_s == (None, 0.5)
    assert speeds.picture({}, now=1000.0).ttft_s == ()


def test_the_fleet_learns_speed_and_wait_from_answers(world: World) -> None:
    assert world.replicas.fleet().s_per_output_token == (None, None)
    answer = streamed(tokens=11)
    with world.lease() as lease:
        # 100 tokens at 1000 a second: 0.1 s of prefill are expected, 0.4 s more were waiting.
        world.clock.advance(0.5)
        lease.hand_to(answer)
    world.clock.advance(1.0)
    answer.close()

    fleet = world.replicas.fleet()
    assert fleet.s_per_output_token[0] == pytest.approx(0.1)
    assert world.replicas.seen_s_per_output_token(world.small) == pytest.approx(0.1)
    assert list(fleet.wait_s) == pytest.approx([0.4, 0.0])
    world.clock.advance(30)
    assert world.replicas.fleet().wait_s[0] == pytest.approx(0.4 / 2.718, rel=0.01), "a wait that was seen fades"
    world.clock.advance(300)
    assert world.replicas.fleet().s_per_output_token[0] is None, "what was seen long ago is not of late"
    assert world.replicas.seen_s_per_output_token(world.small) is None


@pytest.mark.parametrize(
    ("estimated", "read", "more"),
    [(10, 32, 22.0), (40, 32, 0.0), (1_000, 1_400, 0.0)],
    ids=["a template is added", "the estimate was too high", "a long prompt says nothing of a template"],
)
def test_the_fleet_learns_what_a_template_adds_to_short_prompts(
    world: World, estimated: int, read: int, more: float
) -> None:
    for _ in range(2):
        answer = Answer(Form("small", stream=True))
        answer.usage, answer.complete = Usage(read, 11), True
        with world.lease(input_tokens=estimated) as lease:
            lease.hand_to(answer)
        answer.close()
    world.clock.advance(1.0)
    assert world.replicas.fleet().template_tokens == (more, 0.0)


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ({}, 2_000),
        ({"uses": frozenset({"chat", "tools"})}, 300),
        ({"longest_prompt_tokens": 5}, 300),
    ],
    ids=["far more than a template was read", "tools have a template of their own", "several prompts"],
)
def test_what_one_caller_sends_is_not_taken_for_a_template(world: World, asked: dict[str, Any], read: int) -> None:
    answer = Answer(Form("small", stream=True))
    answer.usage, answer.complete = Usage(read, 11), True
    with world.lease(input_tokens=10, **asked) as lease:
        lease.hand_to(answer)
    answer.close()
    assert world.replicas.fleet().template_tokens == (0.0, 0.0)


def test_choices_that_are_written_at_the_same_time_say_nothing_of_speed(world: World) -> None:
    answer = streamed(tokens=400)
    with world.lease(choices=4) as lease:
        lease.hand_to(answer)
    world.clock.advance(1.0)
    answer.close()
    assert world.replicas.fleet().s_per_output_token == (None, None)


def test_a_queue_that_a_worker_reports_is_waited_for(world: World) -> None:
    answer = streamed(tokens=11)
    with world.lease() as lease:
        lease.hand_to(answer)
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
        lease.hand_to(answer)
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
        after = Replicas(the_catalog, world.clock, Telemetry(log=EventLog(world.log)), before=world.replicas)
        a, b, new = after.of("pair")
        assert (a, b) == (world.a, world.b)
        assert (a.ejected_until, b.in_flight, new.in_flight) == (world.a.ejected_until, 1, 0)
        assert a.ejected_until is not None
        assert after.of("other") == ()
        assert all(replica.backend is the_catalog.backends[0] for replica in (a, b, new))
    assert b.in_flight == 0


def test_a_replica_that_is_out_and_taken_out_of_the_configuration_is_not_counted_as_out(world: World) -> None:
    telemetry = Telemetry(log=EventLog(world.log))
    before = Replicas(catalog(world.small, world.large), world.clock, telemetry)
    for replica in before.all:
        for _ in range(FAILURES_TO_EJECT):
            before.failed(replica, BROKEN)
    after = Replicas(catalog(world.small), world.clock, telemetry, before=before)
    before.gone(after)
    (kept,) = after.all
    assert kept.ejected_until is not None
    assert telemetry.metrics.registry.get_sample_value("thalamus_replicas_out", {"backend": "other"}) == 1


def test_what_ends_after_a_reload_is_heard_by_those_who_have_taken_over(world: World) -> None:
    leases = [world.lease(world.a).__enter__() for _ in range(FAILURES_TO_EJECT)]
    the_catalog = catalog(world.small, urls={"pair": (world.a.url, world.b.url)})
    after = Replicas(the_catalog, world.clock, Telemetry(log=EventLog(world.log)), before=world.replicas)
    for lease in leases:
        lease.__exit__(type(BROKEN), BROKEN, None)
    assert (world.a.in_flight, world.a.ejected_until is None) == (0, False)
    assert after.pick(world.small) is world.b


def _answer_at(world: World, s_per_token: float, began_s: float = 1.0) -> None:
    answer = streamed(tokens=50)
    with world.lease() as lease:
        world.clock.advance(began_s)
        lease.hand_to(answer)
    world.clock.advance(49 * s_per_token)
    answer.close()


def test_what_was_seen_long_ago_has_no_part_in_what_is_seen_now(world: World) -> None:
    _answer_at(world, s_per_token=1.0, began_s=40.0)
    world.clock.advance(SPEED_IS_FRESH_S)
    _answer_at(world, s_per_token=0.02, began_s=0.1)
    assert world.replicas.fleet().s_per_output_token[0] == pytest.approx(0.02)
    world.replicas.scraped(world.a, running=1, waiting=2)
    world.replicas.scraped(world.b, running=1, waiting=2)
    world.clock.advance(FLEET_IS_FRESH_S * 2)
    assert world.replicas.fleet().wait_s[0] == pytest.approx(2 * (0.1 + 49 * 0.02)), "answers take no longer either"


def test_the_beginnings_of_streams_long_ago_say_nothing_of_plain_answers_now(world: World) -> None:
    _answer_at(world, s_per_token=0.1, began_s=3.0)
    world.clock.advance(SPEED_IS_FRESH_S)
    answer = Answer(Form("small", stream=False))
    answer.usage, answer.complete = Usage(100, 50), True
    with world.replicas.lease(world.a, world.small, request(input_tokens=100)) as lease:
        world.clock.advance(4.9)
        lease.hand_to(answer)
    answer.close()
    assert world.replicas.fleet().s_per_output_token[0] == pytest.approx(0.1)


@pytest.mark.parametrize("moved", [model("small", "other"), model("small", "pair", served_as="another")])
def test_what_was_seen_of_a_model_is_forgotten_where_something_else_serves_it_after_a_reload(
    world: World, moved: Model
) -> None:
    _answer_at(world, s_per_token=0.1)
    after = Replicas(catalog(moved), world.clock, Telemetry(log=EventLog(world.log)), before=world.replicas)
    assert after.fleet().s_per_output_token == (None,)


def test_what_is_known_of_a_models_speed_outlives_a_reload(world: World) -> None:
    _answer_at(world, s_per_token=0.1)
    after = Replicas(catalog(world.small), world.clock, Telemetry(log=EventLog(world.log)), before=world.replicas)
    (speed,) = after.fleet().s_per_output_token
    assert speed == pytest.approx(0.1)


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
    assert (teller.limited_for_s(world.small), teller.fleet().limited_for_s) == (None, (None,))
    teller.failed(a, UpstreamRateLimited("too many", retry_after_s=9))
    for change in told:
        other.replicas.hear(change)
    for replicas in (teller, other.replicas):
        assert (replicas.limited_for_s(world.small), replicas.fleet().limited_for_s[0]) == (9, 9)


def test_a_replica_that_is_out_does_not_hide_that_the_others_are_over_their_rate_limit(world: World) -> None:
    for _ in range(FAILURES_TO_EJECT):
        world.replicas.failed(world.a, BROKEN)
    assert world.replicas.limited_for_s(world.small) is None
    world.replicas.failed(world.b, UpstreamRateLimited("too many", retry_after_s=9))
    assert world.replicas.limited_for_s(world.small) == 9


def test_nothing_is_limited_while_all_are_available_or_once_the_rest_is_over(world: World) -> None:
    assert world.replicas.fleet().limited_for_s == ()
    world.replicas.failed(world.a, UpstreamRateLimited("too many", retry_after_s=9))
    world.clock.advance(9)
    assert (world.replicas.limited_for_s(world.small), world.replicas.fleet().limited_for_s) == (None, ())
