"""What is expected of a model: cost, time, and nothing where something is missing."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from app.domain.decision import Estimate
from app.domain.models import Speed, TokenPrice
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
    assert estimate.output_tokens == 300.0, "the prediction stays what it was"


def test_what_is_missing_stays_missing() -> None:
    bare = llm("bare", price=None, speed=None)
    estimate = world_of(bare, quality={"bare": 0.5}).decide().chosen.estimate
    assert (estimate.quality, estimate.cost_usd, estimate.ttft_s, estimate.latency_s) == (0.5, None, None, None)


def test_an_untested_model_is_not_predicted_even_among_tested_ones() -> None:
    tested, untested = llm("tested"), llm("untested", tested=False)
    world = world_of(untested, tested, quality={"other": 0.1, "tested": 0.2})
    by_name = {each.model.name: each.estimate for each in world.decide().candidates}
    assert by_name["tested"].quality == 0.2
    assert by_name["untested"] == Estimate(None, None, None, 0.012, None)
