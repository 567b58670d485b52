"""A prompt unlike all that was learned from: the profile's order answers, and the record says why."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.models import TokenPrice
from app.errors import NoEligibleModel
from app.routing.record import describe
from tests.fakes.gateway import bench
from tests.fakes.routing import FakeCurve, World, llm, world_of
from tests.fakes.upstream import FakeUpstream
from tests.fakes.world import FakeKey, catalog, request

SMALL = llm("small", parameters_b=1, price=TokenPrice(0.1, 0.1))
MIDDLE = llm("middle", parameters_b=14, price=TokenPrice(1.0, 1.0))
LARGE = llm("large", parameters_b=70, price=TokenPrice(10.0, 10.0))
QUALITY = {"small": 0.5, "middle": 0.7, "large": 0.9}
UNLIKE = "this prompt is unlike what the router model learned from, so "
DEFAULT_ORDER = "the first eligible model of the profile's default order answers"


def world(encoders: tuple[str, ...] = ("static", "transformer"), **changes: Any) -> World:
    world = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY, seen=QUALITY, **changes)
    assert world.predictor is not None
    world.predictor.unfamiliar = frozenset(encoders)
    return world


def test_the_profiles_order_answers_and_says_why() -> None:
    decision = world(order=("middle",)).decide({"weights": {"cost": 5}})
    assert [each.model.name for each in decision.candidates] == ["middle", "small", "large"]
    assert decision.reason == "abstained"
    assert decision.why == UNLIKE + DEFAULT_ORDER + ", whatever the weights (cost 5)"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, ""),
        ({"weights": {"cost": 0}}, ""),
        ({"max_size_b": 100}, ""),
        ({"weights": {"cost": 0.25, "latency": 0, "size": 1}}, ", whatever the weights (cost 0.25, size 1)"),
        ({"max_quality_loss": 0.02}, ", whatever the max_quality_loss of 0.02"),
        (
            {"weights": {"latency": 0.3}, "max_quality_loss": 0.02},
            ", whatever the weights (latency 0.3) and the max_quality_loss of 0.02",
        ),
    ],
)
def test_what_was_asked_for_and_has_no_part_in_the_order_is_named(asked: dict[str, Any], said: str) -> None:
    abstained = world(order=("middle",), curve=FakeCurve(best="large")).decide(asked)
    assert (abstained.reason, abstained.why) == ("abstained", UNLIKE + DEFAULT_ORDER + said)

    unpredicted = world_of(SMALL, MIDDLE, LARGE).decide(asked)
    assert unpredicted.reason == "default"
    assert unpredicted.why == f"first available in the profile's default order{said}: no router model is loaded"


def test_the_record_keeps_the_estimates_and_says_that_the_prompt_is_unfamiliar() -> None:
    record = describe(world(order=("middle",)).decide({"weights": {"cost": 5}}))
    assert (record["model"], record["reason"], record["unfamiliar"]) == ("middle", "abstained", True)
    assert record["encoder"] == "transformer"
    assert {each["model"]: each["quality"] for each in record["candidates"]} == QUALITY
    assert (record["counterfactual"], record["applied"]["weights"]) == (None, {})
    assert describe(world(()).decide())["unfamiliar"] is False


def test_hard_limits_hold_as_the_estimates_are() -> None:
    limited = world(order=("large", "small"))
    assert limited.order({"max_size_b": 20}) == ["small", "middle"]
    assert limited.order({"max_cost_usd": 0.0005}) == ["small", "middle"]
    assert limited.order({"min_quality": 0.6}) == ["large", "middle"]
    with pytest.raises(NoEligibleModel):
        limited.decide({"min_quality": 0.95})


def test_without_an_order_the_best_single_model_answers() -> None:
    decision = world(curve=FakeCurve(best="middle")).decide({"weights": {"cost": 5}})
    assert [each.model.name for each in decision.candidates] == ["middle", "small", "large"]
    assert decision.reason == "abstained"
    assert decision.why == (
        UNLIKE + "middle answers, the best single model where models were measured side by side, "
        "whatever the weights (cost 5)"
    )
    assert describe(decision)["applied"]["best_single_model"] == "middle"
    assert world(curve=FakeCurve(best="middle")).order({"max_quality_loss": 0.02})[0] == "middle"


@pytest.mark.parametrize("curve", [None, FakeCurve(best=None), FakeCurve(best="large")])
def test_without_an_order_or_a_best_single_model_the_catalogue_decides(curve: FakeCurve | None) -> None:
    decision = world(curve=curve).decide({"max_cost_usd": 0.0005})
    assert [each.model.name for each in decision.candidates] == ["small", "middle"]
    assert decision.why == UNLIKE + "the first eligible model of the catalogue answers"


def test_what_only_a_glance_finds_unfamiliar_is_not() -> None:
    assert world(("static",)).decide().reason == "best"
    assert world(("transformer",)).decide(explain=True).reason == "abstained"


def test_a_glance_that_is_all_there_is_abstains_too() -> None:
    alone = world(("static",), order=("middle",))
    assert alone.predictor is not None
    alone.predictor.failure = "took longer than 0.02 s"
    decision = alone.decide()
    assert (decision.chosen.model.name, decision.reason) == ("middle", "abstained")
    assert decision.details == {"predictor_failure": "took longer than 0.02 s"}


def test_who_has_no_choice_has_nothing_to_abstain_from() -> None:
    curve = FakeCurve()
    assert world(curve=curve).decide({"models": ["large"], "weights": {"cost": 1}}).reason == "only"
    named = world(curve=curve).decide({"max_cost_usd": 0.01, "weights": {"cost": 1}}, model="small")
    assert (named.reason, describe(named)["applied"]["weights"]) == ("named", {"cost": 1.0})
    assert curve.asked == []


def test_where_nothing_eligible_was_tested_nothing_is_abstained_from() -> None:
    untested = world_of(llm("a", tested=False), llm("b", tested=False), quality={"other": 0.5})
    assert untested.predictor is not None
    untested.predictor.unfamiliar = frozenset({"transformer"})
    assert untested.decide().reason == "default"


async def test_the_callers_header_and_the_metric_say_so() -> None:
    abstaining = world(order=("middle",))
    gateway = bench(catalog(*abstaining.models), FakeUpstream(middle=b"hello"), router=abstaining.router)
    served = await gateway.gateway.complete(request(), FakeKey())
    assert served.headers()["x-thalamus-reason"] == "abstained"
    assert gateway.sample("thalamus_decisions_total", model="middle", profile="default", reason="abstained") == 1
    await served.answer.aclose()
