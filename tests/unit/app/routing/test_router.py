"""Which model a request gets, for which reason, and what happens when nothing is predicted."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest

from app.domain.models import TokenPrice
from app.domain.request import Preferences
from app.errors import NoEligibleModel, UnknownModel, UpstreamError, UpstreamRateLimited, UpstreamUnreachable
from app.routing.record import describe
from tests.fakes.routing import FakeCurve, fleet_of, llm, world_of
from tests.fakes.world import request

SMALL = llm("small", parameters_b=1, price=TokenPrice(0.1, 0.1))
MIDDLE = llm("middle", parameters_b=14, price=TokenPrice(1.0, 1.0))
LARGE = llm("large", parameters_b=70, price=TokenPrice(10.0, 10.0))
QUALITY = {"small": 0.5, "middle": 0.7, "large": 0.9}


def test_without_weights_the_highest_predicted_quality_wins() -> None:
    world = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY)
    decision = world.decide()
    assert [each.model.name for each in decision.candidates] == ["large", "middle", "small"]
    assert decision.reason == "best"
    assert decision.why == "highest predicted quality among 3 (0.90 against 0.70 for the next)"
    assert decision.chosen.utility == 0.9


def test_a_weight_gives_quality_up_and_says_for_what() -> None:
    decision = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY).decide({"weights": {"cost": 3}})
    assert decision.chosen.model.name == "small"
    assert decision.why == (
        "cheaper at a predicted quality of 0.50, against 0.90 for large, the highest of 3 (weights: cost 3)"
    )


def test_models_that_nothing_is_predicted_of_are_not_counted() -> None:
    decision = world_of(SMALL, LARGE, llm("new", tested=False), quality=QUALITY).decide({"weights": {"cost": 3}})
    assert decision.why.endswith("against 0.90 for large, the highest of 2 (weights: cost 3)")


def test_numbers_that_look_alike_are_told_apart() -> None:
    decision = world_of(SMALL, LARGE, quality={"small": 0.9012, "large": 0.9}).decide()
    assert "0.901 against 0.900 for the next" in decision.why


def test_a_named_model_is_tried_alone_and_nothing_is_predicted_for_it() -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    decision = world.decide(model="small")
    assert [each.model.name for each in decision.candidates] == ["small"]
    assert (decision.reason, decision.why) == ("named", "asked for by name")
    assert world.predictor is not None
    assert world.predictor.asked == []


@pytest.mark.parametrize(
    "routing", [{"max_size_b": 14}, {"max_cost_usd": 1e-9}, {"min_quality": 0.95}, {"exclude": ["large"]}]
)
def test_limits_hold_for_a_named_model_too(routing: dict[str, Any]) -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    with pytest.raises(NoEligibleModel) as caught:
        world.decide(routing, model="large")
    assert caught.value.details is not None
    assert {each["model"] for each in caught.value.details["excluded"]} == {"large"}


def test_a_named_model_keeps_a_limit_that_needs_a_prediction() -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    assert world.order({"max_cost_usd": 0.01}, model="large") == ["large"]


def test_a_named_model_without_a_replica_is_a_503() -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    with pytest.raises(UpstreamUnreachable):
        world.decide(model="large", fleet=fleet_of(*world.models, down={"large"}))


@pytest.mark.parametrize(
    ("limited_for_s", "status", "wait_s"), [((8.2, 4.2), 429, 5), ((8.2, None), 503, 2), ((), 503, 2)]
)
def test_models_that_only_wait_for_their_rate_limits_are_a_429(
    limited_for_s: tuple[float | None, ...], status: int, wait_s: int
) -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    fleet = replace(fleet_of(*world.models, down={"small", "large"}), limited_for_s=limited_for_s)
    with pytest.raises(UpstreamError) as caught:
        world.decide(fleet=fleet)
    assert (caught.value.status, caught.value.retry_after_s) == (status, wait_s)


def test_only_what_a_request_could_use_counts_for_whether_it_waits_for_a_rate_limit() -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    fleet = replace(fleet_of(*world.models, down={"small", "large"}), limited_for_s=(8.2, None))
    with pytest.raises(UpstreamRateLimited):
        world.decide({"exclude": ["large"]}, fleet=fleet)


def test_a_model_that_is_not_there_and_one_that_is_not_allowed_look_the_same() -> None:
    world = world_of(SMALL, LARGE)
    texts = []
    for name in ("nobody", "large"):
        with pytest.raises(UnknownModel) as caught:
            world.decide(model=name, allowed_models=frozenset({"small"}))
        texts.append(caught.value.message.replace(name, "X"))
    assert texts[0] == texts[1]
    with pytest.raises(UnknownModel, match="auto:nowhere"):
        world.decide(profile="nowhere")


def test_an_untested_model_may_be_named_or_be_a_fallback_but_is_never_chosen_on_quality() -> None:
    untested = llm("untested", parameters_b=0.1, price=TokenPrice(0.0, 0.0), tested=False)
    world = world_of(untested, SMALL, quality={"small": 0.01})
    assert world.order({"weights": {"cost": 20, "size": 20}}) == ["small", "untested"]
    assert world.decide().why == "the only tested one among 2 (predicted quality 0.01)"
    assert world.order(model="untested") == ["untested"]


def test_where_all_tested_models_are_a_last_resort_the_profiles_order_decides_among_the_others() -> None:
    models = (SMALL, llm("one", tested=False), llm("two", tested=False))
    world = world_of(*models, quality={"small": 0.9}, order=("two", "small", "one"))
    decision = world.decide(fleet=replace(fleet_of(*models), last_resort=(True, False, False)))
    assert [each.model.name for each in decision.candidates] == ["two", "one", "small"]
    assert decision.reason == "default"
    assert decision.why == (
        "small fails too often at the moment, so it is tried last; "
        "first available in the profile's default order: no other eligible model was tested"
    )
    assert describe(decision)["model"] == "two"


def test_a_single_eligible_model_is_only() -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    assert world.decide({"max_size_b": 14}).reason == "only"


def test_without_a_predictor_the_profiles_order_decides_and_the_rest_follows() -> None:
    world = world_of(SMALL, MIDDLE, LARGE, order=("large", "gone", "small"))
    decision = world.decide({"weights": {"cost": 5}})
    assert [each.model.name for each in decision.candidates] == ["large", "small", "middle"]
    assert decision.reason == "default"
    assert "no router model is loaded" in decision.why
    assert "predictor_failure" not in decision.details


def test_a_failing_predictor_costs_no_request_and_is_reported() -> None:
    world = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY, order=("middle",))
    assert world.predictor is not None
    world.predictor.failure = "took longer than 0.02 s"
    decision = world.decide({"max_size_b": 20})
    assert [each.model.name for each in decision.candidates] == ["middle", "small"]
    assert (decision.reason, decision.details) == ("default", {"predictor_failure": "took longer than 0.02 s"})
    assert "took longer than 0.02 s" in decision.why


def test_limits_that_need_a_prediction_do_not_pass_without_one() -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    assert world.predictor is not None
    world.predictor.failure = "on purpose"
    with pytest.raises(NoEligibleModel, match=r"leave out routing\.max_cost_usd"):
        world.decide({"max_cost_usd": 1.0})
    assert world.order({"max_ttft_s": 1.0}) == ["small", "large"], "the first token needs no prediction"


def test_the_prompt_is_what_is_predicted_about() -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    world.decide(conversation=(("user", "hello"),))
    assert world.predictor is not None
    assert world.predictor.asked == [(("user", "hello"),)]


def test_a_quality_loss_becomes_a_weight_on_cost() -> None:
    curve = FakeCurve(weight=3.0)
    world = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY, curve=curve)
    decision = world.decide({"max_quality_loss": 0.02})
    assert decision.chosen.model.name == "small"
    assert decision.why == (
        "a weight on cost of 3 keeps the average loss within 0.02: cheaper at a predicted quality of 0.50, "
        "against 0.90 for large, the highest of 3 (weights: cost 3)"
    )


@pytest.mark.parametrize(
    ("weights", "beside"),
    [({"size": 0.1}, "weight on size"), ({"latency": 0.1, "size": 0.2, "recency": 0.0}, "weights on latency, size")],
)
def test_beside_other_weights_no_loss_of_quality_is_promised(weights: dict[str, float], beside: str) -> None:
    """They are subtracted as well, and what all of them together lose was never measured."""
    world = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY, curve=FakeCurve(weight=3.0))
    decision = world.decide({"max_quality_loss": 0.02, "weights": weights})
    assert decision.why.startswith(
        "a weight on cost of 3 would keep the average loss within 0.02 on its own; what is lost to the "
        f"{beside} comes on top: "
    )


def test_where_no_weight_keeps_the_loss_the_best_single_model_comes_first() -> None:
    world = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY, curve=FakeCurve(best="middle"))
    decision = world.decide({"max_quality_loss": 0.001})
    assert [each.model.name for each in decision.candidates] == ["middle", "large", "small"]
    assert decision.why == (
        "no weight on cost keeps the average loss within 0.001 with confidence and costs less, "
        "so the best single model: predicted quality 0.70 here"
    )


def test_where_the_best_single_model_comes_first_other_weights_have_no_say() -> None:
    world = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY, curve=FakeCurve(best="large"))
    decision = world.decide({"max_quality_loss": 0.001, "weights": {"size": 5.0}})
    assert decision.chosen.model.name == "large"
    assert decision.why == (
        "no weight on cost keeps the average loss within 0.001 with confidence and costs less, "
        "so the best single model, whatever the weight on size: "
        "highest predicted quality among 3 (0.90 against 0.70 for the next)"
    )


@pytest.mark.parametrize("curve", [None, FakeCurve(best=None, least_loss=1.0)])
def test_where_nothing_is_measured_predicted_quality_decides(curve: FakeCurve | None) -> None:
    world = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY, curve=curve)
    decision = world.decide({"max_quality_loss": 0.02})
    assert decision.chosen.model.name == "large"
    assert "0.02" in decision.why


def test_a_curve_is_worked_out_once_for_each_set_of_usable_models() -> None:
    curve = FakeCurve()
    untested = llm("untested", tested=False)
    world = world_of(SMALL, MIDDLE, LARGE, untested, quality=QUALITY, curve=curve)
    for loss in (0.01, 0.02):
        world.decide({"max_quality_loss": loss})
        world.decide({"max_quality_loss": loss, "max_cost_usd": 0.0005})
        world.decide({"max_quality_loss": loss, "max_size_b": 20})
    assert curve.asked == [["small", "middle", "large"], ["small", "middle"]]


async def test_requests_that_come_together_share_one_curve() -> None:
    curve = FakeCurve()
    world = world_of(SMALL, LARGE, quality=QUALITY, curve=curve)
    await world.router.tabulate()
    assert curve.asked == [["small", "large"]]
    fleet = fleet_of(*world.models, down={"large"})
    asked = request(preferences=_losing(0.02))
    await asyncio.gather(*(world.router.route(asked, fleet) for _ in range(5)))
    assert curve.asked == [["small", "large"], ["small"]]


def _losing(loss: float) -> Preferences:
    """Only a loss of quality."""
    return Preferences(max_quality_loss=loss)


def test_candidates_are_always_the_same_objects() -> None:
    candidates = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY).decide().candidates
    assert candidates[0] is next(iter(candidates))
    assert [id(each) for each in candidates] == [id(each) for each in candidates[:]]
    assert candidates[-1] is candidates[2]
    assert (len(candidates), candidates[2].utility) == (3, 0.5)
    with pytest.raises(IndexError):
        candidates[3]


def test_decisions_have_ids_of_their_own() -> None:
    world = world_of(SMALL, LARGE, quality=QUALITY)
    assert len({world.decide().decision_id for _ in range(50)}) == 50


def test_a_remembered_decision_keeps_no_router_model_in_memory() -> None:
    world = world_of(SMALL, MIDDLE, LARGE, quality=QUALITY)
    assert world.predictor is not None
    decision, predictor = world.decide(), weakref.ref(world.predictor)
    del world
    gc.collect()
    assert predictor() is None
    assert decision.why.startswith("highest predicted quality")
