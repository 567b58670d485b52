"""Outcomes datasets: what is read, what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from router_models.outcomes.dataset import (
    OutcomesDataset,
    OutcomesError,
    aliases_of,
    read_outcomes,
    tasks_of,
    write_outcomes,
)
from router_models.outcomes.splits import is_undivided
from tests.fakes.full_disk import files_of_at_most

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
OUTCOMES: dict[str, list[Any]] = {
    "prompt_id": ["a", "a", "c"],
    "model": ["y", "x", "x"],
    "score": [1.0, 0.5, 0.0],
    "output_tokens": [7, None, 9],
    "mean_logprob": [-0.5, None, -1.0],
}


def dataset(**changed: list[object]) -> OutcomesDataset:
    prompts = PROMPTS | {name: values for name, values in changed.items() if name in PROMPTS and name != "prompt_id"}
    outcomes = OUTCOMES | {name: values for name, values in changed.items() if name in OUTCOMES or name not in PROMPTS}
    return OutcomesDataset(pa.table(prompts), pa.table(outcomes))


def test_a_matrix_has_prompts_down_models_across_and_nan_where_nothing_was_measured() -> None:
    score = dataset().matrix("score", ("x", "y"))

    np.testing.assert_array_equal(score, [[0.5, 1.0], [np.nan, np.nan], [0.0, np.nan]])


@pytest.mark.parametrize(
    ("column", "expected"), [([1, 0, None], ["1", "0", ""]), (["sums", "", None], ["sums", "", ""])]
)
def test_a_task_is_text_also_where_it_is_a_number(column: list[object], expected: list[str]) -> None:
    prompts = pa.table(PROMPTS).append_column("task", pa.array(column))

    assert tasks_of(OutcomesDataset(prompts, pa.table(OUTCOMES))) == expected


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


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([1, 0, None]), "0, 1"),
        (pa.array([1, 0, None], pa.int8()).dictionary_encode(), "0, 1"),
        (pa.array(["1", "0", ""]), "0, 1"),
        (pa.array(["1", "0", ""]).dictionary_encode(), "0, 1"),
        (pa.array(["", "", ""], pa.large_string()), "no splits at all"),
        (pa.nulls(3), "no splits at all"),
    ],
)
def test_a_split_is_text_also_where_it_is_a_number_and_none_where_it_is_empty(
    column: pa.Array, said: str, tmp_path: Path
) -> None:
    write_outcomes(tmp_path, OutcomesDataset(pa.table(PROMPTS | {"split": column}), pa.table(OUTCOMES)))

    read = read_outcomes(tmp_path)

    if said == "0, 1":
        assert read.split("1").prompts["prompt_id"].to_pylist() == ["a"]
    assert is_undivided(read) == (said == "no splits at all")
    with pytest.raises(OutcomesError, match=f"no prompt has split dev; there are {said}$"):
        read.split("dev")


def test_conversations_come_from_messages_where_there_are_some() -> None:
    assert dataset().conversations() == [
        (("user", "One?"),),
        (("system", "Be brief."), ("user", "Two?")),
        (("user", "Three?"),),
    ]


def test_models_can_be_renamed_and_the_others_keep_their_names() -> None:
    renamed = dataset().renamed({"x": "canonical", "nobody": "y"})

    assert renamed.models == ("canonical", "y")
    np.testing.assert_array_equal(renamed.matrix("score", ("canonical", "y")), dataset().matrix("score", ("x", "y")))
    assert renamed.prompts.equals(dataset().prompts)


def test_names_that_become_one_are_averaged_prompt_by_prompt_over_what_is_known() -> None:
    renamed = dataset().renamed({"x": "one", "y": "one"})

    np.testing.assert_array_equal(renamed.matrix("score", ("one",))[:, 0], [0.75, np.nan, 0.0])
    np.testing.assert_array_equal(renamed.matrix("output_tokens", ("one",))[:, 0], [7.0, np.nan, 9.0])
    assert renamed.models == ("one",)
    assert renamed.outcomes.num_rows == 2


def test_what_was_averaged_can_be_written_and_read(tmp_path: Path) -> None:
    write_outcomes(tmp_path, dataset().renamed({"x": "one", "y": "one"}))

    assert read_outcomes(tmp_path).models == ("one",)


def test_a_part_keeps_the_outcomes_of_its_prompts() -> None:
    part = dataset().select(np.array([False, True, True]))

    assert part.prompts["prompt_id"].to_pylist() == ["b", "c"]
    assert part.outcomes["model"].to_pylist() == ["x"]


ALIASES = {"one": {"first": ["x", "y"], "second": ["z"]}, "two": {"second": ["w"]}}


@pytest.mark.parametrize(
    ("name", "expected"), [("first", {"x": "one", "y": "one"}), ("second", {"z": "one", "w": "two"}), ("third", {})]
)
def test_aliases_are_those_of_one_dataset(name: str, expected: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "aliases.json").write_text(json.dumps(ALIASES))

    assert aliases_of(tmp_path / "aliases.json", name) == expected


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"one": ["x"]}', '{"one": {"first": 7}}', '{"one": {"first": "x"}}', '{"one": 7}']
)
def test_a_file_of_aliases_in_another_form_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "aliases.json"
    path.write_text(content)

    with pytest.raises(OutcomesError, match=r"aliases\.json is not \{canonical name: ") as refused:
        aliases_of(path, "first")

    assert "\n" not in str(refused.value)


def test_a_file_of_aliases_that_is_not_there_is_told_from_one_in_another_form(tmp_path: Path) -> None:
    with pytest.raises(OutcomesError, match=r"aliases\.json: No such file or directory; name the file of aliases$"):
        aliases_of(tmp_path / "aliases.json", "first")


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_a_dataset_that_is_not_there_is_said_to_be_no_folder_of_one(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OutcomesError, match=rf"{place}/prompts\.parquet: No such file; name a dataset folder$"):
        read_outcomes(tmp_path / place)


@pytest.mark.parametrize("empty", ["prompts", "outcomes"])
def test_a_dataset_without_rows_is_refused_unless_it_may_be_empty(empty: str, tmp_path: Path) -> None:
    whole = dataset()
    nothing = whole.outcomes.slice(0, 0)
    prompts = whole.prompts.slice(0, 0) if empty == "prompts" else whole.prompts
    write_outcomes(tmp_path, OutcomesDataset(prompts, nothing))

    with pytest.raises(OutcomesError, match=rf"{empty}\.parquet has no rows$"):
        read_outcomes(tmp_path)
    assert read_outcomes(tmp_path, may_be_empty=True).outcomes.num_rows == 0


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
        ({"score": [85.0, 40.0, 0.0]}, "outside 0 to 1, 85 of y on prompt a; divide percentages by 100"),
        ({"score": [1.0, float("nan"), 0.0]}, "a score is missing, of x on prompt a; leave the row out"),
        ({"score": ["good", "bad", "bad"]}, "score is of type string; write numbers from 0 to 1, or true and false"),
        ({"score": ["1.0", "0.5", "0.0"]}, "score is of type string"),
        ({"output_tokens": ["7", "8", "9"]}, "output_tokens is of type string; write numbers"),
        ({"output_tokens": [True, True, False]}, "output_tokens is of type bool; write numbers"),
        ({"output_tokens": [-1, 2, 3]}, "a negative output_tokens"),
        ({"output_tokens": [float("inf"), 2.0, 3.0]}, "an infinite output_tokens"),
        ({"mean_logprob": [float("-inf"), -2.0, -3.0]}, "an infinite mean_logprob"),
        ({"prompt_id": ["a", "a", "z"]}, "prompt z is not in prompts.parquet"),
        ({"prompt_id": ["a", "a", None]}, "prompt None is not in prompts.parquet"),
        ({"model": ["x", "x", "x"]}, "is there twice"),
        ({"model": ["y", "x", None]}, "a model has no name"),
        ({"model": [None, None, None]}, "a model has no name"),
        ({"model": [1, 2, 3]}, "model is of type int64; write texts"),
        ({"predicted_as": [["x"], ["y"], None]}, "predicted_as is of type list<element: string>; write texts"),
        ({"predicted_as": [1, 2, None]}, "predicted_as is of type int64; write texts"),
        ({"prompt_id": [1.0, 1.0, 3.0]}, "prompt_id is of type double; write texts or whole numbers"),
        ({"split": [1.0, 0.0, None]}, "split is of type double; write texts or whole numbers"),
        ({"split": [True, False, None]}, "split is of type bool; write texts or whole numbers"),
        ({"prompt": [b"One?", b"Two?", b"Three?"]}, "prompt is of type binary; write texts"),
        ({"prompt": ["One?", None, "Three?"]}, "prompt b has no text"),
        *(
            ({"messages": [None, messages, None]}, "messages of prompt b are not a JSON list of {role, content}")
            for messages in (
                "not json",
                '{"role": "user", "content": "Two?"}',
                "[]",
                '["Two?"]',
                '[{"content": "Two?"}]',
                '[{"role": "user", "content": 2}]',
                "[" * 100_000,
            )
        ),
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


@pytest.mark.parametrize(
    "changed",
    [
        {"score": pa.array([True, False, None]).fill_null(False)},
        {"score": pa.array([1, 0, 0], pa.int8())},
        {"score": pa.array([1, 0, 0], pa.decimal128(3, 1))},
        {"score": pa.array([1.0, 0.0, 0.0]).dictionary_encode()},
        {"score": pa.array(np.array([1, 0, 0], np.float16))},
        {"model": pa.array(["y", "x", "x"], pa.large_string())},
        {"model": pa.array(["y", "x", "x"], pa.string_view())},
        {"model": pa.array(["y", "x", "x"]).dictionary_encode()},
        {"prompt_id": pa.array(["a", "a", "c"], pa.large_string())},
        {"prompt_id": pa.array(["a", "a", "c"], pa.large_string()).dictionary_encode()},
        {"output_tokens": pa.nulls(3)},
    ],
    ids=lambda changed: "-".join(f"{name}-{values.type}" for name, values in changed.items()),
)
def test_columns_are_read_in_every_type_that_says_the_same(changed: dict[str, pa.Array], tmp_path: Path) -> None:
    plain = OutcomesDataset(pa.table(PROMPTS), pa.table(OUTCOMES | {"score": [1.0, 0.0, 0.0]}))
    write_outcomes(tmp_path, OutcomesDataset(plain.prompts, pa.table(OUTCOMES | {"score": [1.0, 0.0, 0.0]} | changed)))

    read = read_outcomes(tmp_path)

    np.testing.assert_array_equal(read.matrix("score", ("x", "y")), plain.matrix("score", ("x", "y")))
    averaged = read.renamed({"x": "one", "y": "one"})
    np.testing.assert_array_equal(averaged.matrix("score", ("one",))[:, 0], [0.5, np.nan, 0.0])
    assert read.select(np.array([True, False, False])).models == ("x", "y")


@pytest.mark.parametrize("theirs", [[1, 1, 3], ["1", "1", "3"]])
def test_ids_are_numbers_or_texts_and_mean_the_same_in_both_files(theirs: list[object], tmp_path: Path) -> None:
    prompts, outcomes = pa.table(PROMPTS | {"prompt_id": [1, 2, 3]}), pa.table(OUTCOMES | {"prompt_id": theirs})
    write_outcomes(tmp_path, OutcomesDataset(prompts, outcomes))

    read = read_outcomes(tmp_path)

    np.testing.assert_array_equal(read.matrix("score", ("x",))[:, 0], [0.5, np.nan, 0.0])
    assert read.select(np.array([False, False, True])).models == ("x",)


def test_a_number_that_is_nan_is_missing_and_does_not_spread(tmp_path: Path) -> None:
    costs = pa.array([float("nan"), 0.5, 0.25])
    write_outcomes(tmp_path, OutcomesDataset(dataset().prompts, dataset().outcomes.append_column("cost_usd", costs)))

    read = read_outcomes(tmp_path)

    np.testing.assert_array_equal(read.matrix("cost_usd", ("x", "y"))[0], [0.5, np.nan])
    assert read.renamed({"x": "one", "y": "one"}).matrix("cost_usd", ("one",))[0, 0] == 0.5


def test_messages_are_read_as_a_list_too(tmp_path: Path) -> None:
    messages = [None, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two?"}], []]
    prompts = pa.table(PROMPTS | {"messages": messages})
    write_outcomes(tmp_path, OutcomesDataset(prompts, pa.table(OUTCOMES)))

    assert read_outcomes(tmp_path).conversations() == dataset().conversations()


def test_a_message_that_only_calls_tools_has_no_text(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Two?"}, {"role": "assistant", "tool_calls": []}]
    write_outcomes(tmp_path, dataset(messages=[None, json.dumps(messages), None]))

    assert read_outcomes(tmp_path).conversations()[1] == (("user", "Two?"), ("assistant", ""))


def test_a_disk_that_is_full_of_outcomes_is_named(tmp_path: Path) -> None:
    with files_of_at_most(100), pytest.raises(OSError, match=r"File too large: .*prompts\.parquet\.part'$"):
        write_outcomes(tmp_path, dataset())


def test_a_folder_that_is_in_the_way_of_outcomes_is_named(tmp_path: Path) -> None:
    (tmp_path / "outcomes.parquet.part").mkdir()

    with pytest.raises(IsADirectoryError, match=r"Is a directory: .*outcomes\.parquet\.part'$"):
        write_outcomes(tmp_path, dataset())


def test_a_prompt_without_an_id_is_refused(tmp_path: Path) -> None:
    write_outcomes(tmp_path, OutcomesDataset(pa.table(PROMPTS | {"prompt_id": ["a", None, "c"]}), dataset().outcomes))

    with pytest.raises(OutcomesError, match="a prompt has no prompt_id"):
        read_outcomes(tmp_path)


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
