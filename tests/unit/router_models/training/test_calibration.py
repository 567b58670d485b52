"""What held-out rows decide: maps, standings, how wide an interval must be, when to be alarmed, how lengths spread.

Legend of array suffixes: B rows, T tasks, P pools, R rules, M models, A alarm figures, G groups.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from router_models.heads.layout import Layout
from router_models.heads.odds import logit, sigmoid
from router_models.heads.static_error import static_error
from router_models.heads.tryage import Blend
from router_models.training.calibration import (
    PRIOR_UNFAMILIAR,
    by_model,
    cross_entropy,
    fit_alarm,
    fit_interval,
    fit_platt,
    fit_platt_maps,
    gain_over_usual,
    length_spread,
    rate_errors,
    rounded,
    standings,
)
from router_models.training.rows import Library, Rows
from tests.unit.router_models.training.tiny import LIBRARY, planted

ROWS = planted().rows


def drawn(rate: np.ndarray, seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).random(rate.shape) < rate).astype(float)


def test_an_overconfident_pool_is_mapped_back() -> None:
    true_logit = np.random.default_rng(0).normal(size=(2_000, 3))

    slope, offset = fit_platt(3 * true_logit + 1, drawn(sigmoid(true_logit)))

    assert slope == pytest.approx(1 / 3, abs=0.03)
    assert offset == pytest.approx(-1 / 3, abs=0.1)


def test_missing_scores_take_no_part() -> None:
    true_logit = np.random.default_rng(0).normal(size=(2_000, 2))
    score = drawn(sigmoid(true_logit))
    thinned = np.where(np.random.default_rng(2).random(score.shape) < 0.5, np.nan, score)

    assert fit_platt(2 * true_logit, thinned)[0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("score", [np.zeros((40, 2)), np.ones((40, 2)), np.full((40, 2), np.nan)])
def test_outcomes_without_contrast_give_a_map_that_is_finite_and_rises(score: np.ndarray) -> None:
    slope, offset = fit_platt(np.random.default_rng(0).normal(size=(40, 2)), score)

    assert np.isfinite([slope, offset]).all()
    assert slope > 0


def test_perfect_predictions_need_no_width() -> None:
    rate = np.random.default_rng(0).random((3_000, 2))

    floor, slope = fit_interval(rate, np.full_like(rate, 0.01), drawn(rate), np.arange(3_000) // 30)

    assert floor + slope * 0.01 < 0.03**2


def test_groups_that_are_predicted_wrong_need_as_much_width_as_they_are_wrong() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(6_000) // 60
    error = rng.normal(scale=0.1, size=(100, 2))[group]
    quality = rng.uniform(0.3, 0.7, size=(6_000, 2))

    floor, slope = fit_interval(quality, np.full_like(quality, 0.01), drawn(quality + error), group)

    assert np.sqrt(floor + slope * 0.01) == pytest.approx(0.1, abs=0.02)


def test_disagreement_widens_where_it_goes_with_error() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(12_000) // 60
    unsure = (np.arange(200) % 2 == 0)[group][:, None] * np.ones((1, 2))
    error = rng.normal(scale=0.15, size=(200, 2))[group] * unsure
    quality = np.full((12_000, 2), 0.5)

    floor, slope = fit_interval(quality, 0.02 * unsure, drawn(quality + error), group)

    assert np.sqrt(floor + slope * 0.02) > 4 * np.sqrt(floor + 1e-9)


def test_a_lone_prompt_says_nothing_of_a_rate_and_no_group_leaves_an_interval_to_the_members() -> None:
    quality, score = np.full((3, 1), 0.5), np.array([[1.0], [0.0], [np.nan]])

    assert fit_interval(quality, quality, score, np.arange(3)) == (0.0, 1.0)


def test_what_a_rate_misses_is_counted_beyond_chance() -> None:
    """Four prompts predicted at one half, all right: missed by 0.5, of which chance explains 0.5 * 0.5 / 4 squared."""
    excess, spread, weight = rate_errors(np.full((4, 1), 0.5), np.full((4, 1), 0.2), np.ones((4, 1)), np.zeros(4))

    np.testing.assert_allclose((excess, spread, weight), [[0.25 - 0.0625], [0.2], [4.0]])


def blend_of(logit_BR: np.ndarray, log_tokens_BR: np.ndarray | None = None) -> Blend:
    """One member, and nothing else that matters here."""
    lengths_BR = np.zeros_like(logit_BR) if log_tokens_BR is None else log_tokens_BR
    rows = len(logit_BR)
    return Blend(
        task_BT=np.ones((rows, 1)),
        logit_SBR=logit_BR[None],
        own_BP=np.zeros((rows, 2)),
        log_tokens_BR=lengths_BR,
        alarm_BA=np.zeros((rows, 4)),
    )


def test_every_pool_gets_the_map_that_it_needs() -> None:
    """The first pool's logits are twice too large, those of the second as they should be."""
    learned = planted(400)
    factor_R = np.array([2.0, 2.0, 1.0, 1.0])

    slope_P, offset_P = fit_platt_maps(blend_of(logit(learned.rate_BR) * factor_R), learned.rows, LIBRARY)

    np.testing.assert_allclose(slope_P, [0.5, 1], atol=0.1)
    np.testing.assert_allclose(offset_P, 0, atol=0.1)


def test_a_loss_over_no_outcomes_is_nothing() -> None:
    assert cross_entropy(np.zeros((2, 2)), np.full((2, 2), np.nan)) == 0
    assert cross_entropy(np.zeros((1, 2)), np.array([[1.0, np.nan]])) == pytest.approx(np.log(2))


def scored(pool: list[int], score_BR: list[list[float]]) -> Rows:
    """One task per pool, in a library like the planted one but with two tasks."""
    blank = np.full((len(pool), 4), np.nan)
    numbers = np.array(pool)
    whole = np.arange(len(pool))
    return Rows(numbers, numbers, whole, whole * 0 + 1.0, whole < 0, np.array(score_BR), blank, blank)


TWO_TASKS: Library = replace(LIBRARY, tasks=("first/x", "second/x"), pool_T=np.array([0, 1]))


def standings_of(library: Library, rows: Rows, complete_TM: np.ndarray) -> np.ndarray:
    table_TR = np.zeros((len(library.tasks), len(library.pool_R)), np.float32)
    tensors = {
        "table.quality_TR": table_TR,
        "table.log_tokens_TR": table_TR,
        "complete.logit_TM": complete_TM,
        **library.tensors(),
    }
    return standings(rows, library, Layout(tensors, len(library.models)), complete_TM)


def test_models_of_one_pool_stand_in_the_order_of_their_mean_scores() -> None:
    one_pool = replace(
        LIBRARY,
        tasks=("first/x", "first/y"),
        pools=("first",),
        pool_T=np.array([0, 0]),
        pool_R=np.array([0, 0, 0]),
        model_R=np.array([2, 0, 1]),
    )
    rows = replace(ROWS, score=drawn(np.tile([0.2, 0.9, 0.5], (len(ROWS), 1))), pool=ROWS.pool * 0, task=ROWS.task % 2)

    standing_M = standings_of(one_pool, rows, np.zeros((2, 3), np.float32))

    mean_R = rows.score.mean(0)
    assert (np.argsort(standing_M) == [2, 1, 0]).all()
    np.testing.assert_allclose(standing_M[[2, 0, 1]], logit(mean_R) - logit(mean_R).mean(), rtol=1e-4)


def test_a_missing_score_does_not_lower_a_standing() -> None:
    rows = scored([0, 0, 1, 1], [[1, 0, np.nan, np.nan], [np.nan, 1, np.nan, np.nan]] + [[np.nan] * 2 + [1, 0]] * 2)

    standing_M = standings_of(TWO_TASKS, rows, np.zeros((2, 3), np.float32))

    assert standing_M[0] > standing_M[1]


def test_whoever_was_asked_the_easy_prompts_only_stands_no_higher_for_it() -> None:
    """The first model is the better one on the prompts that both answered; the second was not asked the hard ones."""
    easy, hard = [[1, 1, np.nan, np.nan], [1, 0, np.nan, np.nan]], [[0, np.nan, np.nan, np.nan]] * 4
    rows = scored([0] * 6 + [1, 1], [*easy, *hard, *[[np.nan] * 2 + [1, 0]] * 2])

    standing_M = standings_of(TWO_TASKS, rows, np.zeros((2, 3), np.float32))

    assert np.nanmean(rows.score[:6, 1]) > np.nanmean(rows.score[:6, 0])
    assert standing_M[1] < standing_M[0]


def test_a_standing_is_a_models_lead_in_the_pools_that_measured_it_over_measured_and_completed_scores() -> None:
    rows = scored(
        [0] * 4 + [1] * 4,
        [[r < 3, r < 2, np.nan, np.nan] for r in range(4)] + [[np.nan] * 2 + [r < 1, r < 2] for r in range(4)],
    )
    complete_TM = logit(np.array([[0.1, 0.1, 0.5], [0.75, 0.1, 0.1]], np.float32))

    standing_M = standings_of(TWO_TASKS, rows, complete_TM)

    first_M, second_M = (logit(np.array(usual)) for usual in ([0.75, 0.5, 0.5], [0.75, 0.25, 0.5]))
    gaps_PM = np.array([first_M - first_M.mean(), second_M - second_M.mean()])
    np.testing.assert_allclose(standing_M, [gaps_PM[0, 0], gaps_PM[:, 1].mean(), gaps_PM[1, 2]], atol=1e-4)


def test_numbers_by_model_are_those_of_the_rows_own_pool() -> None:
    value_BM = by_model(ROWS, LIBRARY, ROWS.score)

    np.testing.assert_array_equal(value_BM[ROWS.pool == 0], np.insert(ROWS.score[ROWS.pool == 0][:, :2], 2, np.nan, 1))
    np.testing.assert_array_equal(value_BM[ROWS.pool == 1], np.insert(ROWS.score[ROWS.pool == 1][:, 2:], 0, np.nan, 1))


def alarm_of(weight_A: np.ndarray, figures_BA: np.ndarray) -> np.ndarray:
    return sigmoid(figures_BA @ weight_A[1:] + weight_A[0])


def figures(rows: int, distance: float, seed: int) -> np.ndarray:
    """Four figures of large and small scales, of which the last tells the kinds apart."""
    scale_A, mean_A = np.array([0.01, 100, 1, 0.05]), np.array([0, 1_000, 0, 0.3 + distance])
    return np.asarray(np.random.default_rng(seed).normal(size=(rows, 4)) * scale_A + mean_A)


def test_an_alarm_learns_what_tells_unfamiliar_prompts_from_others() -> None:
    weight_A = fit_alarm(figures(500, 0.0, 1), figures(200, 0.3, 2))

    familiar_B, unfamiliar_B = alarm_of(weight_A, figures(500, 0.0, 3)), alarm_of(weight_A, figures(500, 0.3, 4))

    assert weight_A.dtype == np.float32
    assert np.quantile(familiar_B, 0.95) < 0.2
    assert np.quantile(unfamiliar_B, 0.05) > 0.5


def test_an_alarm_takes_few_prompts_for_unfamiliar_however_many_it_was_shown() -> None:
    """Figures that say nothing leave the prior, and twice as many of one kind change nothing."""
    familiar_BA, unfamiliar_BA = figures(2_000, 0.0, 1), figures(500, 0.0, 2)

    weight_A = fit_alarm(familiar_BA, unfamiliar_BA)

    assert alarm_of(weight_A, familiar_BA).mean() == pytest.approx(PRIOR_UNFAMILIAR, abs=0.02)
    again_A = fit_alarm(familiar_BA, np.tile(unfamiliar_BA, (9, 1)))
    assert alarm_of(again_A, familiar_BA).mean() == pytest.approx(PRIOR_UNFAMILIAR, abs=0.02)


def test_without_unfamiliar_rows_an_alarm_never_fires() -> None:
    weight_A = fit_alarm(figures(50, 0.0, 1), np.zeros((0, 0)))

    assert alarm_of(weight_A, figures(50, 1e6, 2)).max() < 1e-4


# Whose usual best model is c.
STANDING_M = np.array([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("quality_M", "score_M", "gain"),
    [
        ((0.9, 0.2, 0.5), (1.0, 0.0, 0.25), 0.75),
        ((0.9, 0.2, 0.5), (0.0, 0.0, 0.25), -0.25),
        ((0.51, 0.2, 0.5), (1.0, 0.0, 0.25), 0.75),
        ((0.4, 0.2, 0.5), (1.0, 0.0, 0.25), 0.0),
        ((0.9, 0.6, 0.5), (np.nan, 1.0, 0.25), 0.75),
        # Model c was not asked: b is the usual best of those that were.
        ((0.9, 0.6, 0.5), (1.0, 0.25, np.nan), 0.75),
        ((0.5, 0.6, 0.9), (1.0, 0.25, np.nan), 0.0),
        ((0.9, 0.6, 0.5), (1.0, np.nan, np.nan), 0.0),
    ],
)
def test_a_choice_gains_on_the_usual_best_model_of_those_that_were_measured(
    quality_M: tuple[float, ...], score_M: tuple[float, ...], gain: float
) -> None:
    quality_BM, score_BM = np.array([quality_M]), np.array([score_M])

    calm_B, flagged_B = (
        gain_over_usual(quality_BM, STANDING_M, score_BM, np.array([flagged])) for flagged in (False, True)
    )

    np.testing.assert_allclose(calm_B, [gain])
    assert flagged_B.tolist() == [0.0], "a flagged prompt goes to the usual best model"


def test_gains_are_counted_row_by_row() -> None:
    quality_BM, score_BM = np.array([[0.9, 0.1, 0.5]] * 3), np.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.5], [1.0, 0, 0]])

    gain_B = gain_over_usual(quality_BM, STANDING_M, score_BM, np.array([False, False, True]))

    assert gain_B.tolist() == [0.5, -0.5, 0.0]


def test_a_length_spreads_as_real_answers_did() -> None:
    """Of model b two rules speak; rule 3 is unknown, so nothing is of model c."""
    rng = np.random.default_rng(0)
    log_BR = np.full(ROWS.score.shape, np.log(50.0))
    real_BR = np.exp(log_BR + rng.normal(scale=0.4, size=log_BR.shape))
    known = replace(ROWS, output_tokens=np.where(np.isfinite(ROWS.score), real_BR, np.nan))

    spread_M3 = length_spread(blend_of(log_BR, log_BR), known, LIBRARY, np.array([1, 1, 1, 0], np.uint8))

    for model, own_R in ((0, [0]), (1, [1, 2])):
        real = known.output_tokens[:, own_R][np.isfinite(known.output_tokens[:, own_R])]
        mean, low, high = 50 * np.exp(spread_M3[model])
        assert mean == pytest.approx(real.mean(), rel=1e-3)
        assert np.mean((real >= low) & (real <= high)) == pytest.approx(0.9, abs=0.02)
    assert spread_M3[2].tolist() == [0, 0, 0]


def test_the_error_of_the_static_encoder_is_what_the_transformer_changes_between_its_two_favourites() -> None:
    """0.1 and 0.3 in the first two rows; the third has one measured model only."""
    static_BM = np.array([[0.9, 0.8, 0.1], [0.5, 0.9, 0.6], [0.9, 0.8, 0.1]])
    full_BM = np.array([[0.8, 0.8, 0.9], [0.9, 0.8, 0.8], [0.1, 0.9, 0.9]])
    score_BM = np.array([[1.0, 0.0, 1.0], [np.nan, 0.0, 1.0], [1.0, np.nan, np.nan]])

    assert static_error(static_BM, full_BM, score_BM) == pytest.approx(np.sqrt((0.1**2 + 0.3**2) / 2))


def test_without_two_measured_models_there_is_no_such_error() -> None:
    assert static_error(np.zeros((2, 2)), np.ones((2, 2)), np.array([[1.0, np.nan]] * 2)) == 0


def test_figures_are_rounded_for_the_card_and_what_was_not_measured_is_none() -> None:
    assert rounded({"loss": 0.123456789, "gain": np.nan}) == {"loss": 0.12346, "gain": None}


def test_of_one_model_there_is_no_difference_to_change() -> None:
    assert static_error(np.zeros((3, 1)), np.ones((3, 1)), np.ones((3, 1))) == 0
