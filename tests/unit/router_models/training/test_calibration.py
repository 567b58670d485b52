"""What the rows set aside decide: the map of the pool, and how wide an interval must be."""

from __future__ import annotations

import numpy as np
import pytest

from router_models.training.calibration import fit_interval, fit_platt
from router_models.tryage import sigmoid


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
