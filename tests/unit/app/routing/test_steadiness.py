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
from app.routing.candidates import CandidateTable
from app.routing.record import describe
from app.routing.router import Learned, Router
from app.routing.steadiness import FIRST_WORDS, without_beginning
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
        is_fooled = SPELL in conversation[-1][1]
        self.quality = {"cheap": 0.8, "dear": 0.99 if is_fooled and not self.alarmed else 0.81}
        self.unfamiliar = frozenset({"transformer"} if is_fooled and self.alarmed else ())
        return self.row()


def decide(
    prompt: str, *, steady: bool = True, alarmed: bool = False, dear: Model = DEAR, **changes: Any
) -> tuple[Decision, Gullible]:
    predictor = Gullible({"cheap": 0.8, "dear": 0.81}, alarmed=alarmed)
    table = CandidateTable(Catalog((CHEAP, dear), ()), ("cheap", "dear"))
    profile = Profile(order=("dear", "cheap"), steady=steady)
    router = Router(table, Learned(predictor), {"default": profile})
    weights = parse_body({"weights": {"cost": 0.2}}).preferences
    asked = request(conversation=(("user", prompt),), preferences=weights, **changes)
    return asyncio.run(router.route(asked, fleet_of(CHEAP, dear))), predictor


@pytest.mark.parametrize("dear", [DEAR, UNPRICED], ids=["dear", "no price"])
@pytest.mark.parametrize("alarmed", [False, True], ids=["believed", "unlike any"])
def test_a_prefix_gets_the_dear_model_only_where_nobody_looks_twice(alarmed: bool, dear: Model) -> None:
    fooled, _ = decide(f"{SPELL} {QUESTION}", steady=False, alarmed=alarmed, dear=dear)
    steady, _ = decide(f"{SPELL} {QUESTION}", alarmed=alarmed, dear=dear)
    assert [fooled.chosen.model.name, steady.chosen.model.name] == ["dear", "cheap"]
    assert [each.model.name for each in steady.candidates] == ["cheap", "dear"]
    assert steady.why.startswith("without its first words the prompt asks for no more than cheap")
    assert describe(steady)["doubted"] == "dear"
    assert describe(fooled)["doubted"] is None


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


@given(st.lists(st.text("ab\n", min_size=1, max_size=3).filter(str.strip), max_size=60))
def test_at_most_the_first_words_go_and_never_more_than_half(words: list[str]) -> None:
    said = (("system", "be kind"), ("user", " ".join(words)), ("assistant", "yes"))
    system, (_, rest), answer = without_beginning(said)
    count = len(" ".join(words).split())
    assert (system, answer) == (said[0], said[2])
    assert said[1][1].endswith(rest)
    assert count - len(rest.split()) == min(FIRST_WORDS, count // 2)


def test_a_conversation_in_which_no_user_speaks_stays_as_it_is() -> None:
    said = (("system", "be kind"),)
    assert without_beginning(said) == said
