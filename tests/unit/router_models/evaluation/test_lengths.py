"""Errors of lengths, on answers whose lengths are known."""

from __future__ import annotations

import numpy as np
import pytest

from router_models.evaluation.lengths import Lengths

NAN = np.nan


def test_errors_are_ratios_to_those_of_each_models_usual_length() -> None:
    real = np.array([[10.0, 40.0], [20.0, NAN], [0.0, 80.0]])
    predicted = np.array([[20.0, 40.0], [20.0, 9.0], [9.0, 40.0]])
    interval = np.stack([predicted / 2, predicted * 2], axis=2)

    found = Lengths.of(predicted, interval, real, np.log([40.0, 40.0])).figures()

    # Off by factors 2, 1, 1 and 2; the usual length by 4, 2, 1 and 2.
    assert found["outcomes"] == 4
    assert found["log_error_of_mean"]["mae_ratio"] == pytest.approx(2 / 4)
    assert found["log_error_of_mean"]["rmse_ratio"] == pytest.approx(np.sqrt(2 / 6))
    assert found["log_error_of_middle"] == pytest.approx(found["log_error_of_mean"])
    assert found["inside_90_percent_interval"] == 1.0
    # A factor 2 to each side is narrowed to 2 ** .78.
    assert found["inside_derived_80_percent_interval"] == 0.5
    assert found["mean_predicted_over_mean_real"] == pytest.approx(120 / 150)


def test_the_middle_of_a_skewed_interval_is_judged_beside_the_mean() -> None:
    real = np.array([[10.0]])
    found = Lengths.of(np.array([[20.0]]), np.array([[[5.0, 20.0]]]), real, np.log([20.0])).figures()

    assert found["log_error_of_mean"]["mae_ratio"] == pytest.approx(1.0)
    assert found["log_error_of_middle"]["mae_ratio"] == pytest.approx(0.0)


def test_without_lengths_nothing_is_said() -> None:
    nothing = np.full((3, 2), NAN)
    found = Lengths.of(np.ones((3, 2)), np.ones((3, 2, 2)), nothing, np.array([NAN, NAN]))

    assert found.figures() == {"outcomes": 0}


def test_without_training_lengths_there_is_nothing_to_compare_with() -> None:
    found = Lengths.of(np.full((1, 1), 9.0), np.array([[[1.0, 20.0]]]), np.full((1, 1), 5.0), np.array([NAN]))

    assert found.figures()["log_error_of_mean"] == {"rmse_ratio": None, "mae_ratio": None}
    assert found.figures()["inside_90_percent_interval"] == 1.0


def test_the_outcomes_of_several_sets_are_counted_together() -> None:
    one = Lengths.of(np.full((2, 1), 9.0), np.ones((2, 1, 2)), np.full((2, 1), 5.0), np.array([1.0]))

    assert Lengths.joined([one, one, one]).figures()["outcomes"] == 6
