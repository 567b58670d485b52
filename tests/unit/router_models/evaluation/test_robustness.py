"""What the perturbations change, and what comparing choices says."""

from __future__ import annotations

import numpy as np
import pytest

from router_models.evaluation.frontier import LINEAR, SETTINGS
from router_models.evaluation.robustness import (
    MOST_PROMPTS,
    PERTURBATIONS,
    Shaken,
    drawn,
    operating_weight,
    perturbed,
    with_typos,
)


def test_typos_touch_about_one_letter_in_twenty_and_nothing_else() -> None:
    text = "abcdefghij 0123456789. " * 500
    same = with_typos(text, np.random.default_rng(1))

    letters = sum(character.isalpha() for character in text)
    assert same != text
    assert abs(len(same) - len(text)) < 0.02 * letters
    assert sum(character.isdigit() for character in same) == sum(character.isdigit() for character in text)


def test_the_same_seed_makes_the_same_typos() -> None:
    text = "How many apples are left when the boy has eaten three of them?" * 5

    assert with_typos(text, np.random.default_rng(3)) == with_typos(text, np.random.default_rng(3))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_only_the_last_user_message_is_changed(name: str) -> None:
    talk = (("user", "first " * 40), ("assistant", "answer"), ("user", "second " * 40), ("tools", "search"))

    changed = perturbed(talk, PERTURBATIONS[name], np.random.default_rng(0))

    assert [role for role, _ in changed] == [role for role, _ in talk]
    assert [before == after for before, after in zip(talk, changed, strict=True)] == [True, True, False, True]


def test_at_most_four_hundred_prompts_are_asked_again_in_their_order() -> None:
    assert drawn(5).tolist() == [0, 1, 2, 3, 4]
    assert len(drawn(3_000)) == MOST_PROMPTS
    assert (np.diff(drawn(3_000)) > 0).all()


def test_the_operating_point_is_the_smallest_weight_that_spreads_the_prompts() -> None:
    weights = [weight for form, weight in SETTINGS if form == LINEAR]
    column_WB = np.zeros((len(SETTINGS), 10), dtype=int)
    column_WB[5:, :2] = 1

    assert operating_weight(column_WB) == weights[5]


def test_where_one_model_always_leads_the_weight_that_spreads_most_is_taken() -> None:
    weights = [weight for form, weight in SETTINGS if form == LINEAR]
    column_WB = np.zeros((len(SETTINGS), 10), dtype=int)
    column_WB[7, 0] = 1

    assert operating_weight(column_WB) == weights[7]


def test_choices_are_compared_by_share_quality_and_spending() -> None:
    shaken = Shaken(
        same_by_quality=np.array([True, True, True, False]),
        same=np.array([True, False, True, False]),
        quality_before=np.array([1.0, 1.0, 0.0, 0.0]),
        quality_after=np.array([1.0, 0.0, 0.0, 0.0]),
        cost_before=np.array([1.0, 1.0, np.nan, 2.0]),
        cost_after=np.array([1.0, 2.0, 1.0, 2.0]),
        unfamiliar=np.array([False, False, False, True]),
    )

    found = Shaken.joined([shaken, shaken]).figures()

    assert found == {
        "prompts": 8,
        "unchanged_by_quality": 0.75,
        "unchanged": 0.5,
        "quality_ratio": 0.5,
        "spend_ratio": 1.25,
        "unfamiliar": 0.25,
    }
