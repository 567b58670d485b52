"""What a session changes about a choice, and what it never does."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.decision import Decision, Fleet
from app.domain.models import Speed, TokenPrice
from app.domain.preferences import parse_body
from app.domain.request import Request
from app.domain.sessions import Session
from app.errors import GatewayError
from app.routing.outline import Outlines
from app.routing.record import describe
from app.routing.sessions import WARM_S
from tests.fakes.routing import World, fleet_of, llm, world_of
from tests.fakes.world import request

# What is read costs a tenth when it is in the cache.
CACHED = TokenPrice(1.0, 1.0, 0.1)
SMALL, LARGE = (llm(name, price=CACHED, context_tokens=32_000) for name in ("small", "large"))
WEIGHED = {"weights": {"cost": 0.5}}
SAID = (("user", "hello"), ("assistant", "hi"), ("user", "and now?"))


def asked(routing: Mapping[str, Any] | None = None, **changes: Any) -> Request:
    facts: dict[str, Any] = {"conversation": SAID, "input_tokens": 5_000, "session_id": "s", "key_id": "ann"}
    return request(**{**facts, "preferences": parse_body(routing).preferences, **changes})


def left_by(model: str, tokens: int = 4_900, age_s: float = 1.0) -> Session:
    """A session that this model has answered, and of which it has read so much."""
    before = asked(conversation=SAID[:1], input_tokens=tokens)
    return replace(Session.after(before, model), age_s=age_s)


def decide(world: World, one: Request, session: Session | None, fleet: Fleet | None = None) -> Decision:
    return asyncio.run(world.router.route(one, fleet or fleet_of(*world.models), session))


def close_world(**quality: float) -> World:
    """The large model is a little better, at the same price."""
    return world_of(SMALL, LARGE, quality=quality or {"small": 0.80, "large": 0.82})


def test_a_switch_is_priced_at_the_cache_that_it_abandons() -> None:
    world, one = close_world(), asked(WEIGHED)
    assert decide(world, one, None).chosen.model.name == "large"

    kept = decide(world, one, left_by("small"))

    assert (kept.chosen.model.name, kept.reason) == ("small", "session")
    assert kept.why == "small has about 4900 tokens of this session in its cache, which large would have to read anew"
    assert kept.chosen.estimate.cost_usd == pytest.approx((4_900 * 0.1 + 100 * 1.0 + 100 * 1.0) / 1e6)


def test_what_is_cached_is_read_in_no_time() -> None:
    world, one = close_world(), asked({"weights": {"latency": 0.5}})
    kept = decide(world, one, left_by("small"))
    assert (kept.chosen.model.name, kept.reason) == ("small", "session")
    assert kept.chosen.estimate.ttft_s == pytest.approx(100 / 1000)


@pytest.mark.parametrize(
    ("one", "session"),
    [
        (asked(), left_by("small")),
        (asked(WEIGHED), left_by("small", tokens=10)),
        (asked(WEIGHED), left_by("small", age_s=WARM_S + 1)),
        (asked(WEIGHED, conversation=(("user", "something else"),)), left_by("small")),
    ],
    ids=["nothing is weighed", "little is cached", "long ago", "another conversation"],
)
def test_a_cache_that_is_worth_nothing_keeps_nobody(one: Request, session: Session) -> None:
    decision = decide(close_world(), one, session)
    assert (decision.chosen.model.name, decision.reason) == ("large", "best")


def test_a_better_model_is_worth_a_cache() -> None:
    decision = decide(close_world(small=0.2, large=0.9), asked(WEIGHED), left_by("small"))
    assert (decision.chosen.model.name, decision.reason) == ("large", "best")


def test_who_would_have_been_chosen_anyway_is_not_the_session_s_doing() -> None:
    decision = decide(close_world(), asked(WEIGHED), left_by("large"))
    assert (decision.chosen.model.name, decision.reason) == ("large", "best")


def test_no_switch_is_made_inside_an_open_tool_call() -> None:
    world = close_world(small=0.1, large=0.9)
    kept = decide(world, asked(in_tool_call=True), left_by("small", age_s=WARM_S + 1))
    assert [each.model.name for each in kept.candidates] == ["small", "large"]
    assert kept.reason == "session"
    assert kept.why == "small is in the middle of a tool call of this session, so it goes on instead of large"


def test_inside_an_open_tool_call_nobody_waits_for_the_transformer() -> None:
    world = world_of(SMALL, LARGE, quality={"small": 0.1, "large": 0.9}, seen={"small": 0.5, "large": 0.5})
    assert world.predictor is not None
    decide(world, asked(in_tool_call=True), left_by("small"))
    assert world.predictor.asked == []


def test_a_model_that_waits_for_a_tool_goes_on_though_the_prompt_may_be_too_long_for_it() -> None:
    world = world_of(replace(SMALL, card=replace(SMALL.card, context_tokens=9_000)), LARGE)
    assert decide(world, asked(in_tool_call=False), left_by("small")).chosen.model.name == "large"
    assert decide(world, asked(in_tool_call=True), left_by("small")).chosen.model.name == "small"


def test_a_session_s_model_that_may_not_or_cannot_answer_is_left_even_inside_a_tool_call() -> None:
    world, held = close_world(), left_by("small")
    ejected = decide(world, asked(in_tool_call=True), held, fleet_of(SMALL, LARGE, down=["small"]))
    narrowed = decide(world, asked(in_tool_call=True, allowed_models=frozenset({"large"})), held)
    limited = decide(world, asked({"exclude": ["small"]}, in_tool_call=True), held)
    removed = decide(world, asked(in_tool_call=True), replace(held, model="gone"))
    assert [each.chosen.model.name for each in (ejected, narrowed, limited, removed)] == ["large"] * 4
    assert [each.reason for each in (ejected, narrowed, limited, removed)] == ["only", "only", "only", "best"]
    assert describe(narrowed)["session"] is None, "a model that the key may not use is not mentioned"


def test_limits_are_judged_as_if_nothing_were_cached() -> None:
    """It costs 0.0051 USD, or 0.0007 with the cache; a cache that has gone must not make a limit a lie."""
    world, one = close_world(), asked({"max_cost_usd": 0.001})
    refusals = []
    for session in (None, left_by("small")):
        with pytest.raises(GatewayError) as caught:
            decide(world, one, session)
        refusals.append(caught.value.message)
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize("fails", [False, True])
def test_where_the_numbers_do_not_count_nothing_speaks_for_a_switch(fails: bool) -> None:
    world = world_of(SMALL, LARGE, quality={"small": 0.1, "large": 0.9}, order=("large", "small"))
    assert world.predictor is not None
    world.predictor.failure = "no luck" if fails else None
    world.predictor.unfamiliar = frozenset({"transformer"})
    kept = decide(world, asked(), left_by("small"))
    assert (kept.chosen.model.name, kept.reason) == ("small", "session")
    assert kept.why.endswith("nothing that is predicted speaks for a switch to large")


def test_without_a_router_model_the_operator_s_order_counts_but_for_open_tool_calls() -> None:
    world = world_of(SMALL, LARGE, order=("large", "small"))
    assert decide(world, asked(), left_by("small")).chosen.model.name == "large"
    held = decide(world, asked(in_tool_call=True), left_by("small"))
    assert (held.chosen.model.name, held.reason) == ("small", "session")


def test_who_is_named_answers_whatever_the_session() -> None:
    decision = decide(close_world(), asked(WEIGHED, model="large", in_tool_call=True), left_by("small"))
    assert (decision.chosen.model.name, decision.reason) == ("large", "named")


def test_the_record_says_what_the_session_did() -> None:
    world = close_world()
    kept = describe(decide(world, asked(WEIGHED), left_by("small")))
    assert kept["session"] == {
        "model": "small",
        "cached_tokens": 4_900,
        "in_tool_call": False,
        "kept_for": "cache",
        "instead_of": "large",
    }
    assert kept["candidates"][0]["cost_usd"] == pytest.approx(0.00069)
    assert kept["counterfactual"]["model"] == "large"
    held = describe(decide(world, asked(in_tool_call=True), left_by("small")))
    assert (held["session"]["kept_for"], held["counterfactual"]) == ("tool_call", None)
    assert describe(decide(world, asked(), None))["session"] is None


def test_the_journal_tells_the_same_and_counts_who_is_excluded_without_the_cache() -> None:
    decided = decide(close_world(), asked(WEIGHED), left_by("small"))
    assert decided.chosen.estimate.cost_usd == pytest.approx(0.00069)
    kept = Outlines().of(decided)
    assert (kept["session"]["kept_for"], kept["session"]["instead_of"]) == ("cache", "large")

    free = llm("free", price=TokenPrice(0.0, 0.0), context_tokens=32_000)
    world = world_of(SMALL, LARGE, free, quality={"small": 0.8, "large": 0.9, "free": 0.1})
    limited = Outlines().of(decide(world, asked({"max_cost_usd": 0.001}), left_by("small")))
    assert (limited["estimates"]["model"], limited["excluded"]["max_cost_usd"]["count"]) == (["free"], 2)
    assert "session" not in Outlines().of(decide(world, asked(), None))


PRICES = st.sampled_from([None, TokenPrice(0.1, 0.4), TokenPrice(1.0, 1.0, 0.1), TokenPrice(9.0, 9.0, 0.0)])
SPEEDS = st.sampled_from([None, Speed(100.0, 0.01), Speed(9000.0, 0.001)])
LIMITS = st.fixed_dictionaries(
    {"weights": st.dictionaries(st.sampled_from(["cost", "latency", "size"]), st.floats(0, 2))},
    optional={"max_cost_usd": st.floats(0, 0.05), "max_ttft_s": st.floats(0, 20), "min_quality": st.floats(0, 0.9)},
)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[World, Fleet, Session]:
    count = draw(st.integers(2, 5))
    models = [
        llm(f"m{number}", price=draw(PRICES), speed=draw(SPEEDS), context_tokens=32_000) for number in range(count)
    ]
    quality = {model.name: draw(st.floats(0, 1)) for model in models}
    down = draw(st.sets(st.sampled_from(list(quality))))
    session = left_by(draw(st.sampled_from([*quality, "gone"])), draw(st.integers(0, 6_000)))
    return world_of(*models, quality=quality), fleet_of(*models, down=down), session


def outcome(world: World, one: Request, session: Session | None, fleet: Fleet) -> list[str] | str:
    try:
        return [each.model.name for each in decide(world, one, session, fleet).candidates]
    except GatewayError as exc:
        return exc.message


@patient
@given(_worlds(), LIMITS, st.booleans())
def test_a_session_admits_and_excludes_nobody(
    drawn: tuple[World, Fleet, Session], limits: dict[str, Any], in_tool_call: bool
) -> None:
    world, fleet, session = drawn
    one = asked(limits, in_tool_call=in_tool_call)
    without, within = outcome(world, one, None, fleet), outcome(world, one, session, fleet)
    if isinstance(without, str):
        assert within == without
        return
    assert sorted(within) == sorted(without)
    if in_tool_call and session.model in without:
        assert within[0] == session.model


@patient
@given(_worlds(), LIMITS)
def test_another_model_more_never_turns_two_others_around(
    drawn: tuple[World, Fleet, Session], limits: dict[str, Any]
) -> None:
    """At given estimates, of which the cache is a part."""
    world, _, session = drawn
    one = asked({"weights": limits["weights"]})
    order = outcome(world, one, session, fleet_of(*world.models))
    for pair in itertools.combinations(order, 2):
        two = replace(one, allowed_models=frozenset(pair))
        assert outcome(world, two, session, fleet_of(*world.models)) == list(pair)
