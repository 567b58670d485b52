"""What is learned from: two pools as rows, with bare questions beside templates, and questions that share a group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from router_models.outcomes.dataset import OutcomesDataset, OutcomesError, write_outcomes
from router_models.training.rows import Reading, folds_of, read_pools, training_pools
from tests.fakes.artifacts import tiny_pools, write_tiny_pools
from tests.unit.router_models.training.tiny import tiny_config


@pytest.fixture(scope="module")
def two_pools(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    folders, aliases = write_tiny_pools(tmp_path_factory.mktemp("pools"), 72)
    return read_pools(folders, "train", aliases, ())


def pool_of(folder: Path, name: str, prompts: list[dict[str, Any]], outcomes: list[tuple[str, str, float]]) -> Path:
    """A dataset written by hand; each prompt needs an id only."""
    rows = [{"prompt": f"what is {each['prompt_id']}", "split": "train", **each} for each in prompts]
    graded = [{"prompt_id": p, "model": model, "score": score} for p, model, score in outcomes]
    write_outcomes(folder / name, OutcomesDataset(pa.Table.from_pylist(rows), pa.Table.from_pylist(graded)))
    return folder / name


def test_a_rule_is_a_model_within_a_pool(two_pools: Reading) -> None:
    library = two_pools.library

    assert library.models == ("adder", "poet", "singer")
    assert library.pools == ("first", "second")
    assert [(p, library.models[m]) for p, m in zip(library.pool_R, library.model_R, strict=True)] == [
        (0, "adder"),
        (0, "poet"),
        (1, "adder"),
        (1, "singer"),
    ]


def test_tasks_are_told_apart_by_pool(two_pools: Reading) -> None:
    assert two_pools.library.tasks == ("first/rhymes", "first/sums", "second/rhymes", "second/sums")
    np.testing.assert_array_equal(two_pools.library.pool_T, [0, 0, 1, 1])
    np.testing.assert_array_equal(two_pools.library.pool_T[two_pools.rows.task], two_pools.rows.pool)


def test_the_layout_of_a_head_is_made_of_whole_numbers(two_pools: Reading) -> None:
    tensors = two_pools.library.tensors()

    assert set(tensors) == {"layout.pool_T", "layout.pool_R", "layout.model_R"}
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.int32)}


def test_names_of_one_model_become_one_column_and_are_remembered(two_pools: Reading) -> None:
    """The name that is the same in both sets needs no alias."""
    assert two_pools.library.aliases == {"adder-large": "adder", "adder-latest": "adder"}


def test_aliases_of_models_without_a_column_are_forgotten(tmp_path: Path) -> None:
    folders, aliases = write_tiny_pools(tmp_path, 24)

    assert read_pools(folders, "train", aliases, ("poet", "singer")).library.aliases == {}


def test_several_names_of_a_model_are_averaged(tmp_path: Path) -> None:
    graded = [("a", "old", 1.0), ("a", "new", 0.5), ("b", "old", 0.25), ("a", "other", 0.0)]
    folder = pool_of(tmp_path, "set", [{"prompt_id": "a"}, {"prompt_id": "b"}], graded)
    (tmp_path / "aliases.json").write_text(json.dumps({"one": {"set": ["old", "new"]}}))

    reading = read_pools([folder], "train", tmp_path / "aliases.json", ("one", "other"))

    np.testing.assert_array_equal(reading.rows.score, np.array([[0.75, 0.0], [0.25, np.nan]], np.float32))


def test_a_row_has_outcomes_of_its_own_pool_only(two_pools: Reading) -> None:
    known_BR = np.isfinite(two_pools.rows.score)

    np.testing.assert_array_equal(known_BR, two_pools.rows.pool[:, None] == two_pools.library.pool_R)


def test_what_was_not_measured_is_missing(two_pools: Reading) -> None:
    """The singer has scores and no lengths."""
    own_B = two_pools.rows.pool == 1

    assert np.isfinite(two_pools.rows.output_tokens[own_B, 2]).all()
    assert np.isnan(two_pools.rows.output_tokens[:, 3]).all()
    assert np.isfinite(two_pools.rows.input_tokens[own_B, 3]).all()


def test_only_the_split_is_read_unless_all_of_them_are_wanted(tmp_path: Path) -> None:
    folders, aliases = write_tiny_pools(tmp_path, 60)

    train = read_pools(folders, "train", aliases, (), with_bare=False)
    everything = read_pools(folders, None, aliases, (), with_bare=False)

    assert (len(train.rows), len(everything.rows)) == (80, 120)


def test_a_template_gets_a_second_bare_row_and_both_count_half(two_pools: Reading) -> None:
    rows = two_pools.rows
    second = np.flatnonzero(rows.is_second)
    sent_in_template = [row for row in tiny_pools(72)["second"].split("train").prompts.to_pylist() if row["messages"]]
    assert len(second) == len(sent_in_template) > 0

    for row in second:
        first = two_pools.prompt_ids.index(two_pools.prompt_ids[row], np.flatnonzero(rows.pool == 1)[0])
        (_, sent), (_, bare) = two_pools.conversations[first][0], two_pools.conversations[row][0]
        assert sent == f"Answer in one word.\n\nQuestion: {bare}\nAnswer:"
        assert not rows.is_second[first]
        assert rows.weight[first] == rows.weight[row] == 0.5
        assert (rows.group[first], rows.task[first]) == (rows.group[row], rows.task[row])
        np.testing.assert_array_equal(rows.score[first], rows.score[row])


@pytest.mark.parametrize(
    "before",
    [
        [("user", "Tell a story."), ("assistant", "Once upon a time")],
        [("system", "Tell a story.")],
    ],
)
def test_the_last_message_of_a_conversation_is_not_learned_from_alone(
    before: list[tuple[str, str]], tmp_path: Path
) -> None:
    """Nobody could say whether "Go on." is answered well."""
    turns = [{"role": role, "content": text} for role, text in [*before, ("user", "Go on.")]]
    prompts = [{"prompt_id": "a", "prompt": "Go on.", "messages": json.dumps(turns)}]

    rows = read_pools([pool_of(tmp_path, "set", prompts, [("a", "m", 1.0)])], "train", None, ()).rows

    assert (rows.is_second.tolist(), rows.weight.tolist()) == ([False], [1.0])


def test_plain_prompts_count_once(two_pools: Reading) -> None:
    rows = two_pools.rows

    assert rows.weight[rows.pool == 0].tolist() == [1.0] * 48
    assert rows.weight[rows.pool == 1].sum() == 48


def test_bare_questions_can_be_left_out(tmp_path: Path) -> None:
    folders, aliases = write_tiny_pools(tmp_path, 24)

    assert not read_pools(folders, "train", aliases, (), with_bare=False).rows.is_second.any()


def test_one_question_of_two_sets_is_one_group(two_pools: Reading) -> None:
    """Every sixth prompt of the second set has the `core_hash` of one of the first."""
    rows = two_pools.rows
    groups = [set(rows.group[rows.pool == pool].tolist()) for pool in (0, 1)]

    assert len(groups[0] & groups[1]) == 12
    assert len(groups[0]) == len(groups[1]) == 48


def test_without_a_hash_the_wording_says_which_questions_are_the_same(tmp_path: Path) -> None:
    texts = ("Who wrote  Emma?", "who wrote emma?\n", "Who wrote Persuasion?")
    prompts = [{"prompt_id": str(number), "prompt": text} for number, text in enumerate(texts)]
    folder = pool_of(tmp_path, "set", prompts, [(str(number), "m", 1.0) for number in range(3)])

    group = read_pools([folder], "train", None, ()).rows.group

    assert group[0] == group[1] != group[2]


def test_a_prompt_whose_hash_is_missing_is_not_the_same_as_all_the_others(tmp_path: Path) -> None:
    prompts: list[dict[str, Any]] = [{"prompt_id": p, "core_hash": "x" if p == "a" else None} for p in "abc"]
    folder = pool_of(tmp_path, "set", prompts, [(p, "m", 1.0) for p in ("a", "b", "c")])

    assert len(set(read_pools([folder], "train", None, ()).rows.group.tolist())) == 3


def test_a_prompt_that_no_wanted_model_answered_is_left_out(tmp_path: Path) -> None:
    prompts = [{"prompt_id": p} for p in ("a", "b")]
    folder = pool_of(tmp_path, "set", prompts, [("a", "m", 1.0), ("b", "n", 0.0)])

    reading = read_pools([folder], "train", None, ("m",))

    assert reading.prompt_ids == ["a"]
    assert len(reading.conversations) == len(reading.rows) == 1


def test_a_dataset_without_tasks_is_one_task(tmp_path: Path) -> None:
    folder = pool_of(tmp_path, "set", [{"prompt_id": "a"}, {"prompt_id": "b"}], [("a", "m", 1.0), ("b", "m", 1.0)])

    assert read_pools([folder], "train", None, ()).library.tasks == ("set/",)


def answered(folder: Path, by_two: int, by_one: int) -> Path:
    """A dataset of prompts that two models have scores on, and of others that are one model's each."""
    both = [(f"both {number}", model, 1.0) for number in range(by_two) for model in ("m", "n")]
    alone = [(f"alone {number}", "mn"[number % 2], 1.0) for number in range(by_one)]
    prompts = [{"prompt_id": name} for name in dict.fromkeys(name for name, _, _ in [*both, *alone])]
    return pool_of(folder, "set", prompts, [*both, *alone])


@pytest.mark.parametrize(
    ("by_two", "by_one", "told"),
    [(0, 200, "only 0 of 200 .* and 50 are"), (49, 151, "only 49 of 200"), (9, 11, "only 9 of 20 .* and 10 are")],
)
def test_prompts_of_one_model_each_teach_nobody_whom_to_choose(
    by_two: int, by_one: int, told: str, tmp_path: Path
) -> None:
    """As in a journal, where the hard ones may all have gone to one model."""
    config = tiny_config(data=(answered(tmp_path, by_two, by_one),))

    with pytest.raises(OutcomesError, match=f"{told}.*; ask two models the same prompts, as `thalamus collect"):
        training_pools(config)


@pytest.mark.parametrize(("by_two", "by_one"), [(50, 150), (10, 10), (12, 0)])
def test_prompts_of_one_model_beside_others_are_learned_from_and_counted(
    by_two: int, by_one: int, tmp_path: Path
) -> None:
    reading = training_pools(tiny_config(data=(answered(tmp_path, by_two, by_one),)))

    assert len(reading.rows) == by_two + by_one
    assert reading.without_choice() == ({"set": (by_one, by_two + by_one)} if by_one else {})


def test_a_bare_question_beside_its_template_is_no_further_prompt_without_a_choice(tmp_path: Path) -> None:
    sent = json.dumps([{"role": "user", "content": "Answer in a word: what is alone 0"}])
    prompts = [{"prompt_id": "alone 0", "messages": sent}, {"prompt_id": "both"}]
    folder = pool_of(tmp_path, "set", prompts, [("alone 0", "m", 1.0), ("both", "m", 1.0), ("both", "n", 0.0)])

    reading = read_pools([folder], "train", None, ())

    assert len(reading.rows) == 3
    assert reading.without_choice() == {"set": (1, 2)}


def test_columns_are_those_asked_for_in_that_order(tmp_path: Path) -> None:
    folders, aliases = write_tiny_pools(tmp_path, 24)

    library = read_pools(folders, "train", aliases, ("singer", "adder")).library

    assert library.models == ("singer", "adder")
    assert list(zip(library.pool_R, library.model_R, strict=True)) == [(0, 1), (1, 0), (1, 1)]


def test_a_pool_in_which_no_wanted_model_answered_is_not_one_of_the_library(tmp_path: Path) -> None:
    folders, aliases = write_tiny_pools(tmp_path, 24)

    library = read_pools(folders, "train", aliases, ("poet",)).library

    assert library.pools == ("first",)
    assert library.tasks == ("first/rhymes", "first/sums")


def test_two_datasets_whose_folders_have_one_name_are_refused(tmp_path: Path) -> None:
    """The name of a folder names its pool."""
    folders = [pool_of(tmp_path / place, "set", [{"prompt_id": "a"}], [("a", "m", 1.0)]) for place in ("one", "two")]

    with pytest.raises(OutcomesError, match=r"two datasets have a folder of the same name, .*: set, set"):
        read_pools(folders, "train", None, ())


def test_a_training_split_without_outcomes_is_refused(tmp_path: Path) -> None:
    prompts = [{"prompt_id": "a"}, {"prompt_id": "b", "split": "test"}]
    folder = pool_of(tmp_path, "set", prompts, [("b", "m", 1.0)])

    with pytest.raises(OutcomesError, match="no prompt of the training split has an outcome"):
        read_pools([folder], "train", None, ())


def test_a_model_without_outcomes_is_refused(tmp_path: Path) -> None:
    folders, aliases = write_tiny_pools(tmp_path, 24)

    with pytest.raises(OutcomesError, match="model nobody has no outcome in the training split; there are "):
        read_pools(folders, "train", aliases, ("adder", "nobody"))


def test_rows_are_taken_by_number_or_by_mask(two_pools: Reading) -> None:
    rows = two_pools.rows

    assert len(rows.take(np.array([3, 1]))) == 2
    np.testing.assert_array_equal(rows.take(np.array([3, 1])).score, rows.score[[3, 1]])
    assert (rows.take(rows.pool == 1).pool == 1).all()


def test_rows_of_one_group_share_a_fold_and_more_rows_move_none() -> None:
    groups_B = np.array([5, 1, 5, 2, 1, 7])

    fold_B = folds_of(groups_B, 3, seed=1)

    assert fold_B[0] == fold_B[2]
    assert fold_B[1] == fold_B[4]
    np.testing.assert_array_equal(folds_of(np.concatenate([groups_B, [9, 11]]), 3, seed=1)[:6], fold_B)


@pytest.mark.parametrize("seed", range(30))
def test_a_few_groups_never_share_one_fold(seed: int) -> None:
    fold_B = folds_of(np.array([3, 3, 8, 3]), 5, seed)

    assert fold_B[0] == fold_B[1] == fold_B[3] != fold_B[2]


def test_folds_are_about_even_and_depend_on_the_seed() -> None:
    groups_B = np.arange(3_000)

    fold_B = folds_of(groups_B, 3, seed=1)

    assert np.bincount(fold_B).min() > 900
    assert (fold_B != folds_of(groups_B, 3, seed=2)).mean() > 0.5
