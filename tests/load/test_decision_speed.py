"""What a whole decision costs with a released artifact, as in `configs/bench.yaml`. Prints its figures as JSON."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.assembly.router_model import RouterModel, load_router_model
from app.assembly.snapshot import create_router
from app.domain.decision import Decision, Fleet
from app.domain.request import Request
from app.routing.router import Router
from app.settings import Settings, load_settings
from tests.fakes.world import request
from tests.fakes.yardstick import SHARED, Machine

pytestmark = pytest.mark.slow

SETTINGS = Path(__file__).parents[2] / "configs" / "bench.yaml"
WORDS = (
    "explain write solve prove list summarise fix sort the a of code number history poem python integral river why does"
    " sky look blue at noon translate into french json table bread recipe proof matrix, graph. tree? queue: stack"
)
FLEET = Fleet.idle(2)
# 25,000 words are some 32k tokens.
LENGTHS = (24, 128, 25_000)
# With the transformer a decision may cost this much more, whatever the prompt's length.
LOOK_MS = 8.0


def settings(encoder: str = "static") -> Settings:
    return replace(load_settings(SETTINGS), encoder=encoder, predictor_limit_s=5.0)


@pytest.fixture(scope="module")
def router_model() -> Iterator[RouterModel]:
    with load_router_model(settings()) as model:
        assert model is not None
        yield model


@pytest.fixture(scope="module")
def router(router_model: RouterModel) -> Router:
    return create_router(settings(), router_model)


def requests(count: int, words: int, model: str | None = None) -> list[Request]:
    """All with different prompts."""
    rng = random.Random(words)
    texts = [" ".join([*rng.choices(WORDS.split(), k=words), str(number)]) for number in range(count)]
    return [request(conversation=(("user", text),), model=model, key_id="bench") for text in texts]


def figures(call: Callable[[Request], object], asked: Sequence[Request]) -> dict[str, float]:
    """Microseconds of the median call, and of the processor for each; the first tenth only warms up."""
    warm, took_s = len(asked) // 10, []
    for one in asked[:warm]:
        call(one)
    cpu_s = time.process_time()
    for one in asked[warm:]:
        began_at = time.perf_counter()
        call(one)
        took_s.append(time.perf_counter() - began_at)
    cpu_s = (time.process_time() - cpu_s) / len(took_s)
    return {"p50_us": round(statistics.median(took_s) * 1e6, 1), "cpu_us": round(cpu_s * 1e6, 1)}


def deciding(router: Router) -> Callable[[Request], Decision]:
    """A decision that waits for nobody, so that no event loop is needed."""

    def decide(asked: Request) -> Decision:
        try:
            router.route(asked, FLEET).send(None)
        except StopIteration as decided:
            decision: Decision = decided.value
            return decision
        raise AssertionError("it waits")

    return decide


@pytest.mark.parametrize(("words", "budget_us"), [(24, 100), (128, 200)])
def test_a_decision_about_a_prompt_never_seen_keeps_its_budget(
    words: int, budget_us: float, router: Router, router_model: RouterModel, full_size: bool, machine: Machine
) -> None:
    asked, decide = requests(20_000 if full_size else 3_000, words), deciding(router)

    found = {
        "whole": figures(decide, asked),
        "glance": figures(lambda one: router_model.predictor.glance(one.conversation), asked),
        "named": figures(decide, requests(len(asked), words, model="mock-a")),
        "seen_before": figures(decide, asked[:1_000] * 3),
    }

    print("\n" + json.dumps({"words": words, **found}))
    assert found["whole"]["cpu_us"] < SHARED * machine.slowness() * budget_us
    assert decide(asked[0]).chosen.quality is not None


def test_with_the_transformer_a_long_prompt_costs_no_more_than_a_short_one(full_size: bool, machine: Machine) -> None:
    count = 100 if full_size else 20
    with load_router_model(settings("transformer")) as model:
        router = create_router(settings("transformer"), model)
        cpu_ms = {words: asyncio.run(_looks(router, requests(count, words))) for words in LENGTHS}

    print("\n" + json.dumps({"transformer_cpu_ms_by_words": cpu_ms}))
    assert max(cpu_ms.values()) < SHARED * machine.slowness() * LOOK_MS
    assert cpu_ms[25_000] < 1.5 * cpu_ms[128]


async def _looks(router: Router, asked: Sequence[Request]) -> float:
    """Milliseconds of the processor for each, of all threads."""
    await router.route(asked[0], FLEET)
    began_s = time.process_time()
    for one in asked[1:]:
        assert (await router.route(one, FLEET)).details == {}
    return round((time.process_time() - began_s) / (len(asked) - 1) * 1e3, 3)
