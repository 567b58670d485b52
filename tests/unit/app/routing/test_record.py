"""The record of a decision: complete, honest about what is missing, and plain JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.decision import Decision
from app.domain.models import TokenPrice
from app.routing.record import describe
from tests.fakes.routing import llm, world_of
from tests.fakes.world import decision as bare_decision

MODELS = (
    llm("small", parameters_b=1, price=TokenPrice(0.1, 0.1)),
    llm("large", parameters_b=70, price=TokenPrice(10.0, 10.0)),
    llm("dominated", parameters_b=400, price=TokenPrice(20.0, 20.0)),
    llm("far", regions={"us"}),
    llm("untested", tested=False),
)
WORLD = world_of(*MODELS, quality={"small": 0.5, "large": 0.9, "dominated": 0.6, "far": 0.99})


def _record(routing: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    record = describe(WORLD.decide(routing, **changes))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    return record


def test_the_record_has_all_of_a_decision() -> None:
    record = _record({"weights": {"size": 0.2}, "regions": ["eu"]}, input_tokens=20, max_tokens=400)
    assert record["asked"] == {
        "model": "auto:default",
        "weights": {"size": 0.2},
        "max_quality_loss": None,
        "limits": {"regions": ["eu"]},
        "needs": [],
        "uses": [],
        "input_tokens": 20,
        "max_tokens": 400,
        "deadline_s": None,
        "priority": "normal",
        "in_session": False,
    }
    assert (record["model"], record["reason"], record["propensity"]) == ("large", "best", 1.0)
    assert record["versions"] == {"artifact": "made-up-v1", "config": "abc"}
    assert record["ranking"] == ["large", "small", "dominated", "untested"]
    assert record["pareto"] == ["large", "small"]
    assert [each["model"] for each in record["candidates"]] == record["ranking"]
    assert [
        (each["model"], each["constraint"], each["message"], each["relaxation"]) for each in record["excluded"]
    ] == [("far", "regions", "may run in us", 'set routing.regions to ["eu", "us"]')]
    assert record["excluded"][0]["estimates"]["quality"] == 0.99


def test_what_decides_nothing_was_asked_for_all_the_same() -> None:
    asked = _record(deadline_s=2.5, priority="high", session_id="of-alice")["asked"]
    assert (asked["deadline_s"], asked["priority"], asked["in_session"]) == (2.5, "high", True)
    assert "of-alice" not in json.dumps(asked)


def test_how_many_answers_were_asked_for_is_in_it_where_it_is_not_one() -> None:
    assert "choices" not in _record()["asked"]
    assert _record(choices=4)["asked"]["choices"] == 4


def test_every_candidate_has_its_estimates_with_intervals() -> None:
    by_name = {each["model"]: each for each in _record({"weights": {"size": 0.2}, "regions": ["eu"]})["candidates"]}
    large = by_name["large"]
    assert large["quality_interval"] == [0.8, 1.0]
    assert large["output_tokens_interval"] == [50.0, 200.0]
    assert large["utility"] == pytest.approx(0.9 - 0.2 * large["shares"]["size"], abs=1e-6)
    assert large["on_pareto_front"]
    assert not by_name["dominated"]["on_pareto_front"]
    untested = by_name["untested"]
    assert (untested["tested"], untested["quality"], untested["quality_interval"]) == (False, None, None)


def test_the_counterfactual_flips_the_choice() -> None:
    record = _record({"regions": ["eu"]})
    flip = record["counterfactual"]
    assert record["model"] == "large"
    assert (flip["dimension"], flip["from"], flip["model"]) == ("size", 0.0, "small")
    assert flip["sentence"] == f"with weights.size above {flip['to']:.4g} instead of 0, small would be chosen"
    for factor, chosen in ((0.999, "large"), (1.001, "small")):
        changed = _record({"regions": ["eu"], "weights": {"size": flip["to"] * factor}})
        assert changed["model"] == chosen


def test_a_choice_without_weights_has_no_counterfactual() -> None:
    assert _record(model="small")["counterfactual"] is None
    assert describe(world_of(*MODELS).decide())["counterfactual"] is None


def test_other_models_are_no_part_of_the_record_of_a_named_one() -> None:
    record = _record({"regions": ["eu"]}, model="small")
    assert (record["asked"]["model"], record["ranking"], record["excluded"]) == ("small", ["small"], [])


def test_models_of_other_keys_are_not_in_the_record() -> None:
    record = _record({"max_size_b": 70}, allowed_models=frozenset({"small", "dominated"}))
    assert "large" not in json.dumps(record)
    assert [each["model"] for each in record["excluded"]] == ["dominated"]


def test_a_failed_prediction_is_in_the_record() -> None:
    world = world_of(*MODELS, quality={"small": 0.5})
    assert world.predictor is not None
    world.predictor.failure = "took too long"
    record = describe(world.decide())
    assert (record["reason"], record["predictor_failure"], record["pareto"]) == ("default", "took too long", [])


def test_a_decision_without_evidence_is_outlined() -> None:
    outline: Decision = bare_decision("small")
    assert describe(outline)["model"] == "small"
