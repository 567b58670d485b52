"""Where ways to choose are in one picture: by difference from the best single model, on the rows both were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.assembly.router_model import CalibrationCurve
from app.domain.vocabulary import VOCABULARY
from app.savings.curve import savings_curve
from app.savings.expectation import Prospect
from app.settings import load_settings
from router_models.operating.curve import WEIGHTS
from router_models.storage.calibration import Calibration
from tests.fakes.deployment import write_config

NOT = np.nan
MODELS = ("small", "large", "huge")
# USD per token, read and written, as `write_config` prices them by size.
PRICES = {"small": (0.8e-6, 1.6e-6), "large": (7e-6, 14e-6), "huge": (70e-6, 140e-6)}


def prospect(folder: Path, scores: list[list[float]], **profiles: dict[str, Any]) -> Prospect:
    """Every row of `scores`, a score per model, 120 times; each is a dataset. Predictions are what comes."""
    score = np.repeat(np.array(scores), 120, axis=0)
    flat = np.full_like(score, 100.0)
    dataset = np.repeat(np.arange(len(scores)), 120).astype(np.int32)
    datasets = tuple(f"set {number}" for number in range(len(scores)))
    quality = np.nan_to_num(score)
    rows = Calibration(quality, score, flat, flat, flat, dataset, datasets, np.ones((len(score), 1)))
    path = write_config(folder, dict.fromkeys(MODELS, "http://127.0.0.1:1"), predicted=True, profiles=profiles)
    return Prospect(load_settings(path), CalibrationCurve(MODELS, rows, VOCABULARY.dimension["cost"].scale))


def cost_usd(name: str) -> float:
    return 100 * sum(PRICES[name])


def test_where_all_were_measured_places_are_means(tmp_path: Path) -> None:
    found = savings_curve(prospect(tmp_path, [[0.2, 0.8, 0.7], [0.9, 0.6, 0.6]], default={}))
    assert found is not None
    places = {place.name: (place.quality.mean, place.cost_usd.mean) for place in found.models}
    assert places["small"] == pytest.approx((0.55, cost_usd("small")))
    assert places["large"] == pytest.approx((0.7, cost_usd("large")))
    assert places["huge"] == pytest.approx((0.65, cost_usd("huge")))
    assert [place.name for place in found.weights] == [f"weight {weight:g}" for weight in WEIGHTS]
    ends = [(place.quality.mean, place.cost_usd.mean) for place in (found.weights[0], found.weights[-1])]
    both = (cost_usd("small") + cost_usd("large")) / 2
    assert ends == [pytest.approx((0.85, both)), pytest.approx((0.55, cost_usd("small")))]
    assert found.measured == {"set 0": (120, 3), "set 1": (120, 3)}


def test_a_model_that_was_measured_on_easy_prompts_only_is_not_placed_above_better_ones(tmp_path: Path) -> None:
    found = savings_curve(prospect(tmp_path, [[0.8, 0.9, NOT], [NOT, 0.3, 0.2]], default={}))
    assert found is not None
    quality = {place.name: place.quality.mean for place in found.models}
    assert quality == pytest.approx({"small": 0.5, "large": 0.6, "huge": 0.5})


def test_profiles_that_choose_alike_are_one_place_and_one_with_a_single_model_has_none(tmp_path: Path) -> None:
    profiles: dict[str, dict[str, Any]] = {
        "default": {},
        "same": {"weights": {"latency": 0.1}},
        "cheap": {"weights": {"cost": 20}},
        "alone": {"limits": {"max_size_b": 10}},
    }
    found = savings_curve(prospect(tmp_path, [[0.2, 0.8, 0.7], [0.9, 0.6, 0.6]], **profiles))
    assert found is not None
    assert [place.name for place in found.profiles] == ["default, same", "cheap"]
    assert found.profiles[0].quality == found.weights[0].quality


def test_a_profile_with_limits_is_placed_among_all_models(tmp_path: Path) -> None:
    limits = {"limits": {"max_size_b": 100}}
    found = savings_curve(prospect(tmp_path, [[0.2, 0.8, 0.9], [0.3, 0.6, 0.9]], default=limits))
    assert found is not None
    (place,) = found.profiles
    assert (place.quality.mean, place.cost_usd.mean) == pytest.approx((0.7, cost_usd("large")))


def test_where_nothing_is_compared_there_is_no_curve(tmp_path: Path) -> None:
    assert savings_curve(prospect(tmp_path, [[0.2, NOT, NOT], [NOT, 0.6, NOT]])) is None
