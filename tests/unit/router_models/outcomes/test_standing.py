"""Who is good, where models answered different prompts."""

from __future__ import annotations

import numpy as np

from router_models.outcomes.standing import standing

NAN = np.nan


def test_a_model_that_sat_only_easy_prompts_does_not_stand_higher_for_it() -> None:
    hard, easy = [[0.4, 0.2, NAN, NAN]] * 20, [[0.9, 0.7, 0.8, NAN]] * 20

    found = standing(np.array(hard + easy))

    assert found[0] > found[2] > found[1]
    assert found[3] == -np.inf
    # Means would have put the third model first.
    assert np.nanmean(np.array(hard + easy)[:, :3], axis=0).argmax() == 2


def test_models_that_no_prompt_connects_are_ordered_by_their_means() -> None:
    """As where every prompt was sent to one model only."""
    score = np.full((40, 2), NAN)
    score[:20, 0], score[20:, 1] = [0.0, 1.0] * 10, [1.0, 1.0, 1.0, 0.0] * 5

    np.testing.assert_allclose(standing(score), [0.5, 0.75])


def test_where_all_answered_all_prompts_a_standing_is_a_mean() -> None:
    score = np.random.default_rng(0).choice([0.0, 0.5, 1.0], (50, 4))

    np.testing.assert_allclose(standing(score), score.mean(0))


def test_a_standing_is_the_score_on_all_prompts() -> None:
    """Of the hard half the third model was not asked; it is as good as the first."""
    rng = np.random.default_rng(0)
    rate = np.array([0.2, 0.8]).repeat(2_000)[:, None] + np.array([0.1, 0.0, 0.1])
    score = (rng.random(rate.shape) < rate).astype(float)
    score[:2_000, 2] = NAN

    np.testing.assert_allclose(standing(score), [0.6, 0.5, 0.6], atol=0.03)


def test_prompts_that_one_model_alone_answered_count_for_it() -> None:
    """One shared prompt that it failed does not outweigh two hundred of its own."""
    score = np.full((260, 2), NAN)
    score[:60, 0], score[59:, 1] = [0.5] * 60, [0.0] + [0.9] * 200

    worse, better = standing(score)

    assert better > worse + 0.2
