"""What is said of a decision after a budget left models out: as if they had been excluded before the choice."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.domain.decision import Decision
from app.domain.models import TokenPrice
from app.domain.preferences import parse_body
from app.domain.sessions import Session
from app.routing.narrowing import narrowed
from app.routing.outline import Outlines
from app.routing.record import describe
from tests.fakes.routing import fleet_of, llm, world_of
from tests.fakes.world import request

MODELS = (
    llm("dear", price=TokenPrice(10.0, 10.0)),
    llm("middle", price=TokenPrice(3.0, 3.0)),
    llm("cheap", price=TokenPrice(0.1, 0.1)),
    llm("far", regions={"us"}),
)
WORLD = world_of(*MODELS, quality={"dear": 0.9, "middle": 0.7, "cheap": 0.6, "far": 0.8})
EUROPE = {"regions": ["eu"], "weights": {"cost": 0.1}}


def record_of(decision: Decision) -> dict[str, Any]:
    record = describe(decision)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    return record


def test_the_record_is_that_of_a_choice_among_what_the_budget_pays_for() -> None:
    decision = narrowed(WORLD.decide(EUROPE), [1, 2])
    record = record_of(decision)
    assert (decision.chosen.model.name, record["model"], record["reason"]) == ("middle", "middle", "best")
    assert record["ranking"] == [each["model"] for each in record["candidates"]] == ["middle", "cheap"]
    assert record["pareto"] == ["middle", "cheap"]
    assert [(each["model"], each["constraint"], each["relaxation"]) for each in record["excluded"]] == [
        ("dear", "budget", None),
        ("far", "regions", 'set routing.regions to ["eu", "us"]'),
    ]
    assert record["why"] == (
        "what is left of this key's budget rules out dear; "
        "highest predicted quality among 2 (0.70 against 0.60 for the next), and none is better by the weights "
        "(cost 0.1)"
    )


def test_the_counterfactual_is_about_what_is_left() -> None:
    decision = WORLD.decide(EUROPE)
    before, after = (record_of(each)["counterfactual"] for each in (decision, narrowed(decision, [1, 2])))
    assert [before["model"], after["model"]] == ["cheap", "cheap"]
    assert after["to"] < before["to"]
    assert WORLD.order({**EUROPE, "weights": {"cost": after["to"] * 1.01}, "exclude": ["dear"]})[0] == "cheap"


def test_the_only_one_that_is_left_is_called_that() -> None:
    decision = narrowed(WORLD.decide(EUROPE), [2])
    record = record_of(decision)
    assert (decision.reason, record["reason"], record["counterfactual"]) == ("only", "only", None)
    assert record["why"] == "what is left of this key's budget rules out dear, middle; the only eligible model"


def test_the_outline_says_what_the_record_says() -> None:
    decision = narrowed(WORLD.decide(), [2, 3])
    outline = orjson.loads(orjson.dumps(Outlines().of(decision), option=orjson.OPT_SERIALIZE_NUMPY))
    record = record_of(decision)
    assert (outline["eligible"], outline["estimates"]["model"]) == (2, record["ranking"])
    left_out = [each["model"] for each in record["excluded"]]
    assert outline["excluded"] == {"budget": {"count": 2, "models": left_out}}


@pytest.mark.parametrize(("kept", "reason", "kept_for"), [([0, 1], "session", "tool_call"), ([1, 2], "best", None)])
def test_a_session_has_decided_only_where_its_model_is_left(kept: list[int], reason: str, kept_for: str | None) -> None:
    asked = request(session_id="s", in_tool_call=True, preferences=parse_body(EUROPE).preferences)
    session = Session.after(asked, "cheap")
    before = asyncio.run(WORLD.router.route(asked, fleet_of(*MODELS), session))
    assert (before.chosen.model.name, before.reason) == ("cheap", "session")
    record = record_of(narrowed(before, kept))
    assert (record["reason"], record["session"]["kept_for"]) == (reason, kept_for)


def test_a_long_list_of_what_cannot_be_paid_for_is_counted() -> None:
    many = world_of(*(llm(f"m{number}") for number in range(9)))
    decision = narrowed(many.decide(), [8])
    assert "rules out m0, m1, m2 and 5 more; " in decision.why


# In the catalogue's order "own-1" comes first, in the profile's "own-2".
UNTESTED_LEFT = world_of(
    llm("dear"),
    llm("own-1", tested=False, price=None),
    llm("own-2", tested=False, price=None),
    quality={"dear": 0.9},
    order=("own-2", "own-1", "dear"),
)


def test_what_is_left_is_in_the_profiles_order_where_none_of_it_was_tested() -> None:
    decision = UNTESTED_LEFT.decide()
    assert [each.model.name for each in decision.candidates] == ["dear", "own-1", "own-2"]

    record = record_of(narrowed(decision, [1, 2]))

    without = record_of(UNTESTED_LEFT.decide({"exclude": ["dear"]}))
    for name in ("model", "reason", "ranking", "pareto", "counterfactual", "candidates"):
        assert record[name] == without[name], name
    assert (record["model"], record["reason"]) == ("own-2", "default")
    assert record["why"] == (
        "what is left of this key's budget rules out dear; "
        "first available in the profile's default order: no eligible model was tested"
    )


def test_an_untested_model_in_a_tool_call_goes_on_though_no_tested_one_is_left() -> None:
    asked = request(session_id="s", in_tool_call=True)
    session = Session.after(asked, "own-1")
    before = asyncio.run(UNTESTED_LEFT.router.route(asked, fleet_of(*UNTESTED_LEFT.models), session))
    after = record_of(narrowed(before, [0, 2]))
    assert (after["ranking"], after["reason"]) == (["own-1", "own-2"], "session")
    assert after["session"]["kept_for"] == "tool_call"


def test_where_only_a_last_resort_is_tested_of_what_is_left_the_profiles_order_decides_among_the_others() -> None:
    models = (llm("tested"), llm("sound"), llm("first", tested=False), llm("then", tested=False))
    world = world_of(*models, quality={"tested": 0.9, "sound": 0.5}, order=("tested", "then", "first"))
    decision = world.decide(fleet=replace(fleet_of(*models), last_resort=(True, False, False, False)))
    assert [each.model.name for each in decision.candidates] == ["sound", "first", "then", "tested"]
    left = narrowed(decision, [1, 2, 3])
    assert [each.model.name for each in left.candidates] == ["then", "first", "tested"]
    assert record_of(left)["reason"] == "default"
