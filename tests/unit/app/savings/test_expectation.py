"""What a catalogue is expected to save and to lose: from which rows, among which models, and in which words."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from app.assembly.router_model import CalibrationCurve
from app.domain.vocabulary import VOCABULARY
from app.savings.expectation import Expectation, Prospect, alike, as_ratio, in_points, sentence
from app.settings import load_settings
from router_models.operating.comparison import Interval
from router_models.operating.curve import Predicted
from router_models.storage.calibration import Calibration
from tests.fakes.deployment import write_config

# Of 8, 70 and 700 billion parameters, each ten times as dear as the one before, near enough.
MODELS = ("small", "large", "huge")
ROWS = 1000
SAVING = Expectation(
    prompts=3286,
    priced_prompts=3286,
    datasets=("llmrouter_nim9", "mmlu_pro"),
    best_model="qwen3-32b",
    max_quality_loss=0.01,
    cost_weight=0.3,
    least_loss=0.004,
    hardly_measured=(),
    best_quality=0.61,
    best_cost_usd=0.001,
    quality=0.608,
    cost_usd=0.00059,
    gain=Interval(-0.002, -0.009, 0.005),
    cost_ratio=Interval(0.59, 0.56, 0.62),
    chosen=("qwen3-8b", "qwen3-32b"),
    never_chosen=("llama-3.1-8b",),
    predicted_share=0.0,
    against=(),
    elsewhere=Predicted(0, math.nan, math.nan),
    left_out=(),
)


def curve(right: dict[str, float]) -> CalibrationCurve:
    """The share of easy and hard prompts, half of each, on which a model is right; predictions know which is which."""
    rng = np.random.default_rng(5)
    easy = (np.arange(ROWS) % 2 == 0)[:, None]
    quality = np.where(easy, 0.95, np.array(list(right.values())))
    flat = np.full_like(quality, 100.0)
    score = np.where(np.isnan(list(right.values())), np.nan, rng.random(quality.shape) < quality)
    rows = Calibration(
        quality, score, flat, flat, flat, np.zeros(ROWS, np.int32), ("made up", "empty"), np.ones((ROWS, 1))
    )
    return CalibrationCurve(tuple(right), rows, VOCABULARY.dimension["cost"].scale)


def prospect(folder: Path, rows: CalibrationCurve, **profiles: dict[str, Any]) -> Prospect:
    urls = dict.fromkeys(MODELS, "http://127.0.0.1:1")
    return Prospect(load_settings(write_config(folder, urls, predicted=True, profiles=profiles)), rows)


def expected(folder: Path, profile: dict[str, Any], right: dict[str, float]) -> Expectation | None:
    return prospect(folder, curve(right), default=profile).expectations()["default"]


def of(folder: Path, profile: dict[str, Any], right: dict[str, float]) -> Expectation:
    found = expected(folder, profile, right)
    assert found is not None
    return found


def test_a_weight_on_cost_sends_easy_prompts_to_the_cheap_model(tmp_path: Path) -> None:
    found = of(tmp_path, {"weights": {"cost": 0.5}}, {"small": 0.1, "large": 0.9, "huge": 0.85})
    assert (found.best_model, found.prompts, found.datasets) == ("large", ROWS, ("made up",))
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
    assert kept.least_loss is not None
    could_be = math.ceil(kept.least_loss * 1000) / 1000
    assert kept.sentence() == (
        "nothing to gain: no weight on cost keeps the loss within 0 with confidence and costs less "
        f"(one of {could_be:g} could be kept); the best single model, large, answers on made up "
        "(1,000 calibration prompts)"
    )
    assert of(tmp_path, {"max_quality_loss": could_be}, {"small": 0.1, "large": 0.9}).cost_weight is not None


def test_models_that_were_not_measured_beside_the_others_are_named_where_nothing_can_be_promised(
    tmp_path: Path,
) -> None:
    rows = curve({"small": 0.9, "large": 0.85, "huge": 0.5})
    rows._rows.score[:, 0] = NAN
    found = prospect(tmp_path, rows, default={"max_quality_loss": 0.01}).expectations()["default"]
    assert found is not None
    assert (found.best_model, found.cost_weight, found.hardly_measured) == ("large", None, ("small",))
    assert found.sentence().endswith(
        "; fewer than half of them were given to small: models are comparable once all have sat the same exam "
        "(see `thalamus onboard`)"
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
        (
            {"cost_ratio": Interval(0.6, 0.0, math.inf)},
            "40 % [not known] cheaper than always qwen3-32b at -0.2 [-0.9, +0.5] points",
        ),
        (
            {"cost_ratio": Interval(1.3, -math.inf, math.inf)},
            "30 % [not known] dearer than always qwen3-32b at -0.2 [-0.9, +0.5] points",
        ),
        ({"cost_ratio": Interval(1.0, 0.98, 1.02)}, "as dear as always qwen3-32b at -0.2 [-0.9, +0.5] points"),
        (
            {"cost_ratio": UNKNOWN},
            "at a cost that is not known, against always qwen3-32b, at -0.2 [-0.9, +0.5] points",
        ),
        (
            {"elsewhere": Predicted(1400, -0.004, 0.7)},
            "41 % [38, 44] cheaper than always qwen3-32b at -0.2 [-0.9, +0.5] points",
        ),
        (
            {"chosen": ("qwen3-32b",)},
            "nothing to gain: qwen3-32b, the best single model, is chosen for every prompt",
        ),
    ],
)
def test_an_expectation_is_one_sentence(changes: dict[str, Any], words: str) -> None:
    found = replace(SAVING, **changes)
    others = "; 30 % cheaper at -0.4 points on 1,400 others, by prediction alone" if found.elsewhere.rows else ""
    assert found.sentence() == words + ON_BOTH + others


def test_what_is_unknown_is_null_in_json() -> None:
    unknown = replace(SAVING, best_cost_usd=math.nan, cost_ratio=UNKNOWN)
    found = json.loads(json.dumps(unknown.as_json(), allow_nan=False))
    assert (found["best_cost_usd"], found["cost_ratio"]["mean"], found["gain"]["low"]) == (None, None, -0.009)


def test_a_cost_that_is_known_on_some_prompts_only_is_said_to_be() -> None:
    assert replace(SAVING, priced_prompts=900).sentence().endswith("(3,286 calibration prompts, costs known on 900)")


def test_a_model_is_unused_if_no_profile_ever_chooses_it(tmp_path: Path) -> None:
    rows = curve({"small": 0.1, "large": 0.9, "huge": 0.85})
    cheap, sized = {"weights": {"cost": 0.5}}, {"limits": {"max_size_b": 100}}
    one = prospect(tmp_path, rows, default=cheap)
    assert one.unused(one.expectations()) == ["huge"]
    # Also one that a profile does not allow, or that was not measured; the latter is not known to be useless.
    limited = prospect(tmp_path, rows, default=sized)
    assert limited.unused(limited.expectations()) == ["huge"]
    unmeasured = prospect(tmp_path, curve({"small": 0.1, "large": 0.9, "huge": math.nan}), default=cheap)
    assert unmeasured.unused(unmeasured.expectations()) == []


def test_the_only_model_of_a_profile_is_used(tmp_path: Path) -> None:
    found = prospect(tmp_path, curve({"small": 0.0, "large": 1.0}), default={"limits": {"max_size_b": 10}})
    assert found.expectations() == {"default": None}
    assert found.unused(found.expectations()) == ["large"]


def test_profiles_of_which_the_same_is_expected_are_one() -> None:
    other = replace(SAVING, cost_weight=0.5)
    groups = alike({"a": SAVING, "b": other, "c": None, "d": replace(SAVING), "e": None})
    assert groups == [(["a", "d"], SAVING), (["b"], other), (["c", "e"], None)]
    assert sentence(None) == "nothing to compare: no two of its models were measured on the same prompts"


@pytest.mark.parametrize(
    ("interval", "points", "ratio"),
    [
        (Interval(0.285, 0.262, 0.307), "+28.5 [+26.2, +30.7]", "0.28 [0.26, 0.31]"),
        (Interval(-0.0001, -0.02, 0.3), "+0.0 [-2.0, +30.0]", None),
        (Interval(0.004, 0.0, 0.1), "+0.4 [+0.0, +10.0]", "0.004 [0.00, 0.10]"),
        (Interval(0.5, -math.inf, math.inf), "+50.0 [not known]", "0.50 [not known]"),
        (UNKNOWN, "not known", "not known"),
    ],
)
def test_an_interval_is_short(interval: Interval, points: str, ratio: str | None) -> None:
    assert in_points(interval) == points
    assert ratio is None or as_ratio(interval) == ratio


NAN = math.nan
WEIGHT = 0.5


def patchy(rows: int = 300) -> Calibration:
    """Two datasets: `small` was not measured in the second one; not every answer of `huge` has a length."""
    rng = np.random.default_rng(11)
    quality = rng.uniform(0.2, 0.9, (rows, 3))
    score = (rng.random((rows, 3)) < quality + np.array([0.0, 0.1, 0.0])).astype(float)
    dataset = (np.arange(rows) % 3 == 0).astype(np.int32)
    score[dataset == 1, 0] = NAN
    score[::7, 2] = NAN
    written = rng.uniform(50, 500, (rows, 3))
    written[1::3, 2] = NAN
    return Calibration(
        quality, score, written, written, np.full((rows, 3), 100.0), dataset, ("one", "two"), np.ones((rows, 1))
    )


def by_hand(rows: Calibration, always: int) -> tuple[list[tuple[float, float, float, float]], int, int]:
    """Score and dollars of the choice and one model, in rows where it and another were measured; how often it won.

    And how often the choice was not measured, so that its score is as predicted beside `large`.
    """
    scale = VOCABULARY.dimension["cost"].scale
    found, agreed, predicted = [], 0, 0
    for row in range(len(rows.score)):
        usd = []
        for model, size_b in enumerate((8, 70, 700)):
            price = (100 * size_b / 10 + rows.output_tokens[row, model] * size_b / 5) / 1e6
            usd.append(price)
        measured = [model for model in range(3) if not math.isnan(rows.score[row, model])]

        def utility(model: int, row: int = row, usd: list[float] = usd) -> float:
            share = math.log(usd[model] / scale.best) / math.log(scale.worst / scale.best)
            share = 1.0 if math.isnan(share) else min(1.0, max(0.0, share))
            return float(rows.quality[row, model]) - WEIGHT * share

        if always in measured and len(measured) > 1:
            choice = max(range(3), key=utility)
            agreed += choice == always
            score = rows.score[row, choice]
            if choice not in measured:
                predicted += 1
                score = rows.score[row, 1] + rows.quality[row, choice] - rows.quality[row, 1]
            found.append((score, usd[choice], rows.score[row, always], usd[always]))
    return found, agreed, predicted


@pytest.mark.parametrize(("number", "name"), list(enumerate(MODELS)))
def test_against_always_one_model_is_what_counting_by_hand_gives(tmp_path: Path, number: int, name: str) -> None:
    rows = patchy()
    calibrated = CalibrationCurve(MODELS, rows, VOCABULARY.dimension["cost"].scale)
    expectation = prospect(tmp_path, calibrated, default={"weights": {"cost": WEIGHT}}).expectations()["default"]
    assert expectation is not None
    # It was measured in every row, so all with another one count.
    assert expectation.best_model == "large"
    found = expectation.against[number]
    pairs, agreed, predicted = by_hand(rows, number)
    assert (found.model, found.prompt_count, found.chosen) == (name, len(pairs), agreed / len(pairs))
    assert found.prompts == {"small": {"one": 200}, "large": {"one": 200, "two": 85}}.get(name, found.prompts)

    gains = [chosen - always for chosen, _, always, _ in pairs]
    half = 1.96 * math.hypot(statistics.stdev(gains) / math.sqrt(len(gains)), 0.05 * predicted / len(gains))
    mean = statistics.fmean(gains)
    assert [found.gain.mean, found.gain.low, found.gain.high] == pytest.approx([mean, mean - half, mean + half])

    priced = [(spent, saved) for _, spent, _, saved in pairs if not math.isnan(spent + saved)]
    assert found.priced_prompts == len(priced)
    spent, saved = (sum(column) for column in zip(*priced, strict=True))
    assert found.cost_ratio.mean == pytest.approx(spent / saved)
    drawn = np.random.default_rng(0).integers(0, len(priced), (4000, len(priced)))
    sums = np.array(priced)[drawn].sum(1)
    ends = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    width = found.cost_ratio.high - found.cost_ratio.low
    np.testing.assert_allclose([found.cost_ratio.low, found.cost_ratio.high], ends, atol=0.1 * width)


def test_a_model_without_a_price_costs_what_is_not_known_and_never_nothing(tmp_path: Path) -> None:
    path = write_config(tmp_path, dict.fromkeys(MODELS, "http://127.0.0.1:1"), predicted=True, profiles={"default": {}})
    catalog = yaml.safe_load((tmp_path / "catalog.yaml").read_text())
    del catalog["models"][1]["price"]
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    rows = curve({"small": 0.1, "large": 0.8, "huge": 0.9})
    found = Prospect(load_settings(path), rows).expectations()["default"]
    assert found is not None
    unpriced = found.against[1]
    assert (unpriced.priced_prompts, unpriced.prompt_count) == (0, ROWS)
    assert math.isnan(unpriced.cost_ratio.mean)
    assert math.isfinite(unpriced.gain.mean)
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["against"][1]["cost_ratio"]["mean"] is None


def test_a_model_that_was_never_measured_is_compared_on_nothing(tmp_path: Path) -> None:
    found = of(tmp_path, {}, {"small": 0.1, "large": 0.8, "huge": math.nan})
    never = found.against[2]
    assert (never.model, never.prompts, never.priced_prompts) == ("huge", {}, 0)
    assert math.isnan(never.chosen + never.gain.mean + never.cost_ratio.mean)
