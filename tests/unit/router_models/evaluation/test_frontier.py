"""Hulls and areas on points few enough to work out by hand, and what a hull is on any points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.evaluation.frontier import LINEAR, LOG, SETTINGS, Curve, curve_of, hulls, sweep, together

# (3, .5) lies below the line from (2, .6) to (4, .8), (5, .7) buys nothing.
COST, QUALITY = np.array([[4.0, 2, 1, 3, 5]]), np.array([[0.8, 0.6, 0.2, 0.5, 0.7]])


def test_a_hull_leaves_out_what_a_coin_toss_beats_and_never_falls() -> None:
    found = hulls(COST, QUALITY)

    np.testing.assert_allclose(found.cost[0, :3], [1, 2, 4])
    np.testing.assert_allclose(found.quality[0, :3], [0.2, 0.6, 0.8])
    np.testing.assert_allclose(found.at(np.array([1.5])), [0.4])
    np.testing.assert_allclose(found.at(np.array([9.0])), [0.8])


def test_the_area_is_the_mean_quality_over_the_costs() -> None:
    found = hulls(COST, QUALITY)

    # (.2 + .6) / 2 over [1, 2], (.6 + .8) / 2 over [2, 4].
    np.testing.assert_allclose(found.area(1, 4), [(0.4 + 1.4) / 3])
    # Held flat at both ends.
    np.testing.assert_allclose(found.area(0.5, 5), [(0.1 + 0.4 + 1.4 + 0.8) / 4.5])
    np.testing.assert_allclose(found.area(2, 3), [0.65])


def test_on_logarithmic_cost_every_ratio_counts_alike() -> None:
    found = hulls(COST, QUALITY)

    # -.2 + .4 c over [1, 2] and .4 + .1 c over [2, 4], integrated over d log c.
    area = (-0.2 * math.log(2) + 0.4) + (0.4 * math.log(2) + 0.2)
    np.testing.assert_allclose(found.area(1, 4, logarithmic=True), [area / math.log(4)])


def test_many_clouds_are_hulled_at_once() -> None:
    rng = np.random.default_rng(0)
    cost, quality = rng.random((20, 9)) + 0.1, rng.random((20, 9))

    together_ = hulls(cost, quality).area(0.2, 1.0)

    alone = [hulls(cost[row : row + 1], quality[row : row + 1]).area(0.2, 1.0)[0] for row in range(20)]
    np.testing.assert_allclose(together_, alone)


points = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=12)


@given(points)
def test_a_hull_lies_above_all_points_rises_and_bends_down(cloud: list[tuple[int, int]]) -> None:
    cost, quality = (np.array(side, dtype=float)[None] for side in zip(*cloud, strict=True))

    found = hulls(cost, quality)

    reached = np.array([found.at(np.array([at]))[0] for at in cost[0]])
    assert (reached >= quality[0] - 1e-9).all()
    assert {*zip(found.cost[0], found.quality[0], strict=True)} <= {*zip(cost[0], quality[0], strict=True)}
    wide = np.diff(found.cost[0]) > 0
    slopes = np.diff(found.quality[0])[wide] / np.diff(found.cost[0])[wide]
    assert (slopes > 0).all()
    assert (np.diff(slopes) <= 1e-9).all()


def test_a_weight_trades_quality_for_cost_in_both_forms() -> None:
    value, available = np.array([[0.9, 0.6]]), np.array([[True, True]])
    penalties = {LINEAR: np.array([[10.0, 1.0]]), LOG: np.array([[0.8, 0.2]])}

    column = sweep(value, penalties, available)

    # .3 of quality against 9 units, or against .6 of the scale.
    expected = [weight > (0.3 / 9 if form == LINEAR else 0.3 / 0.6) for form, weight in SETTINGS]
    assert column[:, 0].tolist() == [int(cheap) for cheap in expected]


def test_a_model_of_unknown_cost_loses_to_any_weight() -> None:
    unknown = np.array([[np.nan, 1.0]])

    column = sweep(np.array([[0.9, 0.1]]), {LINEAR: unknown, LOG: unknown}, np.array([[True, True]]))

    assert column[0, 0] == 0
    assert column[1:, 0].all()


def test_a_curve_holds_what_each_choice_gave() -> None:
    score, cost = np.array([[1.0, 0.0], [0.5, 0.25]]), np.array([[3.0, 1.0], [2.0, 4.0]])

    curve = curve_of(np.array([[0, 0], [1, 0]]), score, cost)

    np.testing.assert_array_equal(curve.quality, [[1, 0.5], [0, 0.5]])
    np.testing.assert_array_equal(curve.cost, [[3, 2], [1, 2]])


def test_two_seeds_are_one_policy_that_tosses_a_coin() -> None:
    one, other = Curve(np.array([[1.0]]), np.array([[2.0]])), Curve(np.array([[0.5]]), np.array([[4.0]]))

    assert together([one, other]).quality[0, 0] == pytest.approx(0.75)
    assert together([one, other]).cost[0, 0] == pytest.approx(3.0)
