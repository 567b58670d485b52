"""Prompts without a split get one that stays: the same text on the same side of every dataset."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow as pa
import pytest

from router_models.outcomes.dataset import OutcomesDataset
from router_models.outcomes.splits import DRAWN, SHARES, division, drawn_split, is_undivided, with_splits

OUTCOMES = pa.table({"prompt_id": ["p0"], "model": ["m"], "score": [1.0]})


def dataset(texts: list[str], split: pa.Array | None = None) -> OutcomesDataset:
    columns = {"prompt_id": [f"p{number}" for number in range(len(texts))], "prompt": texts}
    return OutcomesDataset(pa.table(columns | ({} if split is None else {"split": split})), OUTCOMES)


def splits(found: OutcomesDataset) -> list[str | None]:
    drawn: list[str | None] = found.prompts["split"].to_pylist()
    return drawn


def test_the_same_text_is_on_the_same_side_in_every_dataset() -> None:
    texts = [f"question {number}" for number in range(50)]
    shuffled = [f"  Question\n{number} " for number in reversed(range(50))] + ["another"]

    assert splits(with_splits(dataset(texts))) == splits(with_splits(dataset(shuffled)))[:50][::-1]


def test_conversations_that_end_alike_are_divided_as_others_are() -> None:
    """By all that was said, so that they are not all on one side; a lone message is where its text is."""
    asking = ("user", "Sum up.")
    turns = [[("system", f"Document {number}."), asking] for number in range(100)] + [[asking]]
    said = [json.dumps([{"role": role, "content": text} for role, text in each]) for each in turns]
    undivided = dataset(["Sum up."] * len(turns))
    spoken = OutcomesDataset(undivided.prompts.append_column("messages", pa.array(said)), OUTCOMES)

    *drawn, alone = splits(with_splits(spoken))

    assert Counter(drawn)["train"] == pytest.approx(70, abs=15)
    assert set(drawn) == set(SHARES)
    assert alone == drawn_split("Sum up.")


def test_the_shares_are_as_they_are_said() -> None:
    counted = Counter(drawn_split(f"what is {number}?") for number in range(20_000))

    assert {name: count / 20_000 for name, count in counted.items()} == pytest.approx(SHARES, abs=0.015)


@pytest.mark.parametrize("split", [None, pa.nulls(2), pa.nulls(2, pa.string())])
def test_a_dataset_without_splits_gets_them(split: pa.Array | None) -> None:
    undivided = dataset(["one", "two"], split)

    assert is_undivided(undivided)
    assert set(splits(with_splits(undivided))) <= set(SHARES)
    assert with_splits(undivided).prompts.column_names == ["prompt_id", "prompt", "split"]


def test_a_dataset_that_says_a_split_of_any_prompt_is_left_alone() -> None:
    divided = dataset(["one", "two"], pa.array(["eval", None]))

    assert with_splits(divided) is divided


@pytest.mark.parametrize(
    ("split", "splits", "note"),
    [
        (
            ["train", None, None],
            ("train",),
            "2 of 3 prompts are left out: they have no split, and others have one",
        ),
        (["train", "eval", "train"], ("eval", "train"), None),
        ([None, None, None], ("dev", "train"), DRAWN),
    ],
)
def test_what_a_dataset_is_divided_into_is_said_where_it_may_surprise(
    split: list[str | None], splits: tuple[str, ...], note: str | None
) -> None:
    by_split = {drawn_split(str(number)): str(number) for number in range(100)}

    found = division(dataset([by_split["train"], by_split["dev"], by_split["train"]], pa.array(split, pa.string())))

    assert (found.splits, found.note()) == (splits, note)


def test_no_prompts_are_no_trouble() -> None:
    assert splits(with_splits(dataset([]))) == []
