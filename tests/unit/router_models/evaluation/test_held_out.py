"""Settings chosen on one half and measured on the other, where both halves are known."""

from __future__ import annotations

import numpy as np
import pytest

from router_models.evaluation.frontier import LINEAR, LOG, SETTINGS, Curve
from router_models.evaluation.held_out import (
    BEST,
    MINUS_1,
    MINUS_2,
    Promise,
    cheapest_setting,
    cost_at_quality,
    halves,
    keep_promise,
    pooled_promise,
)
from router_models.operating.rows import CostScale, PricedRows

SCALE = CostScale(worst_usd=0.1, best_usd=1e-7)


def test_the_cheapest_setting_that_reaches_the_target_is_taken() -> None:
    quality, cost = np.array([0.9, 0.8, 0.7]), np.array([3.0, 2.0, 1.0])

    assert cheapest_setting(quality, cost, 0.75) == (1, True)
    assert cheapest_setting(quality, cost, 0.70) == (2, True)
    assert cheapest_setting(quality, cost, 0.95) == (0, False)


def test_halves_divide_every_set_alike_and_differ_from_one_repetition_to_the_next() -> None:
    found = list(halves([10, 30], 5))

    assert [(half[:10].sum(), half[10:].sum()) for half in found] == [(5, 15)] * 5
    assert len({half.tobytes() for half in found}) == 5


def curve(by_setting: dict[tuple[str, float], tuple[float, float]], otherwise: tuple[float, float]) -> Curve:
    """The same (quality, cost) on 20 prompts, for each setting."""
    values = np.array([by_setting.get(setting, otherwise) for setting in SETTINGS])
    return Curve(np.tile(values[:, :1], (1, 20)), np.tile(values[:, 1:], (1, 20)))


def test_cost_at_a_quality_is_a_multiple_of_the_best_single_models_cost() -> None:
    linear, log = (next(s for s in SETTINGS if s[0] == form and s[1] > 0) for form in (LINEAR, LOG))
    router = curve({SETTINGS[0]: (0.80, 3.0), linear: (0.80, 1.0), log: (0.786, 0.25)}, otherwise=(0.1, 0.01))
    best = Curve(np.full((1, 20), 0.80), np.full((1, 20), 2.0))

    union, on_log = (cost_at_quality(router, best, [20], form) for form in ("union", LOG))

    assert union[BEST]["cost_ratio"] == pytest.approx([0.5] * 3)
    assert union[MINUS_1]["cost_ratio"] == pytest.approx([0.5] * 3)
    assert union[MINUS_2]["cost_ratio"] == pytest.approx([0.125] * 3)
    assert union[MINUS_2]["quality_minus_best_single"] == pytest.approx([-0.014] * 3)
    assert union[BEST]["reached"] == 1.0
    # Without the linear form only the setting without a weight is as good.
    assert on_log[BEST]["cost_ratio"] == pytest.approx([1.5] * 3)


def test_where_no_setting_is_good_enough_the_best_one_is_measured() -> None:
    router = curve({SETTINGS[0]: (0.7, 3.0)}, otherwise=(0.1, 0.01))
    best = Curve(np.full((1, 20), 0.80), np.full((1, 20), 2.0))

    found = cost_at_quality(router, best, [20])[BEST]

    assert found["reached"] == 0.0
    assert found["cost_ratio"] == pytest.approx([1.5] * 3)


def priced(quality: np.ndarray, score: np.ndarray) -> PricedRows:
    usd = np.tile([1e-2, 1e-4], (len(score), 1))
    return PricedRows(quality, score, usd, usd)


def test_a_promise_is_kept_where_the_cheap_model_is_as_good_as_said() -> None:
    score = np.ones((800, 2))
    rows = priced(np.full((800, 2), 0.9), score)

    found = keep_promise([rows], np.zeros(800, dtype=int), SCALE).figures()

    assert (found["kept"], found["weight_found"]) == (1.0, 1.0)
    assert found["cost_ratio"] == pytest.approx([0.01] * 3)


def test_without_a_safe_weight_the_best_single_model_answers_and_nothing_is_lost() -> None:
    score = np.tile([1.0, 0.0], (800, 1))
    rows = priced(np.tile([0.2, 0.9], (800, 1)), score)

    found = keep_promise([rows], np.zeros(800, dtype=int), SCALE).figures()

    assert (found["kept"], found["weight_found"]) == (1.0, 0.0)
    assert found["loss"] == [0, 0, 0]
    assert found["cost_ratio"] == [1, 1, 1]


def test_one_prompt_has_no_other_half_to_keep_or_break_a_promise_on() -> None:
    alone = keep_promise([priced(np.full((1, 2), 0.9), np.ones((1, 2)))], np.zeros(1, dtype=int), SCALE)

    figures = alone.figures()

    assert (figures["repetitions"], figures["kept"], figures["weight_found"]) == (0, None, None)
    assert (figures["loss"], figures["cost_ratio"]) == (None, None)


def test_a_set_without_repetitions_does_not_spoil_what_is_pooled() -> None:
    nothing = Promise(np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool), 1)
    kept = Promise(np.array([0.0, 0.02]), np.array([0.5, 0.5]), np.array([True, True]), 300)

    assert pooled_promise([nothing, kept]).figures() == kept.figures()
    assert pooled_promise([nothing, nothing]).figures()["kept"] is None


def test_a_pooled_promise_averages_over_all_prompts() -> None:
    kept = Promise(np.array([0.0, 0.0]), np.array([1.0, 1.0]), np.array([False, False]), 300)
    broken = Promise(np.array([0.03, 0.06]), np.array([0.5, 0.5]), np.array([True, False]), 100)

    found = pooled_promise([kept, broken])

    np.testing.assert_allclose(found.loss, [0.0075, 0.015])
    np.testing.assert_allclose(found.cost_ratio, [0.875, 0.875])
    assert found.figures()["kept"] == 0.5
    assert found.figures()["weight_found"] == 0.5
