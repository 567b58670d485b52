"""Models that are over rate limits of their own, while others of their backend are not."""

from __future__ import annotations

import io
from typing import Literal

import pytest

from app.domain.models import Catalog
from app.errors import UpstreamBroken, UpstreamRateLimited
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.fleet.changes import Change
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.fleet.fleet_view import FleetView
from app.upstream.fleet.lease import Lease
from app.upstream.fleet.replicas import Replicas
from app.upstream.fleet.service import Service
from app.upstream.fleet.speeds import Speeds
from tests.fakes.clock import FakeClock
from tests.fakes.world import catalog, model, request

URLS = ("http://127.0.0.1:1", "http://127.0.0.1:2")


class World:
    """`one`, `two` and `three` on both replicas of the backend `paid`; `far` is elsewhere."""

    def __init__(self, kind: Literal["vllm", "openai"] = "openai") -> None:
        self.clock, self.told = FakeClock(), list[Change]()
        self.models = {name: model(name, "paid") for name in ("one", "two", "three")} | {"far": model("far")}
        self.catalog = catalog(*self.models.values(), urls={"paid": URLS}, kind=kind)
        self.replicas = self.over(self.catalog)

    def over(self, the_catalog: Catalog, before: Replicas | None = None) -> Replicas:
        telemetry = Telemetry(log=EventLog(io.StringIO()))
        return Replicas(the_catalog, self.clock, telemetry, before=before, tell=self.told.append)

    def lease(self, name: str) -> Lease:
        return self.replicas.lease(self.replicas.of("paid")[0], self.models[name], request())

    def refuse(self, name: str, wait_s: int | None = None, took_s: float = 0.0) -> None:
        lease = self.lease(name).__enter__()
        self.clock.advance(took_s)
        end(lease, wait_s)

    def use_up(self, name: str, wait_s: float) -> None:
        self.replicas.used_up(self.replicas.of("paid")[1], self.models[name], wait_s)

    @property
    def up(self) -> set[str]:
        """What can be asked for now, which the router is told as well."""
        up = {name for name, one in self.models.items() if self.replicas.pick(one)}
        available = self.replicas.fleet().available
        assert up == {name for name, is_up in zip(self.models, available, strict=True) if is_up}
        return up

    @property
    def limited_for_s(self) -> tuple[float | None, ...]:
        by_model = tuple(self.replicas.rests.limited_for_s(one) for one in self.models.values())
        assert (self.replicas.fleet().limited_for_s or (None,) * len(by_model)) == by_model
        return by_model

    def retry_after_s(self, *names: str) -> int:
        return self.replicas.rests.retry_after_s([self.models[name] for name in names])


def end(lease: Lease, wait_s: int | None) -> None:
    """Its attempt is refused with a 429."""
    error = UpstreamRateLimited("slow down", retry_after_s=wait_s)
    lease.__exit__(type(error), error, None)


@pytest.fixture
def world() -> World:
    return World()


def test_a_model_that_is_refused_rests_alone_as_long_as_it_is_asked_to(world: World) -> None:
    world.refuse("one", 9)
    assert (world.up, world.limited_for_s) == ({"two", "three", "far"}, (9, None, None, None))
    assert (world.retry_after_s("one"), world.retry_after_s("one", "two")) == (9, 1)
    world.refuse("one", 4)
    assert world.retry_after_s("one") == 9, "what is refused again rests no shorter"
    world.clock.advance(9)
    assert (world.up, world.limited_for_s) == ({*world.models}, (None,) * 4)


def test_a_worker_that_refuses_rests_with_all_its_models() -> None:
    world = World("vllm")
    world.refuse("one", 9)
    assert (world.up, world.limited_for_s) == ({"far"}, (9, 9, 9, None))


def test_a_second_model_that_is_refused_while_the_first_rests_rests_the_account(world: World) -> None:
    world.refuse("one", 60)
    world.refuse("two", 5)
    assert (world.up, world.limited_for_s) == ({"far"}, (60, 5, 5, None))
    assert (world.retry_after_s("one"), world.retry_after_s("one", "two")) == (60, 5)
    world.clock.advance(5)
    assert (world.up, world.limited_for_s) == ({"two", "three", "far"}, (55, None, None, None))


def test_a_second_model_that_is_refused_later_rests_alone_as_well(world: World) -> None:
    world.refuse("one", 5)
    world.clock.advance(5)
    world.refuse("two", 5)
    assert world.up == {"one", "three", "far"}


def test_a_refusal_counts_from_when_it_was_asked_for(world: World) -> None:
    """One that does not say when to come back rests the first for less time than the second may take to be refused."""
    world.refuse("one")
    world.refuse("two", took_s=0.3)
    assert world.up == {"far"}


def test_two_models_of_the_catalogue_that_are_one_at_the_backend_rest_together(world: World) -> None:
    world.models["three"] = model("three", "paid", served_as="one")
    world.replicas = world.over(catalog(*world.models.values(), urls={"paid": URLS}, kind="openai"))
    world.refuse("one", 9)
    world.refuse("three", 9)
    assert world.up == {"two", "far"}


def test_quotas_that_are_used_up_are_the_models_however_many_are(world: World) -> None:
    world.use_up("one", 60)
    world.use_up("two", 5)
    assert (world.up, world.limited_for_s) == ({"three", "far"}, (60, 5, None, None))
    world.refuse("three", 7)
    assert (world.up, world.limited_for_s) == ({"far"}, (60, 7, 7, None)), "that one was refused, and there are others"


def test_a_model_rests_no_longer_than_two_minutes(world: World) -> None:
    world.refuse("one", 10**8)
    assert world.retry_after_s("one") == 120


def test_a_model_without_a_replica_is_not_said_to_wait_for_its_limit(world: World) -> None:
    world.refuse("one", 9)
    for replica in world.replicas.of("paid"):
        for _ in range(FAILURES_TO_EJECT):
            world.replicas.failed(replica, UpstreamBroken("no"))
    assert (world.up, world.limited_for_s) == ({"far"}, (None,) * 4)
    assert world.retry_after_s("one", "two") == 10


def test_a_last_resort_is_none_for_a_model_that_rests(world: World) -> None:
    world.refuse("one", 9)
    for url in URLS:
        world.replicas.hear(Change("paid", url, "out"))
    fleet = world.replicas.fleet()
    assert (fleet.available, fleet.last_resort) == ((False, True, True, True), (False, True, True, False))
    assert world.replicas.pick(world.models["one"], last_resort=True) is None


def test_other_processes_hear_which_model_rests(world: World) -> None:
    other = World()
    world.refuse("one", 9)
    assert world.told == [Change("paid", URLS[0], "limited", 9, "one")]
    other.replicas.hear(world.told[0])
    assert (other.up, other.limited_for_s) == ({"two", "three", "far"}, (9, None, None, None))
    other.refuse("two", 9)
    assert other.up == {"far"}, "what was heard counts as the first"
    assert [(change.url, change.model) for change in other.told] == [(url, "") for url in URLS]


def test_a_short_rest_is_told_to_nobody(world: World) -> None:
    world.refuse("one")
    assert (world.up, world.told) == ({"two", "three", "far"}, [])


def test_what_is_told_of_a_backend_without_a_model_is_about_all_of_them(world: World) -> None:
    for url in URLS:
        world.replicas.hear(Change("paid", url, "limited", 9))
    assert world.up == {"far"}


@pytest.mark.parametrize(
    "told", [Change("paid", URLS[0], "limited", 9, "another"), Change("paid", "x", "limited", 9, "one")]
)
def test_what_is_told_of_what_is_not_in_the_catalogue_is_passed_over(world: World, told: Change) -> None:
    world.replicas.hear(told)
    assert world.up == {*world.models}
    world.refuse("two", 9)
    assert world.up == {"one", "three", "far"}


def test_what_rests_still_does_after_a_reload_and_is_told_to_those_who_took_over(world: World) -> None:
    world.refuse("one", 9)
    lease = world.lease("two").__enter__()
    before, world.replicas = world.replicas, world.over(world.catalog, world.replicas)
    assert world.up == {"two", "three", "far"}
    end(lease, 5)
    assert world.up == {"far"}
    assert before.pick(world.models["one"]) is None


def test_a_backend_that_is_somewhere_else_after_a_reload_begins_anew(world: World) -> None:
    world.refuse("one", 9)
    moved = catalog(*world.models.values(), urls={"paid": ("http://127.0.0.1:3",)}, kind="openai")
    world.replicas = world.over(moved, world.replicas)
    assert world.up == {*world.models}


def test_rate_limits_are_looked_at_once_for_each_backend_and_each_model_that_rests() -> None:
    asked: list[str | None] = []

    class Counting(Service):
        def limited_for_s(self, now: float, model: str | None = None) -> float | None:
            asked.append(model)
            return super().limited_for_s(now, model)

    models = [model(f"model-{number}", "paid") for number in range(50)]
    (backend,) = catalog(*models).backends
    service = Counting(backend, {one.served_as for one in models})
    view = FleetView(models, {"paid": service}, Speeds(models), lambda replica, now, last_resort: True)
    view.at(0.0)
    assert asked == []
    service.limit("model-7", 9.0)
    view.changed()
    assert view.at(1.0).limited_for_s == (*[None] * 7, 8.0, *[None] * 42)
    assert asked == [None, "model-7"]
