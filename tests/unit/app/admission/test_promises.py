"""What was promised of answers is compared with what came, and with one model for everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.admission.promises import Baseline, Promises
from app.domain.decision import Candidate, Decision, Estimate
from app.domain.models import TokenPrice
from app.domain.request import Preferences
from app.domain.usage import Usage
from app.errors import GatewayError, UpstreamBroken, UpstreamRejected
from app.store.journal.journal import Outcome
from app.telemetry.metrics import Metrics
from app.upstream.answers.answer import Answer, Form
from app.upstream.http.deadline import CutShort, OutOfTime
from app.upstream.served import Served
from tests.fakes.world import model, request

SMALL, LARGE = model("small"), replace(model("large"), price=TokenPrice(1.0, 20.0))
ESTIMATE = Estimate(0.7, output_tokens=100.0, cost_usd=0.0002, ttft_s=0.1, latency_s=1.0)
USAGE = Usage(100, 150)


def counted(
    limits: Mapping[str, Any] | None = None,
    error: GatewayError | None = None,
    baseline: Baseline | None = None,
    **changes: Any,
) -> Metrics:
    """What is counted of one answer of the small model: 150 tokens in 2 s, of which the first came after 0.2 s."""
    metrics = Metrics(["small", "large"], ["default"])
    candidate = Candidate(SMALL, 0.7, lambda: ESTIMATE)
    answer = Answer(Form("small", stream=True))
    answer.complete, answer.error = error is None, error
    decision = Decision("dec-1", (candidate,), "best", lambda: "it was asked for")
    served = Served(decision, candidate, 1, answer, "http://10.0.0.1:8000", 0.03)
    outcome = Outcome("ok", "small", usage=USAGE, cost_usd=USAGE.cost_usd(SMALL.price), ttft_s=0.2, duration_s=2.0)
    asked = request(**{"stream": True, "preferences": Preferences(limits or {}), **changes})
    Promises(metrics.promises, baseline).answered(asked, served, outcome)
    return metrics


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"thalamus_{name}", labels)


@pytest.mark.parametrize(
    ("quantity", "predicted", "realised"),
    [("output_tokens", 100, 150), ("cost_usd", 0.0002, 0.0004), ("latency_s", 1.0, 2.0), ("ttft_s", 0.1, 0.2)],
)
def test_what_came_is_set_beside_what_was_predicted(quantity: str, predicted: float, realised: float) -> None:
    metrics = counted()
    labels = {"quantity": quantity, "model": "small"}
    assert sample(metrics, "predicted_sum_total", **labels) == pytest.approx(predicted)
    assert sample(metrics, "realised_sum_total", **labels) == pytest.approx(realised)
    assert sample(metrics, "realised_to_predicted_ratio_sum", **labels) == pytest.approx(realised / predicted)


def test_what_all_choices_took_is_set_beside_what_was_predicted_of_all() -> None:
    metrics = counted(choices=3)
    assert sample(metrics, "predicted_sum_total", quantity="output_tokens", model="small") == 300


def test_a_limit_on_the_length_is_one_on_each_choice() -> None:
    metrics = counted({"max_output_tokens": 75}, choices=2)
    labels = {"limit": "max_output_tokens", "profile": "default", "outcome": "kept"}
    assert sample(metrics, "limit_attainment_total", **labels) == 1


def test_nobody_sees_when_an_answer_in_one_piece_began() -> None:
    metrics = counted({"max_ttft_s": 0.1}, stream=False)
    assert sample(metrics, "predicted_sum_total", quantity="ttft_s", model="small") is None
    assert sample(metrics, "limit_attainment_total", limit="max_ttft_s", profile="default", outcome="missed") == 0


@pytest.mark.parametrize(
    ("limit", "value", "outcome"),
    [
        ("max_latency_s", 2.0, "kept"),
        ("max_latency_s", 1.9, "missed"),
        ("max_ttft_s", 0.1, "missed"),
        ("max_cost_usd", 0.001, "kept"),
        ("max_output_tokens", 149, "missed"),
    ],
)
def test_who_asked_for_a_limit_got_it_or_not(limit: str, value: float, outcome: str) -> None:
    metrics = counted({limit: value})
    assert sample(metrics, "limit_attainment_total", limit=limit, profile="default", outcome=outcome) == 1


def test_a_deadline_is_a_limit() -> None:
    metrics = counted(deadline_s=1.5)
    assert sample(metrics, "limit_attainment_total", limit="deadline_s", profile="default", outcome="missed") == 1


def test_limits_that_nobody_asked_for_are_not_counted() -> None:
    assert _limits_counted(counted()) == 0


def _limits_counted(metrics: Metrics) -> float:
    told = (each for family in metrics.registry.collect() for each in family.samples)
    return sum(each.value for each in told if each.name == "thalamus_limit_attainment_total")


def test_half_an_answer_misses_limits_on_time_and_is_not_compared() -> None:
    metrics = counted({"max_latency_s": 60.0, "max_cost_usd": 1.0}, UpstreamBroken("it stopped"))
    attained = {"profile": "default", "outcome": "missed"}
    assert sample(metrics, "limit_attainment_total", limit="max_latency_s", **attained) == 1
    assert sample(metrics, "limit_attainment_total", limit="max_cost_usd", **attained) == 0
    assert b"thalamus_realised_sum_total{" not in metrics.render()


@pytest.mark.parametrize("error", [UpstreamRejected("no", status=400, code="x"), CutShort("we stop"), ValueError()])
def test_what_is_nobodys_fault_breaks_no_promise(error: BaseException) -> None:
    metrics = Metrics(["small"], ["default"])
    asked = request(preferences=Preferences({"max_latency_s": 1.0}), deadline_s=1.0)
    Promises(metrics.promises).failed(asked, error)
    assert _limits_counted(metrics) == 0


def test_time_that_was_over_misses_the_deadline() -> None:
    metrics = Metrics(["small"], ["default"])
    Promises(metrics.promises).failed(request(deadline_s=1.0), OutOfTime("over"))
    assert sample(metrics, "limit_attainment_total", limit="deadline_s", profile="default", outcome="missed") == 1


def test_a_routed_answer_is_counted_at_the_prices_and_the_quality_of_the_baseline() -> None:
    metrics = counted(baseline=Baseline(LARGE, lambda decision, name: {"large": 0.9}[name]))
    labels = {"baseline": "large", "profile": "default"}
    assert sample(metrics, "routed_cost_usd_total", profile="default") == pytest.approx(0.0004)
    assert sample(metrics, "baseline_cost_usd_total", **labels) == pytest.approx(0.0031)
    assert sample(metrics, "routed_quality_total", **labels) == 0.7
    assert sample(metrics, "baseline_quality_total", **labels) == 0.9
    assert sample(metrics, "quality_compared_total", **labels) == 1


def test_a_model_that_was_asked_for_by_name_is_not_compared() -> None:
    metrics = counted(baseline=Baseline(LARGE, lambda decision, name: 0.9), model="small")
    assert b"thalamus_baseline_cost_usd_total{" not in metrics.render()


def test_a_baseline_without_a_price_leaves_the_routed_cost_uncounted_too() -> None:
    metrics = counted(baseline=Baseline(replace(LARGE, price=None), lambda decision, name: None))
    assert sample(metrics, "routed_cost_usd_total", profile="default") is None
    assert b"thalamus_quality_compared_total{" not in metrics.render()
