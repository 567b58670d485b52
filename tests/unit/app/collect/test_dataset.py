"""Whatever else a line of prompts says is kept in the dataset, as JSON where a column cannot have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.collect.dataset import build_dataset
from app.collect.graders import Graded
from app.collect.importers import read_prompts
from app.collect.plan import Plan, Target
from router_models.outcomes.dataset import read_outcomes, write_outcomes

TARGET = Target("m", "m", "pool", ("http://127.0.0.1:1/v1/chat/completions",))
PLAIN = {"prompt": "2 + 2?", "reference": "4", "grader": "exact"}


def stored(tmp_path: Path, *lines: str) -> list[dict[str, Any]]:
    """What a dataset has of these lines of prompts."""
    (tmp_path / "set.jsonl").write_text("\n".join(lines), encoding="utf-8")
    plan = Plan(read_prompts(str(tmp_path / "set.jsonl")), (TARGET,))
    write_outcomes(tmp_path, build_dataset(plan, {}, Graded({})))
    rows: list[dict[str, Any]] = read_outcomes(tmp_path, may_be_empty=True).prompts.to_pylist()
    return rows


def line(extra: str, prompt: str = "2 + 2?") -> str:
    return json.dumps(PLAIN | {"prompt": prompt}).replace("}", f", {extra}}}")


@pytest.mark.parametrize(
    ("extra", "name", "kept"),
    [
        ('"metadata": {}', "metadata", "{}"),
        ('"metadata": {"a": {}, "b": "\\ud800"}', "metadata", '{"a": {}, "b": "\\ud800"}'),
        ('"tags": ["a", 1, []]', "tags", '["a", 1, []]'),
        ('"tags": ["a"]', "tags", '["a"]'),
        ('"id": 123456789012345678901234567890', "id", "123456789012345678901234567890"),
        ('"note": "\\ud800"', "note", "?"),
        ('"\\ud800": 1', "?", 1),
        ('"": true', "", True),
        ('"level": 3', "level", 3),
        ('"level": null', "level", None),
    ],
)
def test_anything_that_json_can_say_is_kept_beside_a_prompt(tmp_path: Path, extra: str, name: str, kept: Any) -> None:
    assert stored(tmp_path, line(extra))[0][name] == kept


def test_values_that_do_not_agree_are_all_json(tmp_path: Path) -> None:
    lines = [line('"mark": 1', "a"), line('"mark": "x"', "b"), line('"mark": {"y": 2}', "c"), line('"other": 1', "d")]

    assert [row["mark"] for row in stored(tmp_path, *lines)] == ["1", '"x"', '{"y": 2}', None]


def test_the_room_of_an_answer_is_kept(tmp_path: Path) -> None:
    assert stored(tmp_path, line(f'"max_tokens": {2**31 - 1}'))[0]["max_tokens"] == 2**31 - 1
