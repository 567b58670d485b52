"""The school grade of answers."""

from __future__ import annotations

import pytest

from app.collect.readability import LEAST_ANSWERS, count_syllables, readability_grade


@pytest.mark.parametrize(
    ("word", "syllables"),
    [("cat", 1), ("table", 2), ("made", 1), ("reading", 2), ("tree", 1), ("the", 1), ("banana", 3), ("rhythm", 1)],
)
def test_syllables_are_groups_of_vowels_without_a_silent_e(word: str, syllables: int) -> None:
    assert count_syllables(word) == syllables


def test_the_grade_is_the_formula_on_counts_by_hand() -> None:
    # 6 words, 6 syllables, 1 sentence: 0.39 * 6 + 11.8 * 1 - 15.59
    grade, answers = readability_grade(["The cat sat on the mat."] * LEAST_ANSWERS)

    assert grade == pytest.approx(-1.45)
    assert answers == LEAST_ANSWERS


def test_long_words_in_long_sentences_read_harder() -> None:
    simple, _ = readability_grade(["The sky is blue. The sun is warm."] * LEAST_ANSWERS)
    dense, _ = readability_grade(
        ["Atmospheric scattering preferentially redistributes radiation of considerably shorter wavelengths."]
        * LEAST_ANSWERS
    )

    assert simple is not None
    assert dense is not None
    assert dense > simple + 10


def test_too_few_answers_of_prose_have_no_grade() -> None:
    assert readability_grade(["42", None, "", "SELECT 1"] * 100) == (None, 0)
    assert readability_grade(["The cat sat on the mat."] * (LEAST_ANSWERS - 1)) == (None, LEAST_ANSWERS - 1)
