"""Who reads a prompt: the static encoder alone where it sees clearly, the transformer where it does not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from app.domain.models import TokenPrice
from app.errors import NoEligibleModel
from app.routing.record import describe
from tests.fakes.routing import World, fleet_of, llm, world_of
from tests.fakes.world import request

SMALL = llm("small", parameters_b=1, price=TokenPrice(0.1, 0.1))
LARGE = llm("large", parameters_b=70, price=TokenPrice(10.0, 10.0))
UNTESTED = llm("untested", tested=False)
STATIC_ERROR = 0.1
# On either side of 1.645 times the error.
CLEAR, CLOSE = 0.165, 0.164
BY_TRANSFORMER = {"small": 0.5, "large": 0.6}


def world(margin: float = CLEAR, **changes: Any) -> World:
    """At a glance the small model leads by this margin; the transformer says that the large one is better."""
    world = world_of(SMALL, LARGE, UNTESTED, quality=BY_TRANSFORMER, seen={"small": 0.5, "large": 0.5 - margin})
    assert world.predictor is not None
    world.predictor.static_error = STATIC_ERROR
    for name, value in changes.items():
        setattr(world.predictor, name, value)
    return world


def readings(world: World) -> tuple[int, int]:
    """How often the static encoder and the transformer were asked."""
    assert world.predictor is not None
    return len(world.predictor.glanced), len(world.predictor.asked)


def test_a_clear_margin_is_decided_at_a_glance() -> None:
    clear = world(CLEAR)
    decision = clear.decide()
    assert (decision.chosen.model.name, decision.reason) == ("small", "best")
    assert readings(clear) == (1, 0)
    assert clear.tally.encoders == ["static"]
    assert describe(decision)["encoder"] == "static"


def test_a_margin_that_lengths_may_close_is_not_clear() -> None:
    # On the scale of verbosity a length that is off by .21 in its logarithm is off by .21 / ln(400), three times here.
    margin = 1.645 * math.hypot(STATIC_ERROR, 3 * 0.21 / math.log(400))
    for lead, asked in ((1.01 * margin, 0), (0.99 * margin, 1)):
        seen = world(lead)
        seen.decide({"weights": {"verbosity": 3}})
        assert readings(seen) == (1, asked)


@pytest.mark.parametrize(
    ("margin", "speeds", "at_a_glance"),
    [
        (CLEAR, {"static", "transformer"}, True),
        (CLOSE, {"static", "transformer"}, False),
        (CLEAR, {"static"}, False),
    ],
)
def test_what_would_change_a_choice_at_a_glance_is_said_to_be_one(
    margin: float, speeds: set[str], at_a_glance: bool
) -> None:
    newer = llm("newer", parameters_b=70, released="2026-06-01")
    seen = world_of(SMALL, newer, quality={"small": 0.5, "newer": 0.6}, seen={"small": 0.5, "newer": 0.5 - margin})
    assert seen.predictor is not None
    seen.predictor.static_error, seen.predictor.speeds = STATIC_ERROR, frozenset(speeds)
    told = describe(seen.decide())["counterfactual"]
    caveat = ", at a glance; the transformer would read a choice as close as that, and may differ"
    assert told["at_a_glance"] is at_a_glance
    assert told["sentence"].endswith(f"would be chosen{caveat if at_a_glance else ''}")


def test_a_close_margin_is_decided_by_the_transformer() -> None:
    close = world(CLOSE)
    decision = close.decide()
    assert decision.chosen.model.name == "large"
    assert readings(close) == (1, 1)
    assert close.tally.encoders == ["transformer"]
    assert describe(decision)["encoder"] == "transformer"


def test_the_margin_is_one_of_utility() -> None:
    assert world(CLOSE).order({"weights": {"cost": 1}})[0] == "small"
    cheap = world(CLOSE)
    cheap.decide({"weights": {"cost": 1}})
    assert readings(cheap) == (1, 0), "the price difference makes it clear"
    even = world(CLEAR)
    even.decide({"weights": {"recency": 1, "security": 1}})
    assert readings(even) == (1, 0)
    balanced = world_of(SMALL, LARGE, quality=BY_TRANSFORMER, seen={"small": 0.4, "large": 0.4 + CLEAR})
    balanced.decide({"weights": {"cost": 0.5}})
    assert readings(balanced) == (1, 1), "what it gains in quality it loses in cost"


def test_a_glance_that_is_needed_alone_never_waits() -> None:
    """Driven by hand: anything that was awaited for real would stop at the first step."""
    clear = world(CLEAR)
    with pytest.raises(StopIteration) as ended:
        clear.router.route(request(), fleet_of(*clear.models)).send(None)
    assert ended.value.value.chosen.model.name == "small"


def test_a_prompt_that_is_unfamiliar_at_a_glance_is_looked_at() -> None:
    unfamiliar = world(CLEAR, unfamiliar=frozenset({"static"}))
    assert unfamiliar.decide().reason == "best"
    assert readings(unfamiliar) == (1, 1)


def test_who_asks_for_an_explanation_gets_the_transformers() -> None:
    explained = world(CLEAR)
    explained.decide(explain=True)
    assert readings(explained) == (1, 1)


@pytest.mark.parametrize(("routing", "asked"), [({"min_quality": 0.1}, 1), ({"max_cost_usd": 0.01}, 0)])
def test_a_floor_of_quality_is_judged_by_the_transformer(routing: dict[str, float], asked: int) -> None:
    limited = world(CLEAR)
    limited.decide(routing)
    assert readings(limited) == (1, asked)


def test_nobody_is_refused_at_a_glance() -> None:
    refused = world(CLEAR)
    with pytest.raises(NoEligibleModel):
        refused.decide({"max_cost_usd": 1e-9})
    assert readings(refused) == (1, 1)


def test_one_model_alone_needs_no_transformer() -> None:
    single = world(CLOSE)
    decision = single.decide({"models": ["small"]})
    assert (decision.reason, readings(single)) == ("only", (1, 0))
    named = world(CLOSE)
    named.decide(model="small")
    assert readings(named) == (0, 0)


def test_an_untested_second_is_no_rival() -> None:
    rivals = world(CLOSE)
    assert rivals.order({"models": ["small", "untested"]}) == ["small", "untested"]
    assert readings(rivals) == (1, 0)


def test_a_transformer_that_is_down_leaves_what_was_seen_at_a_glance() -> None:
    down = world(CLOSE, failure="took longer than 0.02 s")
    decision = down.decide()
    assert (decision.chosen.model.name, decision.reason) == ("small", "best")
    assert decision.details == {"predictor_failure": "took longer than 0.02 s"}
    record = describe(decision)
    assert (record["encoder"], record["predictor_failure"]) == ("static", "took longer than 0.02 s")
    assert down.tally.encoders == ["static"]


def test_a_glance_that_fails_leaves_the_transformer_and_is_reported() -> None:
    blind = world(CLEAR, glance_failure="ValueError at a glance")
    decision = blind.decide()
    assert (decision.chosen.model.name, decision.reason) == ("large", "best")
    assert decision.details == {"predictor_failure": "ValueError at a glance"}
    assert blind.tally.encoders == ["transformer"]


def test_when_both_fail_the_profiles_order_decides() -> None:
    broken = world(CLEAR, glance_failure="ValueError at a glance", failure="took longer than 0.02 s")
    decision = broken.decide()
    assert (decision.reason, decision.details) == ("default", {"predictor_failure": "took longer than 0.02 s"})
    assert broken.tally.encoders == []
    record = describe(decision)
    assert (record["encoder"], record["unfamiliar"]) == (None, None)


def test_a_static_encoder_alone_decides_whatever_it_sees() -> None:
    static = world(CLOSE, speeds=frozenset({"static"}), unfamiliar=frozenset())
    assert static.decide({"min_quality": 0.1}, explain=True).chosen.model.name == "small"
    assert readings(static) == (1, 0)
    failing = world(CLOSE, speeds=frozenset({"static"}), glance_failure="ValueError at a glance")
    assert failing.decide().reason == "default"
    assert readings(failing) == (1, 0)


def test_without_a_static_encoder_every_prompt_is_looked_at() -> None:
    slow = world_of(SMALL, LARGE, quality=BY_TRANSFORMER)
    slow.decide()
    assert readings(slow) == (0, 1)
    assert slow.tally.encoders == ["transformer"]
