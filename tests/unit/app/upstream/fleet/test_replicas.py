"""Choosing replicas, and what the router is told about the fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.domain.models import Model, Speed
from app.domain.usage import Usage
from app.errors import (
    UpstreamDisconnected,
    UpstreamUnreachable,
)
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.answers.answer import Answer, Form
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.fleet.fleet_view import FLEET_IS_FRESH_S
from app.upstream.fleet.replicas import Replicas, UnknownReplica
from app.upstream.fleet.speeds import SPEED_IS_FRESH_S, Attempted, Speeds
from tests.fakes.fleet import BROKEN, World
from tests.fakes.world import catalog, model, request


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


def test_who_is_back_gets_a_tenth_of_its_share_at_first_and_all_of_it_after_a_while(world: World) -> None:
    world.fail(world.a)
    world.replicas.ejections.probed(world.a, None)
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
    world.replicas.ejections.probed(world.other, None)
    assert {world.replicas.pick(world.large) for _ in range(99)} == {world.other}


def test_when_all_replicas_are_ejected_all_are_tried(world: World) -> None:
    for replica in world.replicas.all:
        world.fail(replica)
    assert world.replicas.pick(world.small) is None
    assert {world.replicas.pick(world.small, last_resort=True) for _ in range(99)} == {world.a, world.b}
    assert (world.replicas.fleet().available, world.replicas.fleet().last_resort) == ((True, True), (True, True))
    assert not world.replicas.ejections.any_healthy()


def test_what_an_operator_has_out_is_asked_by_nobody_until_it_is_wanted_back(world: World) -> None:
    assert world.replicas.set_aside(world.a.name) == [world.a.name]
    assert {world.replicas.pick(world.small, last_resort=last) for last in (False, True) for _ in range(99)} == {
        world.b
    }
    with pytest.raises(UnknownReplica, match=f"no replica 'nowhere'; there are {world.a.name}, "):
        world.replicas.set_aside("nowhere")

    assert world.replicas.set_aside(world.a.name, aside=False) == []
    assert {world.replicas.pick(world.small) for _ in range(99)} == {world.a, world.b}


def test_a_model_all_of_whose_replicas_an_operator_has_out_cannot_be_asked(world: World) -> None:
    for replica in (world.a, world.b):
        world.replicas.set_aside(replica.name)
    assert world.replicas.pick(world.small, last_resort=True) is None
    assert (world.replicas.fleet().available[0], world.replicas.fleet().last_resort) == (False, ())
    for replica in world.replicas.all:
        world.replicas.set_aside(replica.name)
    assert not world.replicas.ejections.any_healthy()


def test_a_replica_that_an_operator_has_out_is_not_probed_and_counts_as_one_that_is_gone(world: World) -> None:
    world.fail(world.a)
    world.replicas.set_aside(world.a.name)
    world.clock.advance(60)
    assert world.replicas.ejections.due_probes() == []
    world.replicas.set_aside(world.a.name, aside=False)
    assert world.replicas.ejections.due_probes() == [world.a]


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
