"""The operating curve: what a weight on cost does, and which weight keeps a promise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_models.operating_curve import (
    LEAST_ROWS,
    CostScale,
    PricedRows,
    largest_weight,
    operating_curve,
    priced_rows,
)
from tests.fakes.artifacts import tiny_artifact

SCALE = CostScale(worst_usd=1e-2, best_usd=1e-6)
CHEAP, DEAR = 1e-5, 1e-3


def pool(rows: int = 400, easy_share: float = 0.5, seed: int = 0) -> PricedRows:
    """A cheap model that knows the easy half and a dear one that knows all; predictions know which half it is."""
    rng = np.random.default_rng(seed)
    easy = rng.random(rows) < easy_share
    quality = np.stack([np.where(easy, 0.9, 0.1), np.full(rows, 0.92)], axis=1)
    score = (rng.random((rows, 2)) < quality).astype(float)
    cost = np.tile([CHEAP, DEAR], (rows, 1))
    return PricedRows(quality, score, cost, cost)


def test_a_scale_is_logarithmic_between_its_ends_and_flat_outside() -> None:
    share = SCALE.share(np.array([1e-9, 1e-6, 1e-4, 1e-2, 1.0, np.nan, 0.0]))

    np.testing.assert_allclose(share, [0, 0, 0.5, 1, 1, 1, 0])


def test_more_weight_on_cost_never_costs_more_on_average() -> None:
    costs = [point.cost_usd for point in operating_curve(pool(), SCALE)]

    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(costs))
    assert costs[-1] == pytest.approx(CHEAP)


def test_a_promise_is_kept_and_saves_money_where_the_cheap_model_is_as_good() -> None:
    points = operating_curve(pool(), SCALE)

    weight = largest_weight(points, 0.1)

    assert weight is not None
    kept = next(point for point in points if point.weight == weight)
    assert kept.loss_bound <= 0.1
    assert kept.cost_usd < 0.6 * DEAR


def test_a_stricter_promise_never_gets_a_larger_weight() -> None:
    points = operating_curve(pool(), SCALE)
    weights = [largest_weight(points, loss) or -1.0 for loss in (0.0, 0.02, 0.05, 0.1, 0.5, 1.0)]

    assert weights == sorted(weights)
    assert weights[-1] == points[-1].weight


def test_predictions_that_lose_from_the_start_keep_no_promise() -> None:
    rows = pool()
    misled = PricedRows(1 - rows.quality, rows.score, rows.expected_usd, rows.real_usd)

    assert largest_weight(operating_curve(misled, SCALE), 0.01) is None


def test_too_few_rows_promise_nothing() -> None:
    points = operating_curve(pool(rows=LEAST_ROWS - 1), SCALE)

    assert points[0].loss_bound == np.inf
    assert largest_weight(points, 1.0) is None


def test_a_model_without_an_outcome_is_no_candidate() -> None:
    rows = pool()
    score = rows.score.copy()
    score[:, 0] = np.nan

    points = operating_curve(PricedRows(rows.quality, score, rows.expected_usd, rows.real_usd), SCALE)

    assert all(point.cost_usd == pytest.approx(DEAR) for point in points)
    assert {point.loss for point in points} == {0.0}


def test_rows_without_any_outcome_make_no_curve() -> None:
    rows = pool(rows=3)

    assert operating_curve(PricedRows(rows.quality, rows.score * np.nan, rows.expected_usd, rows.real_usd), SCALE) == ()


def test_prices_turn_calibration_rows_into_dollars() -> None:
    rows = priced_rows(tiny_artifact(("a", "b", "c")).calibration, [2, 0], [1.0, 10.0], [2.0, 20.0])

    assert rows.score.shape == (12, 2)
    np.testing.assert_allclose(rows.real_usd, np.tile([(40 + 2 * 25) / 1e6, (400 + 20 * 25) / 1e6], (12, 1)))
    np.testing.assert_allclose(rows.expected_usd[0, 0], (40 + 2 * 20) / 1e6, rtol=1e-5)


def test_without_any_expected_cost_no_weight_is_promised() -> None:
    rows = pool()
    unknown = PricedRows(rows.quality, rows.score, rows.expected_usd * np.nan, rows.real_usd)

    assert largest_weight(operating_curve(unknown, SCALE), 1.0) is None


def test_a_model_without_a_price_counts_as_the_dearest() -> None:
    rows = pool()
    unpriced = rows.expected_usd.copy()
    unpriced[:, 0] = np.nan

    points = operating_curve(PricedRows(rows.quality, rows.score, unpriced, rows.real_usd), SCALE)

    assert points[-1].cost_usd == pytest.approx(DEAR)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1_000), st.floats(0, 1), st.floats(0, 0.3))
def test_whatever_the_pool_a_promise_holds_on_the_rows_it_came_from(seed: int, share: float, promise: float) -> None:
    points = operating_curve(pool(rows=150, easy_share=share, seed=seed), SCALE)
    weight = largest_weight(points, promise)

    if weight is not None:
        assert all(point.loss <= promise for point in points if point.weight <= weight)
