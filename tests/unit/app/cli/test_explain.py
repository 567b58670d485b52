"""What `thalamus explain` shows of a decision."""

from __future__ import annotations

import re

import pytest

from app.cli.explain import show
from app.routing.record import describe
from tests.fakes.routing import World, llm, world_of

QUALITY = {"small": 0.5, "large": 0.9}


def world() -> World:
    return world_of(llm("small"), llm("large"), quality=QUALITY, seen=QUALITY, order=("small",))


def shown(world: World, capsys: pytest.CaptureFixture[str]) -> str:
    show(describe(world.decide()))
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def test_the_table_says_by_whom_the_prompt_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(world(), capsys)
    assert "read by the static encoder: the prompt is like what the router model learned from" in text
    assert "0.80 to 1.00" in text


def test_an_unfamiliar_prompt_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    unfamiliar = world()
    assert unfamiliar.predictor is not None
    unfamiliar.predictor.unfamiliar = frozenset({"static", "transformer"})
    text = shown(unfamiliar, capsys)
    assert "small: this prompt is unlike what the router model learned from" in text
    assert "read by the transformer encoder: the prompt is unlike what the router model learned from" in text


def test_a_failure_is_shown_and_nothing_is_read_without_a_router_model(capsys: pytest.CaptureFixture[str]) -> None:
    failing = world()
    assert failing.predictor is not None
    failing.predictor.glance_failure = failing.predictor.failure = "took longer than 0.02 s"
    text = shown(failing, capsys)
    assert "an encoder failed: took longer than 0.02 s" in text
    assert "read by" not in text
    assert "read by" not in shown(world_of(llm("small"), llm("large")), capsys)
