"""What a catalogue is expected to save and to lose: from which rows, among which models, and in which words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.vocabulary import VOCABULARY
from app.expectation import Expectation, expectations, unused
from app.router_model import CalibrationCurve
from app.settings import load_settings
from router_models.artifact import Calibration
from router_models.operating_curve import Interval
from tests.fakes.deployment import write_config

# Of 8, 70 and 700 billion parameters, each ten times as dear as the one before, near enough.
MODELS = ("small", "large", "huge")
ROWS = 1000
SAVING = Expectation(
    prompts=3286,
    datasets=("llmrouter_nim9", "mmlu_pro"),
    best_model="qwen3-32b",
    references=("qwen3-32b",),
    max_quality_loss=0.01,
    cost_weight=0.3,
    best_quality=0.61,
    best_cost_usd=0.001,
    quality=0.608,
    cost_usd=0.00059,
    gain=Interval(-0.002, -0.009, 0.005),
    cost_ratio=Interval(0.59, 0.56, 0.62),
    chosen=("qwen3-8b", "qwen3-32b"),
    never_chosen=("llama-3.1-8b",),
    left_out=(),
)


def curve(right: dict[str, float]) -> CalibrationCurve:
    """The share of easy and hard prompts, half of each, on which a model is right; predictions know which is which."""
    rng = np.random.default_rng(5)
    easy = (np.arange(ROWS) % 2 == 0)[:, None]
    quality = np.where(easy, 0.95, np.array(list(right.values())))
    flat = np.full_like(quality, 100.0)
    score = (rng.random(quality.shape) < quality).astype(float)
    rows = Calibration(
        quality, score, flat, flat, flat, np.zeros(ROWS, np.int32), ("made up", "empty"), np.ones((ROWS, 1))
    )
    return CalibrationCurve(tuple(right), rows, VOCABULARY.dimension["cost"].scale)


def expected(folder: Path, profile: dict[str, Any], right: dict[str, float]) -> Expectation | None:
    urls = dict.fromkeys(MODELS, "http://127.0.0.1:1")
    path = write_config(folder, urls, predicted=True, profiles={"default": profile})
    return expectations(load_settings(path), curve(right))["default"]


def of(folder: Path, profile: dict[str, Any], right: dict[str, float]) -> Expectation:
    found = expected(folder, profile, right)
    assert found is not None
    return found


def test_a_weight_on_cost_sends_easy_prompts_to_the_cheap_model(tmp_path: Path) -> None:
    found = of(tmp_path, {"weights": {"cost": 0.5}}, {"small": 0.1, "large": 0.9, "huge": 0.85})
    assert (found.best_model, found.references, found.prompts, found.datasets) == (
        "large",
        ("large",),
        ROWS,
        ("made up",),
    )
    assert (found.chosen, found.never_chosen, found.left_out) == (("small", "large"), ("huge",), ())
    assert 0.5 < found.cost_ratio.mean < 0.6
    assert abs(found.gain.mean) < 0.02
    assert found.sentence().startswith(f"{round(100 * (1 - found.cost_ratio.mean))} % [")
    assert "] cheaper than always large at " in found.sentence()


def test_a_promised_loss_becomes_a_weight_or_nothing_to_gain(tmp_path: Path) -> None:
    promised = of(tmp_path, {"max_quality_loss": 0.05}, {"small": 0.1, "large": 0.9})
    assert promised.cost_weight is not None
    assert promised.gain.low >= -0.05
    kept = of(tmp_path, {"max_quality_loss": 0.0}, {"small": 0.1, "large": 0.9})
    assert (kept.cost_weight, kept.chosen) == (None, ("large",))
    assert kept.sentence() == (
        "nothing to gain: no weight on cost keeps the loss within 0 with confidence; the best single model, large, "
        "answers on made up (1,000 calibration prompts)"
    )


def test_limits_and_weights_about_cards_count_and_those_of_the_moment_are_named(tmp_path: Path) -> None:
    right = {"small": 0.1, "large": 0.8, "huge": 0.9}
    limited = of(tmp_path, {"limits": {"max_size_b": 100}}, right)
    assert (limited.best_model, limited.chosen) == ("large", ("small", "large"))
    sized = of(tmp_path, {"weights": {"size": 20}}, right)
    assert sized.chosen == ("small",)
    hurried = of(tmp_path, {"weights": {"latency": 0.2}, "limits": {"max_cost_usd": 0.1}}, right)
    assert hurried.left_out == ("weights.latency", "max_cost_usd")
    assert hurried.sentence().endswith("(1,000 calibration prompts); without its weights.latency, max_cost_usd")


def test_a_profile_with_one_model_has_nothing_to_compare(tmp_path: Path) -> None:
    assert expected(tmp_path, {"limits": {"max_size_b": 10}}, {"small": 0.1, "large": 0.9}) is None
    assert expected(tmp_path, {"limits": {"max_size_b": 1}}, {"small": 0.1, "large": 0.9}) is None


ON_BOTH = " on llmrouter_nim9, mmlu_pro (3,286 calibration prompts)"
UNKNOWN = Interval(math.nan, math.nan, math.nan)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "41 % [38, 44] cheaper than always qwen3-32b at -0.2 [-0.9, +0.5] points"),
        (
            {"cost_ratio": Interval(1.12, 1.05, 1.19)},
            "12 % [5, 19] dearer than always qwen3-32b at -0.2 [-0.9, +0.5] points",
        ),
        ({"cost_ratio": Interval(1.0, 0.98, 1.02)}, "as dear as always qwen3-32b at -0.2 [-0.9, +0.5] points"),
        (
            {"cost_ratio": UNKNOWN},
            "at a cost that is not known, against always qwen3-32b, at -0.2 [-0.9, +0.5] points",
        ),
        (
            {"references": ("a", "b")},
            "41 % [38, 44] cheaper than always the best model of each dataset (a, b) at -0.2 [-0.9, +0.5] points",
        ),
        (
            {"chosen": ("qwen3-32b",)},
            "nothing to gain: qwen3-32b, the best single model, is chosen for every prompt",
        ),
    ],
)
def test_an_expectation_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    assert replace(SAVING, **changes).sentence() == words + ON_BOTH


def test_what_is_unknown_is_null_in_json() -> None:
    unknown = replace(SAVING, best_cost_usd=math.nan, cost_ratio=UNKNOWN)
    found = json.loads(json.dumps(unknown.as_json(), allow_nan=False))
    assert (found["best_cost_usd"], found["cost_ratio"]["mean"], found["gain"]["low"]) == (None, None, -0.009)


def test_a_model_that_one_profile_chooses_is_used() -> None:
    other = replace(SAVING, chosen=("llama-3.1-8b",), never_chosen=("qwen3-8b", "phi"))
    assert unused({"a": SAVING}) == ["llama-3.1-8b"]
    assert unused({"a": SAVING, "b": other, "c": None}) == ["phi"]
