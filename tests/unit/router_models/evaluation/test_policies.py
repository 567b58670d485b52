"""Baselines: what they learn, what they may not know, and who is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from router_models.evaluation.learners import BASELINES, CLUSTERS, HAND, NEIGHBOURS, TFIDF, soft_clusters, values
from router_models.evaluation.metrics import Truth
from router_models.evaluation.policies import (
    PROMPT_LENGTH,
    TASK_TABLE,
    Known,
    chosen_column,
    prompt_length,
    take,
    task_table,
)
from router_models.reading.conversation import Parts

NAN = np.nan


def known(score: list[list[float]], tasks: list[str], new_tasks: list[str]) -> Known:
    texts, new_texts = ([Parts("", f"text {task}") for task in names] for names in (tasks, new_tasks))
    blank = np.zeros((len(tasks), 2), np.float32), np.zeros((len(new_tasks), 2), np.float32)
    return Known(np.array(score), tasks, new_tasks, texts, new_texts, *blank)


def test_the_task_table_falls_back_to_the_mean_for_a_task_it_never_saw() -> None:
    value = task_table(known([[1.0, 0.0]] * 40 + [[0.0, 1.0]] * 40, ["a"] * 40 + ["b"] * 40, ["a", "b", "new"]))

    assert value[0, 0] > 0.9 > 0.1 > value[0, 1]
    np.testing.assert_allclose(value[2], [0.5, 0.5])


def test_length_alone_tells_long_questions_from_short_ones() -> None:
    tasks = ["x" * length for length in [5] * 30 + [500] * 30]

    value = prompt_length(known([[1.0, 0.0]] * 30 + [[0.0, 1.0]] * 30, tasks, ["x" * 6, "x" * 600]))

    assert value[0, 0] > value[0, 1]
    assert value[1, 1] > value[1, 0]


def words(rng: np.random.Generator, vocabulary: list[str], count: int) -> list[Parts]:
    return [Parts("", " ".join(rng.choice(vocabulary, 5))) for _ in range(count)]


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_gives_every_prompt_a_number_for_every_model(name: str) -> None:
    rng = np.random.default_rng(0)
    score = np.where(rng.random((60, 3)) < 0.2, NAN, rng.choice([0.0, 0.5, 1.0], (60, 3)))
    score[:, 2] = 1.0
    texts = words(rng, ["add", "rhyme", "sort"], 60)
    tasks, embedding = [text.question for text in texts], rng.normal(size=(60, 4))

    value = BASELINES[name](Known(score, tasks, tasks[:7], texts, texts[:7], embedding, embedding[:7]))

    assert value.shape == (7, 3)
    assert np.isfinite(value).all()
    assert ((value >= 0) & (value <= 1 + 1e-9)).all()


@pytest.mark.parametrize("name", [HAND, TFIDF, NEIGHBOURS, CLUSTERS])
def test_a_baseline_learns_which_model_is_good_at_what(name: str) -> None:
    rng = np.random.default_rng(1)
    texts = [*words(rng, ["12", "7", "99"], 60), *words(rng, ["Rose", "River", "Rain"], 60)]
    is_sum = np.arange(120) < 60
    score = np.where(is_sum[:, None], [1.0, 0.0], [0.0, 1.0])
    embedding = np.where(is_sum[:, None], [1.0, 0.0], [0.0, 1.0]) + 0.01 * rng.normal(size=(120, 2))
    tasks = [""] * 120

    value = BASELINES[name](Known(score, tasks, tasks, texts, texts, embedding, embedding))

    assert (value.argmax(1) == score.argmax(1)).mean() > 0.95


def test_what_all_baselines_say_is_collected_and_counted() -> None:
    rng = np.random.default_rng(0)
    texts = words(rng, ["add", "rhyme"], 40)
    told: list[None] = []

    said, left_out = values(
        Known(np.ones((40, 2)), [""] * 40, [""] * 3, texts, texts[:3], np.ones((40, 2)), np.ones((3, 2))),
        lambda: told.append(None),
    )

    assert list(said) == [TASK_TABLE, PROMPT_LENGTH, HAND, TFIDF, NEIGHBOURS, CLUSTERS]
    assert left_out == {}
    assert len(told) == len(said)


def test_clusters_with_few_outcomes_lean_on_the_models_means() -> None:
    embedding = np.array([[1.0, 0.0]] * 10)
    score = np.array([[1.0, NAN]] * 5 + [[NAN, 1.0]] * 5)
    texts = [Parts("", "")] * 10

    value = soft_clusters(Known(score, [""] * 10, [""], texts, texts[:1], embedding, embedding[:1]))

    np.testing.assert_allclose(value, [[1.0, 1.0]])


def test_a_model_that_nothing_is_predicted_for_comes_last_but_can_be_all_there_is() -> None:
    value = np.array([[NAN, 0.1], [NAN, 0.1]])

    np.testing.assert_array_equal(chosen_column(value, np.array([[True, True], [True, False]])), [1, 0])


def test_values_of_chosen_columns_are_taken_for_one_choice_or_many() -> None:
    value = np.array([[1.0, 2.0], [3.0, 4.0]])

    np.testing.assert_array_equal(take(value, np.array([1, 0])), [2, 3])
    np.testing.assert_array_equal(take(value, np.array([[0, 0], [1, 1]])), [[1, 3], [2, 4]])


def test_availability_is_what_has_an_outcome() -> None:
    np.testing.assert_array_equal(Truth(np.array([[1.0, NAN]]), np.ones((1, 2))).available, [[True, False]])


def counted(questions: list[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What baselines make of these questions, which are measured as well."""
    texts, blank = [Parts("", question) for question in questions], np.ones((len(questions), 2))
    score = np.tile([[0.0, 1.0], [1.0, 0.0]], (len(questions), 1))[: len(questions)]
    tasks = [""] * len(questions)
    return values(Known(score, tasks, tasks, texts, texts, blank, blank), lambda: None)


@pytest.mark.parametrize("questions", [["add apples", "add all", "a rose", "rhyme"], ["1 + 2 = ?", "3 + 4 = ?"] * 60])
def test_few_prompts_and_prompts_without_words_are_learned_from(questions: list[str]) -> None:
    said, left_out = counted(questions)

    assert left_out == {}
    assert said[TFIDF].shape == (len(questions), 2)


def test_of_prompts_without_any_letters_one_baseline_learns_nothing() -> None:
    said, left_out = counted([""] * 120)

    assert left_out == {TFIDF: "the training prompts have no words"}
    assert HAND in said
