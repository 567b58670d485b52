"""Metrics and intervals, on numbers small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from router_models.evaluation.bootstrap import Draws, over_repetitions
from router_models.evaluation.metrics import (
    Truth,
    brier,
    expected_calibration_error,
    like_prompts,
    log_loss,
    per_prompt,
    rate_coverage,
    reliability,
    worth,
)
from router_models.evaluation.policies import at_random, chosen, oracle

NAN = np.nan
TRUTH = Truth(
    score=np.array([[1.0, 0.0, 1.0], [0.0, 0.0, NAN], [0.5, NAN, 0.25]]),
    cost_usd=np.array([[3.0, 1.0, 2.0], [1.0, 2.0, NAN], [1.0, NAN, 4.0]]),
)


def test_a_choice_is_worth_what_happened() -> None:
    result = worth(chosen(np.array([[9.0, 1, 1], [1, 9, 1], [1, 1, 9]]), TRUTH), TRUTH)

    np.testing.assert_array_equal(result.quality, [1.0, 0.0, 0.25])
    np.testing.assert_array_equal(result.cost_usd, [3.0, 2.0, 4.0])
    np.testing.assert_array_equal(result.oracle_match, [1, 1, 0])
    np.testing.assert_array_equal(result.cheapest_best_match, [0, 0, 0])
    np.testing.assert_array_equal(result.regret, [0.0, 0.0, 0.25])


def test_a_model_without_an_outcome_is_never_chosen() -> None:
    share = chosen(np.array([[1.0, 2, 3], [1, 2, 3], [1, 3, 2]]), TRUTH)

    np.testing.assert_array_equal(share.argmax(1), [2, 1, 2])


def test_the_oracle_takes_the_cheapest_of_the_best() -> None:
    result = worth(oracle(TRUTH), TRUTH)

    np.testing.assert_array_equal(oracle(TRUTH).argmax(1), [2, 0, 0])
    np.testing.assert_array_equal(result.cheapest_best_match, 1)
    np.testing.assert_array_equal(result.regret, 0)


def test_random_is_the_mean_over_the_candidates_there_are() -> None:
    result = worth(at_random(TRUTH), TRUTH)

    np.testing.assert_allclose(result.quality, [2 / 3, 0, 0.375])
    np.testing.assert_allclose(result.oracle_match, [2 / 3, 1, 0.5])
    np.testing.assert_allclose(result.cost_usd, [2, 1.5, 2.5])


def test_where_all_scores_are_the_same_a_match_is_not_counted() -> None:
    values = per_prompt(worth(oracle(TRUTH), TRUTH), TRUTH)

    np.testing.assert_array_equal(values["oracle_match_where_scores_differ"], [1, NAN, 1])


def test_without_costs_there_is_no_cheapest() -> None:
    truth = Truth(TRUTH.score, np.full_like(TRUTH.score, NAN))

    assert np.isnan(worth(oracle(truth), truth).cheapest_best_match).all()


def test_an_interval_of_equal_numbers_is_a_point_and_leaves_out_what_is_missing() -> None:
    draws = Draws.of(4)

    assert draws.mean(np.array([0.5, NAN, 0.5, 0.5])).as_list() == [0.5, 0.5, 0.5]
    assert draws.mean(np.full(4, NAN)).as_list() is None


def test_an_interval_is_as_wide_as_theory_says() -> None:
    values = (np.random.default_rng(0).random(1_000) < 0.3).astype(float)

    found = Draws.of(1_000).mean(values)

    half = 1.96 * values.std() / np.sqrt(1_000)
    assert found.high - found.mid == pytest.approx(half, rel=0.1)
    assert found.mid - found.low == pytest.approx(half, rel=0.1)


def test_a_spread_over_seeds_widens_the_interval() -> None:
    rng, draws = np.random.default_rng(0), Draws.of(1_000)
    values = (rng.random(1_000) < 0.5).astype(float)
    apart = np.stack([values, np.clip(values + 0.2, 0, 1), np.clip(values - 0.2, 0, 1)])

    alike, spread = draws.mean(np.stack([values] * 3)), draws.mean(apart)

    assert spread.high - spread.low > 1.5 * (alike.high - alike.low)


def test_sets_are_drawn_apart_so_that_a_difference_between_them_is_no_spread() -> None:
    values = np.concatenate([np.zeros(50), np.ones(150)])

    pooled = Draws.joined([Draws.of(50, place=0), Draws.of(150, place=1)]).mean(values)

    assert pooled.as_list() == [0.75, 0.75, 0.75]


def test_some_of_the_prompts_keep_their_draws() -> None:
    draws, rows = Draws.of(6), np.array([True, False, True, True, False, True])

    some = draws.only(rows)

    np.testing.assert_array_equal(some.counts_RB, draws.counts_RB[:, rows])
    drawn = some.counts_RB.any(1)
    np.testing.assert_allclose(some.means(np.ones((1, 4)))[drawn], 1.0)


def test_repetitions_are_summed_up_by_their_mean_and_where_they_lie() -> None:
    low, mid, high = over_repetitions([float(number) for number in range(101)])

    assert (low, mid, high) == (2.5, 50.0, 97.5)


def test_calibration_error_is_the_mean_gap() -> None:
    quality = np.repeat([0.2, 0.8], 500)
    score = np.concatenate([np.tile([1, 0, 0, 0, 0], 100), np.tile([1, 0], 250)]).astype(float)

    assert expected_calibration_error(quality, score, bins=2) == pytest.approx(0.15)
    np.testing.assert_allclose(reliability(quality, score, bins=2), [(0.2, 0.2, 500), (0.8, 0.5, 500)])


def test_what_is_unlabelled_counts_nowhere() -> None:
    quality, score = np.array([0.5, 0.9]), np.array([1.0, NAN])

    assert brier(quality, score) == 0.25
    assert expected_calibration_error(quality, score) == 0.5


def test_a_log_loss_counts_partial_scores_in_part() -> None:
    found = log_loss(np.array([0.5, 0.8, 0.9]), np.array([1.0, 0.25, NAN]))

    assert found == pytest.approx(-(np.log(0.5) + 0.25 * np.log(0.8) + 0.75 * np.log(0.2)) / 2)


def test_like_prompts_fall_into_one_group() -> None:
    embedding = np.repeat(np.eye(2), 30, axis=0)

    group = like_prompts(embedding, 25)

    assert len(set(group[:30])) == len(set(group[30:])) == 1
    assert group[0] != group[-1]


def test_rates_within_their_interval_are_covered_nine_times_in_ten() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(9_000) // 30
    rate = np.clip(0.5 + rng.normal(scale=0.1, size=(300, 1))[group], 0, 1)
    score = (rng.random((9_000, 1)) < rate).astype(float)
    low, high = 0.5 - 1.645 * 0.1, 0.5 + 1.645 * 0.1

    honest = rate_coverage(np.tile([low, high], (9_000, 1, 1)), score, group)
    narrow = rate_coverage(np.tile([0.5, 0.5], (9_000, 1, 1)), score, group)

    assert honest == pytest.approx(0.9, abs=0.04)
    assert narrow < 0.85
