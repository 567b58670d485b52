"""What is expected of a model: cost, time, and nothing where something is missing."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from app.domain.decision import Estimate
from app.domain.models import Speed, TokenPrice
from app.domain.vocabulary import VOCABULARY
from app.routing.estimates import Expected
from app.routing.evidence import Evidence
from app.routing.outline import Outlines
from app.routing.record import describe
from tests.fakes.routing import fleet_of, llm, world_of

MODEL = llm("one", price=TokenPrice(2.0, 10.0), speed=Speed(1000.0, 0.02))


def test_cost_and_time_follow_from_the_predicted_length() -> None:
    world = world_of(MODEL, quality={"one": 0.75}, output_tokens={"one": 300.0})
    estimate = world.decide(input_tokens=500, fleet=fleet_of(MODEL, wait_s={"one": 0.25})).chosen.estimate
    assert asdict(estimate) == pytest.approx(
        {
            "quality": 0.75,
            "output_tokens": 300.0,
            "cost_usd": (500 * 2.0 + 300 * 10.0) / 1e6,
            "ttft_s": 0.25 + 0.5,
            "latency_s": 0.25 + 0.5 + 300 * 0.02,
        }
    )


def test_what_was_seen_of_late_counts_more_than_the_card() -> None:
    world = world_of(MODEL, quality={"one": 0.75}, output_tokens={"one": 100.0})
    seen = fleet_of(MODEL, s_per_output_token={"one": 0.1})
    assert world.decide(input_tokens=0, fleet=seen).chosen.estimate.latency_s == pytest.approx(10.0)


def test_what_a_template_adds_is_paid_for_too() -> None:
    world = world_of(MODEL, quality={"one": 0.75}, output_tokens={"one": 300.0})
    seen = replace(fleet_of(MODEL), template_tokens=(30.0,))
    estimate = world.decide(input_tokens=500, fleet=seen).chosen.estimate
    assert estimate.cost_usd == pytest.approx((530 * 2.0 + 300 * 10.0) / 1e6)


def test_an_answer_is_not_longer_than_the_caller_lets_it_be() -> None:
    world = world_of(MODEL, quality={"one": 0.75}, output_tokens={"one": 300.0})
    estimate = world.decide(input_tokens=0, max_tokens=50).chosen.estimate
    assert estimate.cost_usd == pytest.approx(50 * 10.0 / 1e6)
    assert estimate.output_tokens == 50.0


@pytest.mark.parametrize(
    ("asked", "tokens", "interval"),
    [
        ({}, 300.0, [150.0, 600.0]),
        ({"max_tokens": 1000}, 300.0, [150.0, 600.0]),
        ({"max_tokens": 400}, 300.0, [150.0, 400.0]),
        ({"max_tokens": 50}, 50.0, [50.0, 50.0]),
        ({"max_tokens": 0}, 0.0, [0.0, 0.0]),
        ({"least_tokens": 400}, 400.0, [400.0, 600.0]),
        ({"least_tokens": 10_000_000}, 4096.0, [4096.0, 4096.0]),
    ],
)
def test_there_is_one_expected_length_whoever_reads_it(
    asked: dict[str, Any], tokens: float, interval: list[float]
) -> None:
    world = world_of(MODEL, quality={"one": 0.75}, output_tokens={"one": 300.0})
    decision = world.decide({"weights": {"verbosity": 1}}, input_tokens=0, **asked)
    (told,), outline = describe(decision)["candidates"], Outlines().of(decision)
    assert (told["output_tokens"], told["output_tokens_interval"]) == (tokens, interval)
    assert told["shares"]["verbosity"] == pytest.approx(_verbosity(tokens), abs=1e-6)
    assert told["cost_usd"] == pytest.approx(tokens * 10.0 / 1e6)
    assert told["latency_s"] == pytest.approx(tokens * 0.02)
    assert outline["estimates"]["output_tokens"].tolist() == [tokens]
    assert decision.chosen.estimate.output_tokens == tokens


def _verbosity(tokens: float) -> float:
    return float(VOCABULARY.dimension["verbosity"].scale.share(np.array([tokens]))[0])


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({"least_tokens": 400}, 400),
        ({"least_tokens": 100}, 300),
        ({"least_tokens": 400, "max_tokens": 400}, 400),
        ({"least_tokens": 400, "max_tokens": 350}, 350),
        ({"least_tokens": 10_000_000}, 4096),
    ],
    ids=["longer than predicted", "predicted to be longer", "exactly so long", "no more than allowed", "no end"],
)
def test_an_answer_is_not_shorter_than_the_caller_wants_it(asked: dict[str, Any], tokens: int) -> None:
    world = world_of(MODEL, quality={"one": 0.75}, output_tokens={"one": 300.0})
    estimate = world.decide(input_tokens=0, **asked).chosen.estimate
    assert estimate.cost_usd == pytest.approx(tokens * 10.0 / 1e6)
    assert estimate.latency_s == pytest.approx(tokens * 0.02)
    assert estimate.output_tokens == tokens


def test_every_choice_is_paid_for_and_all_are_written_at_the_same_time() -> None:
    world = world_of(MODEL, quality={"one": 0.75}, output_tokens={"one": 300.0})
    estimate = world.decide(input_tokens=500, choices=4).chosen.estimate
    assert estimate.cost_usd == pytest.approx((500 * 2.0 + 4 * 300 * 10.0) / 1e6)
    assert estimate.latency_s == pytest.approx(0.5 + 300 * 0.02)


def test_every_choice_takes_its_energy() -> None:
    world = world_of(MODEL, quality={"one": 0.75}, output_tokens={"one": 300.0})
    evidence = world.decide(input_tokens=500, choices=4).evidence
    assert isinstance(evidence, Evidence)
    energy = VOCABULARY.dimension["energy"].value(Expected(evidence.case))
    assert energy.tolist() == pytest.approx([0.4 * (500 + 4 * 300) / 1000])


@pytest.mark.parametrize("asked", [{"choices": 4}, {"least_tokens": 4000}, {"least_tokens": 10_000_000}], ids=str)
def test_a_limit_on_cost_is_one_on_all_that_is_written(asked: dict[str, Any]) -> None:
    cheap = llm("cheap", price=TokenPrice(0.1, 1.0))
    world = world_of(MODEL, cheap, quality={"one": 0.9, "cheap": 0.5})
    limit = {"max_cost_usd": 0.0011 if "choices" in asked else 0.005}
    assert world.order(limit, input_tokens=10) == ["one", "cheap"]
    assert world.order(limit, input_tokens=10, **asked) == ["cheap"]


def test_a_limit_on_the_length_is_one_on_each_choice() -> None:
    world = world_of(MODEL, quality={"one": 0.75}, output_tokens={"one": 300.0})
    assert world.order({"max_output_tokens": 300}, choices=4) == ["one"]


def test_what_is_missing_stays_missing() -> None:
    bare = llm("bare", price=None, speed=None)
    estimate = world_of(bare, quality={"bare": 0.5}).decide().chosen.estimate
    assert (estimate.quality, estimate.cost_usd, estimate.ttft_s, estimate.latency_s) == (0.5, None, None, None)


def test_a_free_answer_costs_nothing_however_long_it_is() -> None:
    free, priced = llm("free", price=TokenPrice(0.0, 0.0), tested=False), llm("priced")
    world = world_of(free, priced, quality={"priced": 0.5})
    assert world.order({"max_cost_usd": 1e-9}, model="free") == ["free"]
    by_name = {each.model.name: each.estimate.cost_usd for each in world.decide(input_tokens=0).candidates}
    assert by_name == {"free": 0.0, "priced": pytest.approx(100 / 1e6)}


def test_a_model_without_a_stated_speed_has_the_one_that_was_seen() -> None:
    bare = llm("bare", speed=None)
    world = world_of(bare, quality={"bare": 0.5}, output_tokens={"bare": 10.0})
    written = fleet_of(bare, s_per_output_token={"bare": 0.1})
    estimate = world.decide(fleet=replace(written, ttft_s=(0.5,))).chosen.estimate
    assert (estimate.ttft_s, estimate.latency_s) == pytest.approx((0.5, 1.5))
    assert world.decide(fleet=written).chosen.estimate.latency_s is None


def test_an_untested_model_is_not_predicted_even_among_tested_ones() -> None:
    tested, untested = llm("tested"), llm("untested", tested=False)
    world = world_of(untested, tested, quality={"other": 0.1, "tested": 0.2})
    by_name = {each.model.name: each.estimate for each in world.decide().candidates}
    assert by_name["tested"].quality == 0.2
    assert by_name["untested"] == Estimate(None, None, None, 0.012, None)
