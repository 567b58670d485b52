"""What is remembered of a conversation: the same for the same caller, nothing for another, and never too much."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decision import Decision, Encoder
from app.domain.request import Conversation, Request
from app.routing.recall import LONG_CHARS, Recall
from router_models.prediction import PredictionRow
from tests.fakes.routing import FakeQualityPredictor, World, fleet_of, llm, world_of
from tests.fakes.world import request

SMALL, LARGE = llm("small"), llm("large")
LONG = "long " * LONG_CHARS


def asked(*messages: tuple[str, str], key_id: str = "ann") -> Request:
    return replace(request(), conversation=messages, key_id=key_id)


def row() -> PredictionRow:
    return FakeQualityPredictor({"small": 0.5}).row()


def world(close: bool = False) -> World:
    """The transformer is asked where the glance is close."""
    return world_of(
        SMALL, LARGE, quality={"small": 0.9, "large": 0.5}, seen={"small": 0.5 if close else 0.9, "large": 0.5}
    )


def decide(world: World, one: Request) -> Decision:
    return asyncio.run(world.router.route(one, fleet_of(SMALL, LARGE), tally=world.tally))


@pytest.mark.parametrize("text", ["short", LONG])
@pytest.mark.parametrize("close", [False, True])
def test_the_same_conversation_of_the_same_caller_is_read_once(text: str, close: bool) -> None:
    said = world(close)
    assert said.predictor is not None

    first, second = (decide(said, asked(("user", text))) for _ in range(2))

    assert (len(said.predictor.glanced), len(said.predictor.asked)) == (1, int(close))
    assert first.chosen.estimate == second.chosen.estimate
    assert first.decision_id != second.decision_id
    assert len(said.tally.encoders) == 2


@pytest.mark.parametrize("text", ["short", LONG])
def test_no_caller_meets_what_another_one_sent(text: str) -> None:
    said = world(close=True)
    assert said.predictor is not None

    for number in range(100):
        decide(said, asked(("user", text), key_id=f"key-{number}"))

    assert (len(said.predictor.glanced), len(said.predictor.asked)) == (100, 100)


def test_what_changes_between_two_requests_changes_the_second_decision() -> None:
    said, one = world(), asked(("user", "hello"))
    assert decide(said, one).chosen.model.name == "small"

    narrowed = replace(one, allowed_models=frozenset({"large"}))
    down = asyncio.run(said.router.route(one, fleet_of(SMALL, LARGE, down=["small"])))

    assert decide(said, narrowed).chosen.model.name == down.chosen.model.name == "large"


def test_a_failure_is_not_remembered() -> None:
    said, one = world(close=True), asked(("user", "hello"))
    assert said.predictor is not None
    said.predictor.failure = "no luck"
    assert decide(said, one).details == {"predictor_failure": "no luck"}

    said.predictor.failure = None

    assert decide(said, one).details == {}


_TEXTS = st.one_of(st.text("ab\0", max_size=4), st.sampled_from([LONG, LONG + "a", "a" + LONG, "\ud800"]))
_CONVERSATIONS = st.lists(st.tuples(st.sampled_from(["user", "system", "a"]), _TEXTS), max_size=3).map(tuple)
_NAMES = st.tuples(st.sampled_from(["", "ann", "bob"]), st.sampled_from(["static", "transformer"]), _CONVERSATIONS)


@given(_NAMES, _NAMES)
def test_two_names_are_equal_only_for_the_same_caller_encoder_and_conversation(
    one: tuple[str, Encoder, Conversation], other: tuple[str, Encoder, Conversation]
) -> None:
    recall = Recall()
    names = [recall.name(encoder, asked(*said, key_id=key_id)) for key_id, encoder, said in (one, other)]

    assert (names[0] == names[1]) == (one == other)


def test_who_was_not_asked_for_longest_goes_first() -> None:
    recall = Recall(most_entries=2)
    first, second, third = (recall.name("static", asked(("user", text))) for text in ("1", "2", "3"))

    recall.keep(first, row())
    recall.keep(second, row())
    assert recall.find(first) is not None
    recall.keep(third, row())

    assert [recall.find(name) is not None for name in (first, second, third)] == [True, False, True]


def test_a_long_conversation_is_not_kept_itself() -> None:
    assert LONG not in str(Recall().name("static", asked(("system", "be kind"), ("user", LONG))))
