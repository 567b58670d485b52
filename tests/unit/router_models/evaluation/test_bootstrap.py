"""Intervals: of means, and of ratios of means whose parts vary together."""

from __future__ import annotations

import numpy as np
import pytest

from router_models.evaluation.bootstrap import NOTHING, Against, Draws, ratio

NAN = np.nan


def prices(prompts: int, seed: int = 0) -> np.ndarray:
    """Costs that differ a lot from prompt to prompt [B]."""
    return np.random.default_rng(seed).lognormal(sigma=1.0, size=prompts)


def test_what_is_divided_by_itself_is_one_without_doubt() -> None:
    unit_B = prices(300)

    assert ratio([Against(Draws.of(300), unit_B[None], unit_B)]) == pytest.approx((1, 1, 1), abs=1e-6)


def test_a_ratio_of_costs_that_rise_together_is_as_sure_as_their_shares() -> None:
    """Half the price on every prompt but for a tenth more or less."""
    unit_B, draws = prices(300), Draws.of(300)
    value_SB = unit_B[None] * np.random.default_rng(1).uniform(0.4, 0.6, (1, 300))

    low, mid, high = ratio([Against(draws, value_SB, unit_B)])

    assert mid == pytest.approx(value_SB.mean() / unit_B.mean())
    assert low < mid < high
    mean = draws.mean(value_SB / unit_B.mean())
    assert high - low < 0.25 * (mean.high - mean.low)


def test_an_interval_of_a_ratio_is_as_wide_as_the_ratio_varies_from_sample_to_sample() -> None:
    rng = np.random.default_rng(2)
    samples = [(rng.exponential(2.0, 200), rng.exponential(1.0, 200)) for _ in range(400)]

    spread = np.quantile([value.mean() / unit.mean() for value, unit in samples], (0.025, 0.975))
    widths = [ratio([Against(Draws.of(200, place), v[None], u)]) for place, (v, u) in enumerate(samples[:20])]

    assert np.mean([each.high - each.low for each in widths]) == pytest.approx(np.ptp(spread), rel=0.15)


def test_several_sets_are_averaged_by_their_prompts_each_against_its_own_unit() -> None:
    cheap_B, dear_B = prices(300), 1_000 * prices(100, seed=1)

    found = ratio(
        [
            Against(Draws.of(300, 0), 0.5 * cheap_B[None], cheap_B),
            Against(Draws.of(100, 1), 2.0 * dear_B[None], dear_B),
        ]
    )

    assert found == pytest.approx((0.875, 0.875, 0.875), abs=1e-6)


def test_prompts_and_sets_of_unknown_cost_are_left_out() -> None:
    unit_B = prices(100)
    value_SB = np.where(np.arange(100) < 50, 3.0 * unit_B, NAN)[None]
    silent = Against(Draws.of(100, 1), np.full((1, 100), NAN), np.full(100, NAN))

    found = ratio([Against(Draws.of(100), value_SB, unit_B), silent])

    assert found.mid == pytest.approx(3)
    assert ratio([silent]) == NOTHING


def test_seeds_are_resampled_too() -> None:
    unit_B = prices(100)

    low, mid, high = ratio([Against(Draws.of(100), np.stack([unit_B, 3 * unit_B]), unit_B)])

    assert (low, mid, high) == pytest.approx((1, 2, 3), abs=1e-6)
