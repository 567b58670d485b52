"""What the journal keeps of a decision: the same numbers as its record, for the first ten."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest

from app.errors import GatewayError
from app.routing.outline import MOST_CANDIDATES, MOST_NAMED, Outlines
from app.routing.record import describe
from tests.fakes.routing import World, fleet_of, llm, world_of
from tests.fakes.world import decision as bare_decision

MODELS = (llm("small"), llm("large"), llm("far", regions={"us"}), llm("untested", tested=False))
WORLD = world_of(*MODELS, quality={"small": 0.5, "large": 0.9, "far": 0.99}, output_tokens={"large": 300.0})
MANY = world_of(
    *[llm(f"m{number}") for number in range(30)], quality={f"m{number}": number / 30 for number in range(30)}
)


def outlined(
    world: World, routing: dict[str, Any] | None = None, **changes: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The outline, as it is read again, and the record of the same decision."""
    decision = world.decide(routing, **changes)
    outline = orjson.loads(orjson.dumps(Outlines().of(decision), option=orjson.OPT_SERIALIZE_NUMPY))
    return outline, json.loads(json.dumps(describe(decision)))


@pytest.mark.parametrize("routing", [None, {"regions": ["eu"], "weights": {"cost": 0.3}}, {"min_quality": 0.4}])
def test_it_says_what_the_record_says(routing: dict[str, Any] | None) -> None:
    outline, record = outlined(WORLD, routing)
    for name in ("propensity", "encoder", "unfamiliar", "versions"):
        assert outline[name] == record[name]
    assert outline["eligible"] == len(record["candidates"])
    assert outline["estimates"]["model"] == record["ranking"]
    for place, candidate in enumerate(record["candidates"]):
        for name in ("quality", "cost_usd", "output_tokens", "latency_s"):
            assert outline["estimates"][name][place] == (
                None if candidate[name] is None else pytest.approx(candidate[name], rel=1e-5)
            )
    excluded = {(one["constraint"], one["model"]) for one in record["excluded"]}
    assert {(name, model) for name, one in outline.get("excluded", {}).items() for model in one["models"]} == excluded


@pytest.mark.parametrize(
    ("routing", "changes", "counts", "encoder"),
    [
        ({"max_cost_usd": 1e-9}, {}, {"max_cost_usd": 4}, "transformer"),
        ({"max_size_b": 1}, {}, {"max_size_b": 4}, None),
        ({"max_size_b": 1, "regions": ["us"]}, {"model": "large"}, {"max_size_b": 1, "regions": 1}, None),
        ({"min_quality": 0.95}, {"allowed_models": frozenset({"small"})}, {"min_quality": 1}, "transformer"),
        ({}, {"fleet": fleet_of(*MODELS, down=[one.name for one in MODELS])}, {"availability": 4}, None),
    ],
)
def test_what_excluded_all_is_said_where_nothing_was_decided(
    routing: dict[str, Any], changes: dict[str, Any], counts: dict[str, int], encoder: str | None
) -> None:
    with pytest.raises(GatewayError) as caught:
        WORLD.decide(routing, **changes)
    told = Outlines().of_refusal(caught.value.evidence)
    assert {constraint: excluded["count"] for constraint, excluded in told["excluded"].items()} == counts
    assert all(len(excluded["models"]) == excluded["count"] for excluded in told["excluded"].values())
    assert (told["eligible"], told.get("encoder")) == (0, encoder)
    assert told["versions"] == {"artifact": "made-up-v1", "config": "abc"}


def test_nothing_is_said_of_what_has_no_evidence() -> None:
    assert Outlines().of_refusal(None) == {}


def test_what_the_first_is_expected_to_cost_stays_the_same_after_all_was_told() -> None:
    decision = WORLD.decide()
    before = decision.chosen.estimate
    Outlines().of(decision)
    assert before == decision.chosen.estimate
    assert before.cost_usd is not None


def test_a_long_tail_is_counted_rather_than_kept() -> None:
    outline, _ = outlined(MANY)
    assert (len(outline["estimates"]["model"]), outline["eligible"]) == (MOST_CANDIDATES, 30)
    outline, _ = outlined(MANY, {"min_quality": 0.9})
    excluded = outline["excluded"]["min_quality"]
    assert (excluded["count"], len(excluded["models"])) == (27, MOST_NAMED)


def test_what_the_fleet_excludes_is_told_too() -> None:
    outline, _ = outlined(WORLD, fleet=fleet_of(*MODELS, down=("large",)))
    assert outline["excluded"] == {"availability": {"count": 1, "models": ["large"]}}


def test_models_of_other_keys_are_not_counted_as_excluded() -> None:
    outline, _ = outlined(WORLD, allowed_models=frozenset({"small", "far"}))
    assert "excluded" not in outline


def test_a_decision_without_evidence_came_from_nothing() -> None:
    assert Outlines().of(bare_decision("small")) == {"propensity": 1.0}


def test_single_precision_is_exact_enough_for_money() -> None:
    assert float(np.float32(0.0002419562335596109)) == pytest.approx(0.0002419562335596109, rel=1e-7)
