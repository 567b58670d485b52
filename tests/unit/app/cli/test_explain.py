"""What `thalamus explain` shows of a decision."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.cli.explain import _plot, figure, show
from app.errors import UsageError
from app.routing.record import describe
from tests.fakes.full_disk import files_of_at_most
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


def test_a_picture_that_the_disk_has_no_room_for_leaves_the_one_before(tmp_path: Path) -> None:
    picture, record = tmp_path / "decision.png", describe(world().decide())
    _plot(record, picture)
    before = picture.read_bytes()

    with files_of_at_most(1_000), pytest.raises(UsageError, match=r"--plot .*decision\.png: "):
        _plot(record, picture)

    assert picture.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["decision.png"]


@pytest.mark.parametrize(
    ("value", "factor", "shown"),
    [
        (None, 1.0, "-"),
        (0.00501234, 1e6, "5,012"),
        (0.001, 1e6, "1,000"),
        (0.0009996, 1e6, "1,000"),
        (0.000999, 1e6, "999"),
        (0.00001234, 1e6, "12.3"),
        (1.234e-11, 1e6, "0.0000123"),
        (0.0, 1.0, "0"),
        (12345.6, 1.0, "12,346"),
    ],
)
def test_figures_have_no_exponent(value: float | None, factor: float, shown: str) -> None:
    assert figure(value, factor) == shown
