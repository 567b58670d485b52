"""The demo's main job: fresh prompts, a learned decision, answers of real models."""

from __future__ import annotations

import asyncio
import json

import pytest

from app.cli.demo import CATALOG
from app.cli.showcase import Showcase
from router_models.aptitude import FAMILIES
from tests.conftest import Stack

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


def test_the_router_answers_fresh_items_better_than_a_fixed_and_a_random_model(
    demo_stack: Stack, capsys: pytest.CaptureFixture[str], full_size: bool
) -> None:
    items = 20 if full_size else 4
    showcase = Showcase(demo_stack.gateway, demo_stack.key, CATALOG, seed=77)

    asyncio.run(showcase.run(items, as_json=True))

    policies = json.loads(capsys.readouterr().out)["policies"]
    routed = policies.pop("auto")
    assert routed["items"] == items * len(FAMILIES)
    assert len(policies) == 2
    for name, figures in policies.items():
        assert routed["quality"] > figures["quality"] + 0.2, name


def test_the_table_says_who_answered_and_why(demo_stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    showcase = Showcase(demo_stack.gateway, demo_stack.key, CATALOG, seed=78)

    asyncio.run(showcase.run(1, as_json=False))

    shown = capsys.readouterr().out
    assert "Who answered, and why" in shown
    assert "highest predicted quality" in " ".join(shown.split())
    assert "fresh items (seed 78)" in shown
