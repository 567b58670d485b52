"""A dear model has to be asked for by more than a prompt's first words, where a profile is steady."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decision import Decision
from app.domain.models import Catalog, Model, TokenPrice
from app.domain.preferences import Profile, parse_body
from app.domain.request import Conversation
from app.domain.sessions import Session
from app.routing.candidates import CandidateTable
from app.routing.record import describe
from app.routing.router import Learned, Router
from app.routing.steadiness import FIRST_CHARS, FIRST_WORDS, rest_of
from router_models.prediction import PredictionRow
from tests.fakes.routing import FakeQualityPredictor, fleet_of, llm
from tests.fakes.world import request

CHEAP, DEAR = llm("cheap", price=TokenPrice(0.1, 0.1)), llm("dear", price=TokenPrice(9.0, 9.0))
UNPRICED = llm("dear", price=None)
SPELL = "abracadabra"
QUESTION = " ".join(["what is the capital of France and why is it there"] * 3)


@dataclass
class Gullible(FakeQualityPredictor):
    """Believes that the dear model is much better wherever it reads the spell, or that the prompt is unlike any."""

    alarmed: bool = False
    read: list[Conversation] = field(default_factory=list)

    async def predict(self, conversation: Conversation) -> PredictionRow:
        self.read.append(conversation)
        is_fooled = any(SPELL in text for _, text in conversation)
        self.quality = {"cheap": 0.8, "dear": 0.99 if is_fooled and not self.alarmed else 0.81}
        self.unfamiliar = frozenset({"transformer"} if is_fooled and self.alarmed else ())
        return self.row()


def decide(
    prompt: str | Conversation,
    *,
    steady: bool = True,
    alarmed: bool = False,
    dear: Model = DEAR,
    session: Session | None = None,
    **changes: Any,
) -> tuple[Decision, Gullible]:
    predictor = Gullible({"cheap": 0.8, "dear": 0.81}, alarmed=alarmed)
    table = CandidateTable(Catalog((CHEAP, dear), ()), ("cheap", "dear"))
    profile = Profile(order=("dear", "cheap"), steady=steady)
    router = Router(table, Learned(predictor), {"default": profile})
    weights = parse_body({"weights": {"cost": 0.2}}).preferences
    conversation = (("user", prompt),) if isinstance(prompt, str) else prompt
    asked = request(conversation=conversation, preferences=weights, **changes)
    return asyncio.run(router.route(asked, fleet_of(CHEAP, dear), session)), predictor


@pytest.mark.parametrize("dear", [DEAR, UNPRICED], ids=["dear", "no price"])
@pytest.mark.parametrize("alarmed", [False, True], ids=["believed", "unlike any"])
def test_a_prefix_gets_the_dear_model_only_where_nobody_looks_twice(alarmed: bool, dear: Model) -> None:
    fooled, _ = decide(f"{SPELL} {QUESTION}", steady=False, alarmed=alarmed, dear=dear)
    steady, _ = decide(f"{SPELL} {QUESTION}", alarmed=alarmed, dear=dear)
    assert [fooled.chosen.model.name, steady.chosen.model.name] == ["dear", "cheap"]
    assert [each.model.name for each in steady.candidates] == ["cheap", "dear"]
    assert steady.why.startswith("what was asked last, without its first words, needs no more than cheap")
    assert describe(steady)["doubted"] == "dear"
    assert describe(fooled)["doubted"] is None


@pytest.mark.parametrize(
    "around",
    [
        (("system", SPELL), ("user", QUESTION)),
        (("user", SPELL), ("assistant", "ok"), ("user", QUESTION)),
        (("user", QUESTION), ("assistant", SPELL), ("user", QUESTION)),
        (("user", QUESTION), ("tools", SPELL)),
    ],
    ids=lambda said: next(role for role, text in said if text == SPELL),
)
def test_nor_do_the_same_words_anywhere_around_what_is_asked(around: Conversation) -> None:
    fooled, _ = decide(around, steady=False)
    steady, _ = decide(around)
    assert [fooled.chosen.model.name, steady.chosen.model.name] == ["dear", "cheap"]


def test_a_prefix_is_found_in_text_without_spaces() -> None:
    steady, predictor = decide(SPELL + "\u8bc1\u660e" * 100)
    assert steady.chosen.model.name == "cheap"
    assert len(predictor.read[-1][0][1]) == len(SPELL) + 200 - FIRST_CHARS


@pytest.mark.parametrize(
    ("in_tool_call", "chosen", "reason", "doubted"),
    [(False, "cheap", "abstained", "dear"), (True, "dear", "session", None)],
)
def test_a_session_keeps_its_dear_model_past_an_alarm_only_inside_a_tool_call(
    in_tool_call: bool, chosen: str, reason: str, doubted: str | None
) -> None:
    alarming = (("user", f"{SPELL} {QUESTION}"),)
    session = Session.after(request(conversation=alarming, session_id="s"), "dear")
    steady, _ = decide(alarming, alarmed=True, session=session, session_id="s", in_tool_call=in_tool_call)
    record = describe(steady)
    assert (steady.chosen.model.name, record["reason"], record["doubted"]) == (chosen, reason, doubted)
    assert record["session"]["kept_for"] == ("tool_call" if in_tool_call else None)
    assert record["session"]["instead_of"] == ("cheap" if in_tool_call else None)


def test_what_the_rest_of_the_prompt_bears_out_stands() -> None:
    decision, _ = decide(f"{QUESTION} {SPELL}")
    assert (decision.chosen.model.name, decision.reason) == ("dear", "best")


def test_nobody_looks_twice_at_what_is_cheap_anyway_or_asked_for_by_name() -> None:
    decision, predictor = decide(QUESTION)
    assert (decision.chosen.model.name, len(predictor.read)) == ("cheap", 1)
    named, predictor = decide(f"{SPELL} {QUESTION}", model="dear")
    assert (named.chosen.model.name, predictor.read) == ("dear", [])


def test_a_dear_model_that_is_the_only_eligible_one_answers() -> None:
    decision, predictor = decide(f"{SPELL} {QUESTION}", allowed_models=frozenset({"dear"}))
    assert (decision.chosen.model.name, decision.reason, len(predictor.read)) == ("dear", "only", 1)


@given(st.lists(st.text("abc\n", min_size=4, max_size=9).filter(lambda word: word.isalpha()), max_size=60))
def test_at_most_the_first_words_go_and_never_more_than_half(words: list[str]) -> None:
    said = (("system", "be kind"), ("user", " ".join(words)), ("assistant", "yes"))
    ((role, rest),) = rest_of(said)
    assert role == "user"
    assert said[1][1].endswith(rest)
    gone = len(words) - len(rest.split())
    assert gone == min(FIRST_WORDS, len(words) // 2) or len(words) == 1


@given(st.text())
def test_of_any_text_some_end_is_left(text: str) -> None:
    ((_, rest),) = rest_of((("user", text),))
    assert text.endswith(rest)
    assert bool(rest) == bool(text)


@given(st.text("\u8bc1\u660e ", max_size=400).filter(lambda text: len(text.split()) < 2))
def test_a_text_without_spaces_loses_its_first_characters_and_never_more_than_half(text: str) -> None:
    ((_, rest),) = rest_of((("user", text),))
    assert len(text) - len(rest) == min(FIRST_CHARS, len(text) // 2)


def test_where_no_user_speaks_the_last_message_is_what_was_asked() -> None:
    assert rest_of((("system", "be kind"),)) == (("user", "kind"),)
    assert rest_of(()) == (("user", ""),)
