"""The study of a set that nobody trained on, on a tiny one."""

from __future__ import annotations

from pathlib import Path

from router_models.outcomes.dataset import write_outcomes
from router_models.studies.new_set import measured, unseen
from tests.fakes.artifacts import tiny_artifact, tiny_dataset, tiny_pools


def test_questions_of_known_sets_are_dropped() -> None:
    pools = tiny_pools(120)

    left = unseen(pools["second"], [pools["first"]])

    assert left.prompts.num_rows == 100
    assert not any(key.startswith("first") for key in left.prompts["core_hash"].to_pylist())
    assert unseen(tiny_dataset(60), [tiny_dataset(60)]).prompts.num_rows == 0


def test_what_two_hundred_graded_prompts_teach_is_measured_on_others(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "told", tiny_dataset(360))

    figures = measured(tiny_artifact(rows=400), tiny_dataset(360), tmp_path / "told", shots=200, seed=0)

    assert figures["router model"] > figures["best single"] + 0.1
    assert figures["quality_minus_best_single"][1] > 0.1
    assert abs(figures["router model"] - figures["task-name table"]) < 0.15
