"""Prompts that ask the same question count once, and stay on one side."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from router_models.outcomes.dataset import OutcomesDataset
from router_models.outcomes.questions import (
    folds_by_question,
    one_per_question,
    question_hash,
    question_keys,
    question_numbers,
    told_apart,
    without_lone_scores,
)

PROMPTS = pa.table(
    {
        "prompt_id": ["a", "b", "c", "d"],
        "prompt": ["Add 1 and 2", "Rhyme on rose", "  add 1\nand 2", "A copy"],
        "core_hash": [None, "rose", None, "rose"],
    }
)
OUTCOMES = pa.table(
    {
        "prompt_id": ["a", "c", "c", "b", "d"],
        "model": ["m", "m", "n", "m", "m"],
        "score": [1.0, 0.0, 1.0, 0.5, 1.0],
        "output_tokens": [10, None, 4, 2, 6],
    }
)


def test_a_question_is_known_by_its_text_or_by_its_own_hash() -> None:
    assert question_numbers(OutcomesDataset(PROMPTS, OUTCOMES)).tolist() == [0, 1, 0, 1]


def sent(*conversations: list[tuple[str, str]] | None, prompt: str = "Go on.", **columns: list[str]) -> OutcomesDataset:
    """The same prompt, at the end of each of these conversations."""
    ids = [f"p{number}" for number in range(len(conversations))]
    turns = [said and json.dumps([{"role": role, "content": text} for role, text in said]) for said in conversations]
    prompts = {"prompt_id": ids, "prompt": [prompt] * len(ids), "messages": pa.array(turns, pa.string()), **columns}
    outcomes = {"prompt_id": ids, "model": ["m"] * len(ids), "score": [number / 8 for number in range(len(ids))]}
    return OutcomesDataset(pa.table(prompts), pa.table(outcomes))


STORY, RECIPE = [("system", "Tell a story."), ("user", "Go on.")], [("system", "A recipe."), ("user", "Go on.")]


def test_conversations_that_end_alike_are_different_questions() -> None:
    louder = [("system", "tell a  STORY. "), ("user", "go on.")]

    dataset = sent(STORY, RECIPE, louder)

    assert question_numbers(dataset).tolist() == [0, 1, 0]
    np.testing.assert_array_equal(one_per_question(dataset).matrix("score", ("m",)), [[0.125], [0.125]])


def test_who_said_what_is_part_of_the_question() -> None:
    turns = [("user", "One"), ("assistant", "Two"), ("user", "Go on.")]
    others = [("user", "One"), ("user", "Two"), ("user", "Go on.")]

    assert question_numbers(sent(turns, others)).tolist() == [0, 1]


def test_a_prompt_that_was_sent_alone_or_in_a_template_is_known_by_its_text() -> None:
    alone, template = [("user", "Go on.")], [("user", "Answer in a word: Go on.")]

    assert set(question_keys(sent(None, alone, template))) == {question_hash("Go on.")}


def test_a_hash_of_its_own_goes_before_the_conversation() -> None:
    assert question_numbers(sent(STORY, RECIPE, core_hash=["x", "x"])).tolist() == [0, 0]


def test_of_each_question_one_prompt_is_left_with_the_means_of_what_was_answered() -> None:
    left = one_per_question(OutcomesDataset(PROMPTS, OUTCOMES))

    assert left.prompts["prompt_id"].to_pylist() == ["a", "b"]
    np.testing.assert_array_equal(left.matrix("score", ("m", "n")), [[0.5, 1], [0.75, np.nan]])
    np.testing.assert_array_equal(left.matrix("output_tokens", ("m", "n")), [[10, 4], [4, np.nan]])


def rated(*answers: tuple[str, str, str]) -> OutcomesDataset:
    """Prompts with these ids and texts, each with scores of the models in a word of letters."""
    prompts = {"prompt_id": [name for name, _, _ in answers], "prompt": [text for _, text, _ in answers]}
    rows = [
        {"prompt_id": name, "model": model, "score": 0.5, "output_tokens": 7} for name, _, by in answers for model in by
    ]
    return OutcomesDataset(pa.table(prompts), pa.Table.from_pylist(rows))


@pytest.mark.parametrize(
    ("answers", "left"),
    [
        ([("1", "Hi", "a"), ("2", "hi ", "b")], []),
        ([("1", "Hi", "a"), ("2", "hi ", "a")], ["1a", "2a"]),
        ([("1", "Hi", "a"), ("2", "Bye", "b")], ["1a", "2b"]),
        ([("1", "Hi", "ab"), ("2", "hi ", "a")], ["1a", "1b"]),
        ([("1", "Hi", "ab"), ("2", "hi ", "bc")], ["1a", "1b", "2b", "2c"]),
        ([("1", "Hi", "ax"), ("2", "hi ", "a"), ("3", "hi", "x")], ["1a", "1x", "2a", "3x"]),
    ],
)
def test_what_different_callers_say_of_different_models_is_not_put_side_by_side(
    answers: list[tuple[str, str, str]], left: list[str]
) -> None:
    """Of the model x nobody wants to know."""
    found = without_lone_scores(rated(*answers), ("a", "b", "c"))

    rows = found.outcomes.to_pylist()
    assert [row["prompt_id"] + row["model"] for row in rows if row["score"] is not None] == left
    assert {row["output_tokens"] for row in rows} == {7}


@pytest.mark.parametrize(
    ("answers", "left", "numbers"),
    [
        ([("1", "Hi", "b"), ("2", "Bye", "a"), ("3", "hi ", "a")], ["1b", "2a", "3a"], [0, 1, 2]),
        ([("1", "Hi", "a"), ("2", "hi ", "b"), ("3", "hi", "a")], ["1a", "2b", "3a"], [0, 1, 0]),
        ([("1", "Hi", "ab"), ("2", "hi ", "a"), ("3", "hi", "c")], ["1a", "1b", "3c"], [0, 0, 1]),
        ([("1", "Hi", "ab"), ("2", "hi ", "bc")], ["1a", "1b", "2b", "2c"], [0, 0]),
        ([("1", "Hi", "ax"), ("2", "hi ", "a"), ("3", "hi", "x")], ["1a", "1x", "2a", "3x"], [0, 0, 0]),
    ],
)
def test_what_different_callers_say_of_different_models_is_told_apart(
    answers: list[tuple[str, str, str]], left: list[str], numbers: list[int]
) -> None:
    """And each model's own is kept: of a question once, and where it was compared only that."""
    found, number_B = told_apart(rated(*answers), ("a", "b", "c"))

    rows = found.outcomes.to_pylist()
    assert [row["prompt_id"] + row["model"] for row in rows if row["score"] is not None] == left
    assert number_B.tolist() == numbers


def test_without_copies_a_dataset_stays_as_it_is() -> None:
    dataset = OutcomesDataset(PROMPTS.slice(0, 2), OUTCOMES.slice(0, 1))

    assert one_per_question(dataset) is dataset


def test_no_question_is_in_two_parts_and_every_prompt_is_in_one() -> None:
    number_B = np.repeat(np.arange(20), 3)

    parts = folds_by_question(number_B, 5, seed=1)

    assert sorted(np.concatenate(parts).tolist()) == list(range(60))
    assert [len(np.unique(number_B[part])) for part in parts] == [4] * 5
