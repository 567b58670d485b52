"""Words that are made to get the dear model, found by hill-climbing on the router model itself. Prints JSON.

The attacker sees every number that the router sees. He looks for ten words that, with any prompt, make the dear model
seem worth its price: before it, in a system message, or in a turn before it. Then he tries them on prompts that he did
not look at. A try is ten words, judged on twelve prompts.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from app.domain.decision import Candidate, Decision, Fleet
from app.domain.models import Catalog, TokenPrice
from app.domain.preferences import Profile, parse_body
from app.domain.request import Conversation, Preferences
from app.routing.candidates import CandidateTable
from app.routing.offload import OffLoopPredictor
from app.routing.router import Learned, Router
from app.routing.steadiness import rest_of
from router_models.serving import ServingPredictor
from router_models.storage.artifact import load_artifact
from tests.fakes.routing import llm
from tests.fakes.world import request

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "router_models" / "artifacts" / "public-v1"
MODELS = (
    llm("qwen2.5-7b-it", price=TokenPrice(0.1, 0.1), security="self_hosted"),
    llm("llama-3.1-70b-it", price=TokenPrice(3.0, 3.0), security="public_api"),
)
CHEAP, DEAR = (model.name for model in MODELS)
FLEET = Fleet.idle(len(MODELS))
PREFIX_WORDS, BATCH, HELD_OUT = 10, 12, 200
MOST_WRITTEN = 20
CEILING = 0.0003
# So many of the anchors get the dear model before anybody tries anything.
DEAR_SHARE = 0.2
MOST_POINTS = 0.10

Score = Callable[[Conversation], float]
Place = Callable[[Conversation, str], Conversation]
"""Puts words into a prompt."""


def _prefixed(prompt: Conversation, words: str) -> Conversation:
    *before, (role, text) = prompt
    return (*before, (role, f"{words} {text}" if words else text))


def _in_system(prompt: Conversation, words: str) -> Conversation:
    return (("system", words), *prompt)


def _in_earlier_turn(prompt: Conversation, words: str) -> Conversation:
    return (("user", words), ("assistant", "ok"), *prompt)


class Attack:
    """The router, the prompts, and what an attacker needs of both."""

    def __init__(self, predictor: ServingPredictor) -> None:
        self._predictor = predictor
        prompts = [_conversation(line) for line in (FOLDER / "anchors.jsonl").read_text("utf-8").splitlines()]
        random.Random(0).shuffle(prompts)
        lead = np.array([self.lead(prompt) for prompt in prompts])
        self.least_lead = float(np.quantile(lead, 1 - DEAR_SHARE))
        easy = [prompt for prompt, own in zip(prompts, lead, strict=True) if own < self.least_lead]
        self.hard = [prompt for prompt, own in zip(prompts, lead, strict=True) if own > self.least_lead]
        self.looked_at, self.held_out = easy[:-HELD_OUT], easy[-HELD_OUT:]
        self.words = _words()

    def router(self, *, steady: bool) -> Router:
        """Under a weight on cost at which a fifth of the anchors get the dear model."""
        table = CandidateTable(Catalog(MODELS, ()), (CHEAP, DEAR))
        predictor = OffLoopPredictor(self._predictor, speeds=frozenset({"static"}))
        return Router(table, Learned(predictor), {"default": Profile(steady=steady)})

    @property
    def preferences(self) -> Preferences:
        """Answers are short, so that costs are as 30 to 1: a fixed part of the logarithmic scale."""
        scale = CandidateTable(Catalog(MODELS, ()), (CHEAP, DEAR)).scales["cost"]
        cheap, dear = scale.share(np.array([0.001, 0.03])).tolist()
        return parse_body({"weights": {"cost": self.least_lead / (dear - cheap)}}).preferences

    def lead(self, prompt: Conversation) -> float:
        """How much better the dear model is expected to be."""
        cheap, dear = self._predictor.glance(prompt).quality.tolist()
        return float(dear - cheap)

    def steady_lead(self, prompt: Conversation) -> float:
        """The same as far as what was asked last bears it out."""
        return min(self.lead(prompt), self.lead(rest_of(prompt)))

    def climb(self, score: Score, tries: int, seed: int, place: Place = _prefixed) -> str:
        """The best words for this place that are found by changing one at a time."""
        rng = random.Random(seed)
        batch, words = rng.sample(self.looked_at, BATCH), rng.choices(self.words, k=PREFIX_WORDS)
        best = _mean(score, words, batch, place)
        for _ in range(tries):
            other = list(words)
            other[rng.randrange(PREFIX_WORDS)] = rng.choice(self.words)
            if (found := _mean(score, other, batch, place)) > best:
                words, best = other, found
        return " ".join(words)

    def rate(self, router: Router, prompts: Sequence[Conversation], words: str = "", place: Place = _prefixed) -> float:
        """The share of these prompts that get the dear model, with these words."""
        chosen = [self.decide(router, place(prompt, words)).chosen.model.name for prompt in prompts]
        return chosen.count(DEAR) / len(chosen)

    def decide(self, router: Router, prompt: Conversation, limits: dict[str, object] | None = None) -> Decision:
        asked = Preferences(parse_body(limits).preferences.limits, self.preferences.weights)
        size = sum(len(text) for _, text in prompt) // 4
        one = request(conversation=prompt, preferences=asked, input_tokens=size, max_tokens=MOST_WRITTEN)
        return asyncio.run(router.route(one, FLEET))


@pytest.fixture(scope="module")
def attack() -> Attack:
    return Attack(ServingPredictor(load_artifact(FOLDER), (CHEAP, DEAR), glances_only=True))


@pytest.fixture
def tries(full_size: bool) -> int:
    return 2_000 if full_size else 300


def test_a_steady_profile_gives_prefixes_the_dear_model_hardly_more_often_than_no_prefix(
    attack: Attack, tries: int
) -> None:
    plain, steady = attack.router(steady=False), attack.router(steady=True)
    bases = [attack.rate(router, attack.held_out) for router in (plain, steady)]
    fooled = [attack.climb(attack.lead, tries, seed) for seed in range(2)]
    adapted = [attack.climb(attack.steady_lead, tries, seed) for seed in range(2)]
    rates = {
        "plain": max(attack.rate(plain, attack.held_out, prefix) for prefix in fooled),
        "steady": max(attack.rate(steady, attack.held_out, prefix) for prefix in fooled + adapted),
    }
    kept = attack.rate(steady, attack.hard) / attack.rate(plain, attack.hard)
    figures = {
        "property": "S9 upgrade",
        "tries": tries,
        "base": bases,
        "with_prefix": rates,
        "meant_upgrades_kept": kept,
    }
    print(json.dumps(figures))
    assert rates["plain"] > bases[0] + MOST_POINTS, "there is something to be steady against"
    assert rates["steady"] <= bases[1] + MOST_POINTS
    assert kept > 0.8


@pytest.mark.parametrize("place", [_in_system, _in_earlier_turn], ids=["system message", "earlier turn"])
def test_what_stands_around_a_question_gets_nobody_the_dear_model(attack: Attack, tries: int, place: Place) -> None:
    plain, steady = attack.router(steady=False), attack.router(steady=True)
    bases = [attack.rate(router, attack.held_out) for router in (plain, steady)]
    found = [attack.climb(attack.lead, tries, seed, place) for seed in range(2)]
    rates = {
        name: max(attack.rate(router, attack.held_out, words, place) for words in found)
        for name, router in (("plain", plain), ("steady", steady))
    }
    figures = {"property": "S9 upgrade from around", "tries": tries, "base": bases, "with_words": rates}
    print(json.dumps({**figures, "place": place.__name__.removeprefix("_")}))
    assert rates["plain"] > bases[0] + MOST_POINTS, "there is something to be steady against"
    assert rates["steady"] <= bases[1] + MOST_POINTS


def test_no_prefix_pushes_anybody_below_a_floor_around_a_safe_model_or_above_a_ceiling(
    attack: Attack, tries: int
) -> None:
    """Limits are not learned, so nothing that is learned can be fooled into passing them."""
    down = attack.climb(lambda prompt: -attack.lead(prompt), tries, 0)
    up = attack.climb(attack.lead, tries, 1)
    router = attack.router(steady=False)
    goals: dict[str, tuple[Sequence[Conversation], str, dict[str, object], Callable[[Candidate], bool]]] = {
        "below the floor": (attack.hard, down, {"exclude": [CHEAP]}, lambda one: one.model.name == CHEAP),
        "around the safe model": (
            attack.held_out,
            up,
            {"min_security": "self_hosted"},
            lambda one: one.model.name == DEAR,
        ),
        "above the ceiling": (attack.held_out, up, {"max_cost_usd": CEILING}, lambda one: _cost_usd(one) > CEILING),
    }
    reached = {}
    for goal, (prompts, prefix, limits, is_reached) in goals.items():
        decisions = [attack.decide(router, _prefixed(prompt, prefix), limits) for prompt in prompts]
        reached[goal] = sum(any(map(is_reached, decision.candidates)) for decision in decisions)
    downgraded = attack.rate(router, attack.hard) - attack.rate(router, attack.hard, down)
    print(json.dumps({"property": "S9 limits", "tries": tries, "reached": reached, "downgraded_without": downgraded}))
    assert set(reached.values()) == {0}


def _conversation(line: str) -> Conversation:
    return tuple((message["role"], message["content"]) for message in json.loads(line)["messages"])


def _words() -> list[str]:
    vocabulary = json.loads((FOLDER / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return [word for word in vocabulary if word.isalpha() and len(word) > 1]


def _cost_usd(one: Candidate) -> float:
    cost_usd = one.estimate.cost_usd
    return math.inf if cost_usd is None else cost_usd


def _mean(score: Score, words: Sequence[str], prompts: Sequence[Conversation], place: Place) -> float:
    text = " ".join(words)
    return float(np.mean([score(place(prompt, text)) for prompt in prompts]))
