"""What excludes models is counted as the record tells it, without the record being made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from app.domain.models import TokenPrice
from app.errors import GatewayError
from app.routing.record import describe, predicted_quality
from tests.fakes.routing import World, fleet_of, llm, world_of

MODELS = (
    llm("tiny", parameters_b=1, price=TokenPrice(0.1, 0.1), context_tokens=50),
    llm("small", price=TokenPrice(0.2, 0.2), regions={"us"}),
    llm("large", parameters_b=70, price=TokenPrice(9.0, 9.0), capabilities={"chat", "tools"}),
    llm("untested", tested=False),
)
QUALITY = {"tiny": 0.3, "small": 0.6, "large": 0.9}


def world() -> World:
    return world_of(*MODELS, quality=QUALITY, order=("small",))


@pytest.mark.parametrize(
    ("routing", "changes"),
    [
        ({}, {}),
        ({"max_size_b": 10}, {}),
        ({"max_size_b": 10, "regions": ["eu"]}, {}),
        ({"max_cost_usd": 0.0005}, {}),
        ({"max_cost_usd": 0.0001, "regions": ["eu"], "max_latency_s": 2.0}, {}),
        ({}, {"needs": frozenset({"tools"})}),
        ({}, {"input_tokens": 100}),
        ({}, {"allowed_models": frozenset({"small", "large"})}),
        ({"max_size_b": 10}, {"allowed_models": frozenset({"small", "large"})}),
        ({}, {"fleet": fleet_of(*MODELS, down={"small", "tiny"})}),
    ],
)
def test_exclusions_are_counted_as_the_record_tells_them(routing: Mapping[str, Any], changes: dict[str, Any]) -> None:
    there = world()
    fleet = changes.pop("fleet", None)
    decision = there.decide(routing, fleet, **changes)
    told = Counter(str(each["constraint"]) for each in describe(decision)["excluded"])
    assert {name: models for name, models in there.tally.exclusions.items() if models} == told


def test_a_request_that_nothing_is_left_for_counts_what_excluded_all() -> None:
    there = world()
    with pytest.raises(GatewayError):
        there.decide({"regions": ["mars"]})
    with pytest.raises(GatewayError):
        there.decide({"max_cost_usd": 1e-12})
    assert there.tally.exclusions == {"regions": 4, "max_cost_usd": 4}


def test_a_model_that_is_asked_for_by_name_excludes_no_other() -> None:
    there = world()
    there.decide(model="small")
    with pytest.raises(GatewayError):
        there.decide({"max_size_b": 10}, model="large")
    assert not there.tally.exclusions


def test_unfamiliar_prompts_are_told_whatever_decides() -> None:
    there = world()
    assert there.predictor
    there.predictor.unfamiliar = frozenset({"transformer"})
    there.decide()
    there.decide(allowed_models=frozenset({"small"}))
    assert there.tally.unfamiliar == ["transformer", "transformer"]


def test_what_was_predicted_of_any_model_can_be_asked_for() -> None:
    decision = world().decide({"max_size_b": 10})
    assert predicted_quality(decision, "large") == 0.9, "excluded, but predicted"
    assert predicted_quality(decision, "untested") is None
    assert predicted_quality(decision, "no such model") is None
    assert predicted_quality(world_of(*MODELS).decide(), "large") is None
