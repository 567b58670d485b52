"""The demo's main job: fresh prompts, a learned decision, answers of real models."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import pytest

from app.cli.demo import CONFIG
from app.cli.showcase import Rivals, Showcase
from app.settings import load_settings
from router_models.aptitude import FAMILIES, Item, draw, grade
from tests.conftest import Stack

RIVALS = Rivals.of(load_settings(CONFIG))

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


def test_the_router_answers_fresh_items_better_than_a_fixed_and_a_random_model(
    demo_stack: Stack, capsys: pytest.CaptureFixture[str], full_size: bool
) -> None:
    items = 20 if full_size else 4
    showcase = Showcase(demo_stack.gateway, demo_stack.key, RIVALS, seed=77)

    asyncio.run(showcase.run(items, as_json=True))

    policies = json.loads(capsys.readouterr().out)["policies"]
    routed = policies.pop("auto")
    assert routed["items"] == items * len(FAMILIES)
    assert len(policies) == 3
    for name, figures in policies.items():
        assert routed["quality"] > figures["quality"] + 0.2, name


def test_the_table_says_who_answered_and_why(demo_stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    showcase = Showcase(demo_stack.gateway, demo_stack.key, RIVALS, seed=78)

    asyncio.run(showcase.run(1, as_json=False))

    shown = capsys.readouterr().out
    assert "Who answered, and why" in shown
    assert "highest predicted quality" in " ".join(shown.split())
    assert "fresh items (seed 78)" in shown


@dataclass(frozen=True)
class Point:
    """What one weight on size did, on average over the items."""

    weight: float
    size_b: float
    quality: float


async def predicted(session: aiohttp.ClientSession, body: Mapping[str, Any]) -> Any:
    """An answer of a model that was chosen by a prediction.

    Where none has its turn within a second, as on a busy machine, the profile's order decides.
    """
    for _ in range(5):
        async with session.post("/v1/chat/completions", json=body) as response:
            answer = await response.json()
        if response.headers["x-thalamus-reason"] != "default":
            return answer
    raise AssertionError("there is no prediction, however often it is asked")


async def walk(stack: Stack, items: Sequence[Item], weights: Sequence[float]) -> list[Point]:
    """Ask all items at each weight on size, through the gateway."""
    sizes = {model.name: model.card.values["parameters_b"] for model in load_settings(CONFIG).catalog.models}
    slots = asyncio.Semaphore(16)
    async with aiohttp.ClientSession(stack.gateway, headers={"authorization": f"Bearer {stack.key}"}) as session:

        async def ask(item: Item, weight: float) -> tuple[float, float]:
            body = {
                "model": "auto",
                "messages": [{"role": "user", "content": item.prompt}],
                "max_tokens": item.max_tokens,
                "temperature": 0,
                "routing": {"weights": {"size": weight}},
            }
            async with slots:
                answer = await predicted(session, body)
            text = answer["choices"][0]["message"]["content"]
            return sizes[answer["model"]], grade(item.grader, item.reference, text)

        points = []
        for weight in weights:
            answered = await asyncio.gather(*(ask(item, weight) for item in items))
            size_b, quality = (sum(column) / len(items) for column in zip(*answered, strict=True))
            points.append(Point(weight, size_b, quality))
        return points


async def test_a_weight_on_size_walks_the_front_from_good_to_small(demo_stack: Stack, full_size: bool) -> None:
    per_family, weights = (20, (0, 0.1, 0.2, 0.4, 0.6, 0.8, 1)) if full_size else (4, (0, 0.3, 1))
    items = [item for family in FAMILIES for item in draw(family, seed=79, count=per_family)]

    points = await walk(demo_stack, items, weights)

    print(json.dumps([asdict(point) for point in points]))
    assert all(earlier.size_b >= later.size_b for earlier, later in itertools.pairwise(points))
    assert points[-1].size_b < points[0].size_b - 0.01
    # Four prompts of a kind are a small sample.
    assert points[-1].quality < points[0].quality + (0 if full_size else 0.05)
