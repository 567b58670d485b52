"""Prompts that ask the same question count once, and stay on one side."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from router_models.outcomes import OutcomesDataset
from router_models.questions import folds_by_question, one_per_question, question_numbers

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


def test_of_each_question_one_prompt_is_left_with_the_means_of_what_was_answered() -> None:
    left = one_per_question(OutcomesDataset(PROMPTS, OUTCOMES))

    assert left.prompts["prompt_id"].to_pylist() == ["a", "b"]
    np.testing.assert_array_equal(left.matrix("score", ("m", "n")), [[0.5, 1], [0.75, np.nan]])
    np.testing.assert_array_equal(left.matrix("output_tokens", ("m", "n")), [[10, 4], [4, np.nan]])


def test_without_copies_a_dataset_stays_as_it_is() -> None:
    dataset = OutcomesDataset(PROMPTS.slice(0, 2), OUTCOMES.slice(0, 1))

    assert one_per_question(dataset) is dataset


def test_no_question_is_in_two_parts_and_every_prompt_is_in_one() -> None:
    number_B = np.repeat(np.arange(20), 3)

    parts = folds_by_question(number_B, 5, seed=1)

    assert sorted(np.concatenate(parts).tolist()) == list(range(60))
    assert [len(np.unique(number_B[part])) for part in parts] == [4] * 5
