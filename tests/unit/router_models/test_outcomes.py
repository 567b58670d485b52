"""Outcomes datasets: what is read, what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from router_models.outcomes import OutcomesDataset, OutcomesError, read_outcomes, write_outcomes

PROMPTS = {
    "prompt_id": ["a", "b", "c"],
    "prompt": ["One?", "Two?", "Three?"],
    "messages": [
        None,
        json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two?"}]),
        "",
    ],
    "split": ["train", "test", "train"],
    "extra": [1, 2, 3],
}
OUTCOMES = {
    "prompt_id": ["a", "a", "c"],
    "model": ["y", "x", "x"],
    "score": [1.0, 0.5, 0.0],
    "output_tokens": [7, None, 9],
}


def dataset(**changed: list[object]) -> OutcomesDataset:
    prompts = PROMPTS | {name: values for name, values in changed.items() if name in PROMPTS and name != "prompt_id"}
    outcomes = OUTCOMES | {name: values for name, values in changed.items() if name in OUTCOMES}
    return OutcomesDataset(pa.table(prompts), pa.table(outcomes))


def test_a_matrix_has_prompts_down_models_across_and_nan_where_nothing_was_measured() -> None:
    score = dataset().matrix("score", ("x", "y"))

    np.testing.assert_array_equal(score, [[0.5, 1.0], [np.nan, np.nan], [0.0, np.nan]])


def test_a_null_and_an_absent_column_are_missing_too() -> None:
    np.testing.assert_array_equal(dataset().matrix("output_tokens", ("x",))[:, 0], [np.nan, np.nan, 9.0])
    assert np.isnan(dataset().matrix("cost_usd", ("x",))).all()


def test_models_are_sorted_and_a_split_keeps_its_outcomes_only() -> None:
    assert dataset().models == ("x", "y")
    assert dataset().split("train").outcomes.num_rows == 3
    assert dataset().split("test").outcomes.num_rows == 0


def test_a_split_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(OutcomesError, match="no prompt has split dev; there are test, train"):
        dataset().split("dev")


def test_conversations_come_from_messages_where_there_are_some() -> None:
    assert dataset().conversations() == [
        (("user", "One?"),),
        (("system", "Be brief."), ("user", "Two?")),
        (("user", "Three?"),),
    ]


def test_what_is_written_is_read_back_with_its_extra_columns(tmp_path: Path) -> None:
    write_outcomes(tmp_path, dataset())

    read = read_outcomes(tmp_path)

    assert read.prompts["extra"].to_pylist() == [1, 2, 3]
    assert read.outcomes.equals(dataset().outcomes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outcomes.parquet", "prompts.parquet"]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"score": [1.0, 1.5, 0.0]}, "outside 0 to 1"),
        ({"score": [1.0, None, 0.0]}, "a score is missing"),
        ({"score": [1.0, float("nan"), 0.0]}, "outside 0 to 1"),
        ({"score": ["good", "bad", "bad"]}, "something else than numbers"),
        ({"output_tokens": [-1, 2, 3]}, "a negative output_tokens"),
        ({"prompt_id": ["a", "a", "z"]}, "prompt z is not in prompts.parquet"),
        ({"model": ["x", "x", "x"]}, "is there twice"),
    ],
)
def test_a_broken_dataset_is_refused_in_one_line(
    changed: dict[str, list[object]], complaint: str, tmp_path: Path
) -> None:
    write_outcomes(tmp_path, dataset(**changed))

    with pytest.raises(OutcomesError, match=complaint) as refused:
        read_outcomes(tmp_path)

    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_a_prompt_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_outcomes(tmp_path, OutcomesDataset(pa.table(PROMPTS | {"prompt_id": ["a", "a", "c"]}), dataset().outcomes))

    with pytest.raises(OutcomesError, match="prompt a is there twice"):
        read_outcomes(tmp_path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.parquet").write_text("not parquet")

    with pytest.raises(OutcomesError, match=r"prompts\.parquet cannot be read"):
        read_outcomes(tmp_path)


def test_public_outcomes_can_be_read(public_outcomes: Path) -> None:
    read = read_outcomes(public_outcomes / "llmrouter_nim9")

    assert len(read.models) == 9
    assert np.isfinite(read.matrix("score", read.models)).all()
