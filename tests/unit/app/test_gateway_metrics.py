"""What operators see of a request: by key, by limit, by stage, and what its caller thinks of it."""

from __future__ import annotations

from typing import Any

import pytest

from app.admission.promises import Baseline
from app.domain.request import Preferences
from app.errors import NoEligibleModel, RateLimited, UpstreamBroken, UpstreamRateLimited, UpstreamTimeout
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import Bench, bench
from tests.fakes.routing import llm
from tests.fakes.routing import world_of as routing_world
from tests.fakes.upstream import FakeExchange, FakeUpstream
from tests.fakes.world import FakeKey, catalog, model, request

KEY = FakeKey()
SMALL, LARGE = model("small"), model("large")


def world_of(upstream: FakeUpstream, clock: FakeClock | None = None) -> Bench:
    baseline = Baseline(LARGE, lambda decision, name: 0.95)
    there = bench(catalog(SMALL, LARGE), upstream, clock=clock or FakeClock(), baseline=baseline)
    there.metrics.names.know_keys([KEY.id])
    return there


class Slow(FakeUpstream):
    """Takes two seconds to answer, or as many as it is told."""

    def __init__(self, clock: FakeClock, seconds: float = 2.0, **answers: Any) -> None:
        super().__init__(**answers)
        self._clock, self._seconds = clock, seconds

    async def send(self, *args: Any) -> FakeExchange:
        self._clock.advance(self._seconds)
        return await super().send(*args)


async def test_a_key_is_counted_with_what_it_spent_and_how_its_requests_ended() -> None:
    world = world_of(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(request(), KEY)
    assert [piece async for piece in served.answer]
    served.answer.close()
    assert world.sample("thalamus_key_requests_total", key="tester", outcome="ok") == 1
    spent = world.sample("thalamus_key_cost_usd_total", key="tester")
    assert spent == world.sample("thalamus_cost_usd_total", model="small", profile="default") > 0


async def test_a_request_that_a_limit_turned_away_counts_for_its_key() -> None:
    world = world_of(FakeUpstream(small=b"hello"))
    busy = FakeKey(concurrency=1)
    served = await world.gateway.complete(request(), busy)
    with pytest.raises(RateLimited):
        await world.gateway.complete(request(), busy)
    served.answer.close()
    assert world.sample("thalamus_key_requests_total", key="tester", outcome="rate_limit_exceeded") == 1


async def test_a_quota_of_a_backends_is_told_from_a_limit_of_the_key() -> None:
    world = world_of(FakeUpstream(small=UpstreamRateLimited("no"), large=UpstreamRateLimited("no")))
    with pytest.raises(UpstreamRateLimited) as caught:
        await world.gateway.complete(request(), KEY)
    assert caught.value.code == "rate_limit_exceeded"
    assert world.sample("thalamus_requests_total", operation="chat", outcome="upstream_rate_limited") == 1
    assert world.sample("thalamus_key_requests_total", key="tester", outcome="upstream_rate_limited") == 1
    assert [line["outcome"] for line in world.completed] == ["upstream_rate_limited"]


async def test_a_request_that_names_its_model_counts_for_no_profile() -> None:
    world = world_of(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(request(model="small", deadline_s=60.0), KEY)
    assert [piece async for piece in served.answer]
    served.answer.close()
    assert world.sample("thalamus_cost_usd_total", model="small", profile="named") > 0
    assert world.sample("thalamus_decisions_total", model="small", profile="named", reason="best") == 1
    kept = {"limit": "deadline_s", "outcome": "kept"}
    assert world.sample("thalamus_limit_attainment_total", profile="named", **kept) == 1
    assert world.sample("thalamus_limit_attainment_total", profile="default", **kept) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_is_counted_as_its_headers_say(stream: bool) -> None:
    world = world_of(FakeUpstream(small=[UpstreamBroken("no")] * 9, large=b"hello"))
    served = await world.gateway.complete(request(stream=stream), KEY)
    said = {name: served.headers()[f"x-thalamus-{name}"] for name in ("model", "reason")}
    assert said == {"model": "large", "reason": "fallback"}
    assert _decisions(world) == {("large", "default", "fallback"): 1}, "as soon as it has begun"
    served.answer.close()
    assert _decisions(world) == {("large", "default", "fallback"): 1}
    assert world.sample("thalamus_predicted_quality_count", model="large") == 1


async def test_a_decision_that_nobody_answered_is_counted_for_who_was_asked_last() -> None:
    world = world_of(FakeUpstream(small=[UpstreamBroken("no")] * 9, large=[UpstreamBroken("no")] * 9))
    with pytest.raises(UpstreamBroken) as caught:
        await world.gateway.complete(request(), KEY)
    assert caught.value.decided["x-thalamus-reason"] == "fallback"
    assert _decisions(world) == {("large", "default", "fallback"): 1}


async def test_a_decision_that_nobody_was_asked_for_is_counted_as_it_was_made() -> None:
    world = world_of(FakeUpstream())
    with pytest.raises(UpstreamTimeout):
        await world.gateway.complete(request(deadline_s=0.001), KEY)
    assert _decisions(world) == {("small", "default", "best"): 1}


async def test_what_is_only_explained_is_in_no_figure_of_decisions() -> None:
    deciding = routing_world(llm("small"), llm("large", parameters_b=70), quality={"small": 0.5, "large": 0.9})
    world = bench(catalog(*deciding.models), FakeUpstream(small=b"hello"), router=deciding.router)
    asked = request(preferences=Preferences({"max_size_b": 10.0}))

    def told() -> list[float]:
        return [
            world.sample("thalamus_exclusions_total", constraint="max_size_b"),
            world.sample("thalamus_predictions_total", encoder="transformer"),
            world.sample("thalamus_predicted_quality_count", model="small"),
            world.sample("thalamus_overhead_seconds_count", stage="decision"),
            sum(_decisions(world).values()),
        ]

    await world.gateway.explain(asked, KEY)
    with pytest.raises(NoEligibleModel):
        await world.gateway.explain(request(preferences=Preferences({"max_size_b": 1.0})), KEY)
    assert told() == [0] * 5
    (await world.gateway.complete(asked, KEY)).answer.close()
    assert told() == [1] * 5


def _decisions(world: Bench) -> dict[tuple[str, ...], float]:
    """Those that there were, by model, profile and reason."""
    world.metrics.render()
    told = (each for family in world.metrics.registry.collect() for each in family.samples)
    return {
        tuple(each.labels[name] for name in ("model", "profile", "reason")): each.value
        for each in told
        if each.name == "thalamus_decisions_total" and each.value
    }


async def test_admission_and_decision_and_all_of_the_overhead_are_stages() -> None:
    world = world_of(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(request(), KEY)
    served.answer.close()
    stages = {
        stage: world.sample("thalamus_overhead_seconds_count", stage=stage)
        for stage in ("admission", "decision", "total")
    }
    assert stages == {"admission": 1, "decision": 1, "total": 1}


async def test_an_answer_that_takes_longer_than_was_asked_for_misses_its_limit() -> None:
    clock = FakeClock()
    world = world_of(Slow(clock, small=b"hello"), clock)
    asked = request(preferences=Preferences({"max_latency_s": 1.0}))
    served = await world.gateway.complete(asked, KEY)
    assert [piece async for piece in served.answer]
    served.answer.close()
    missed = {"limit": "max_latency_s", "profile": "default", "outcome": "missed"}
    assert world.sample("thalamus_limit_attainment_total", **missed) == 1
    assert world.sample("thalamus_deadline_misses_total", when="before_answer") == 0


async def test_a_deadline_that_passed_is_a_miss_and_so_is_the_limit_on_time() -> None:
    clock = FakeClock()
    world = world_of(Slow(clock, small=UpstreamBroken("no"), large=b"hello"), clock)
    with pytest.raises(UpstreamTimeout):
        await world.gateway.complete(request(deadline_s=1.0, preferences=Preferences({"max_ttft_s": 1.0})), KEY)
    assert world.sample("thalamus_deadline_misses_total", when="before_answer") == 1
    for limit in ("deadline_s", "max_ttft_s"):
        missed = {"limit": limit, "profile": "default", "outcome": "missed"}
        assert world.sample("thalamus_limit_attainment_total", **missed) == 1


@pytest.mark.parametrize("deadline_s", [None, 60.0])
async def test_who_would_have_waited_longer_than_the_gateway_has_missed_no_deadline(deadline_s: float | None) -> None:
    clock = FakeClock()
    world = world_of(Slow(clock, 6.0, small=UpstreamBroken("no"), large=b"hello"), clock)
    with pytest.raises(UpstreamTimeout):
        await world.gateway.complete(request(deadline_s=deadline_s), KEY)
    assert world.sample("thalamus_requests_total", operation="chat", outcome="upstream_timeout") == 1
    assert world.sample("thalamus_deadline_misses_total", when="before_answer") == 0


async def test_a_fallback_is_compared_with_the_baseline_by_who_answered() -> None:
    world = world_of(FakeUpstream(small=UpstreamBroken("no"), large=b"hello"))
    served = await world.gateway.complete(request(), KEY)
    served.answer.close()
    routed = world.sample("thalamus_routed_cost_usd_total", profile="default")
    assert routed == world.sample("thalamus_baseline_cost_usd_total", baseline="large", profile="default") > 0


async def test_what_a_caller_thinks_is_counted_beside_what_was_predicted() -> None:
    world = world_of(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(request(), KEY)
    served.answer.close()
    await world.gateway.decisions.rate({"decision_id": served.decision.decision_id, "score": 0.25}, KEY)
    labels = {"model": "small", "predicted": "0.8-1.0"}
    assert world.sample("thalamus_feedback_total", **labels) == 1
    assert world.sample("thalamus_feedback_quality_total", **labels) == 0.25
    assert world.sample("thalamus_feedback_predicted_quality_total", **labels) == pytest.approx(0.9)
