"""The evaluation as a whole, on a tiny dataset: the table adds up, baselines know no outcomes, a card appears."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from router_models.artifact import Artifact
from router_models.evaluation.card import render_card
from router_models.evaluation.costs import Prices, listed_prices, paid_usd, prices_behind
from router_models.evaluation.evaluate import OURS, Setting, evaluate
from router_models.evaluation.plots import draw, front
from router_models.evaluation.policies import BASELINES, Known, always_best, task_table
from router_models.operating_curve import WEIGHTS
from router_models.outcomes import OutcomesDataset, OutcomesError
from router_models.training.config import MlpConfig, TrainingConfig
from router_models.training.train import train
from tests.fakes.artifacts import tiny_artifact, tiny_dataset, tiny_encoder

SETTING = Setting(splits=("test", "unseen"), sizes_b={"adder": 1.0, "poet": 7.0})


def no_bar(_: str, __: int) -> Callable[[], object]:
    return lambda: None


@cache
def trained(seed: int = 1) -> Artifact:
    config = TrainingConfig(
        name="tiny-v1",
        data=Path("nowhere"),
        output=Path("nowhere"),
        about="Tiny.",
        licences=("Apache-2.0",),
        seed=seed,
        folds=2,
        wording_groups=12,
        dev_share=0.3,
        mlp=MlpConfig(hidden=8, networks=1, epochs=5),
    )
    return train(config, tiny_dataset(720), tiny_encoder(), no_bar)


@cache
def measured() -> tuple[dict[str, Any], pa.Table]:
    return evaluate([trained(), trained(2)], tiny_dataset(720), SETTING, no_bar)


def test_the_router_model_beats_one_model_for_everything_with_the_interval_above_zero() -> None:
    for figures in measured()[0]["splits"].values():
        assert figures["differences"]["always the best"]["quality"]["low"] > 0
        assert figures["policies"][OURS]["oracle_match_where_scores_differ"]["mean"] > 0.8


def test_no_policy_passes_the_oracle() -> None:
    for figures in measured()[0]["splits"].values():
        best = figures["policies"]["oracle"]["quality"]["mean"]
        assert all(policy["quality"]["mean"] <= best + 1e-9 for policy in figures["policies"].values())


def test_every_prediction_is_in_the_table() -> None:
    table = measured()[1]

    assert table.num_rows == 2 * 2 * 240
    assert set(table["split"].to_pylist()) == {"test", "unseen"}
    assert pc.min_max(table["quality"]).as_py()["max"] <= 1


def test_the_figures_are_json() -> None:
    json.dumps(measured()[0], allow_nan=False, default=float)


def test_a_promised_loss_is_kept_on_prompts_that_were_not_used_to_choose_the_weight() -> None:
    figures = measured()[0]["splits"]["test"]

    promised = figures["policies"][f"{OURS}, max_quality_loss 0.01"]
    assert promised["quality"]["mean"] > figures["policies"]["always the best"]["quality"]["mean"] - 0.01
    assert promised["cost_usd"]["mean"] < figures["policies"][OURS]["cost_usd"]["mean"]


def test_without_lengths_a_weight_is_tried_on_the_costs_it_will_be_used_on() -> None:
    dataset, artifact = tiny_dataset(720), trained()
    unpriced = OutcomesDataset(dataset.prompts, dataset.outcomes.drop_columns(["cost_usd", "output_tokens"]))
    unknown = np.full_like(artifact.calibration.score, np.nan)
    useless_adder = artifact.calibration.score * [0.0, 1.0]
    without = replace(
        artifact,
        heads={**artifact.heads, "tokens.known_M": np.zeros(2, np.uint8)},
        calibration=replace(
            artifact.calibration, score=useless_adder, output_tokens=unknown, real_output_tokens=unknown
        ),
    )
    cheap_adder = Prices(input_usd_per_m=np.array([1.0, 50.0]), output_usd_per_m=np.array([1.0, 50.0]))

    report = evaluate([without], unpriced, replace(SETTING, splits=("test",), listed_prices=cheap_adder), no_bar)[0]

    weight = report["splits"]["test"]["weight_for_promised_loss"][0]
    assert weight is None or weight < WEIGHTS[-1]


def test_weight_on_size_ends_with_the_smallest_model() -> None:
    curve = measured()[0]["splits"]["test"]["size_curves"][OURS]

    assert curve[-1]["spent"] == pytest.approx(1.0)
    assert curve[0]["spent"] > 2


def test_the_card_says_what_was_measured() -> None:
    card = render_card(trained(), measured()[0], "thalamus evaluate")

    figures = measured()[0]["splits"]["unseen"]["policies"][OURS]["quality"]
    assert f"{figures['mean']:.3f} [{figures['low']:.3f}, {figures['high']:.3f}]" in card
    for policy in (*BASELINES, "random", "oracle"):
        assert f"| {policy} |" in card
    assert "2 training seeds" in card
    assert max(len(line) for line in card.splitlines() if not line.startswith(("|", "-", "For", "Split"))) < 200


def test_plots_are_drawn_for_what_is_known(tmp_path: Path) -> None:
    written = {path.name for path in draw(measured()[0], tmp_path)}

    assert {"cost-quality-test.png", "pareto-size-unseen.png", "pareto-cost-test.png", "tasks-test.png"} <= written
    assert all((tmp_path / name).stat().st_size > 5_000 for name in written)


def test_a_front_holds_only_what_nothing_beats() -> None:
    assert front([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (4, 0.9)]) == [(1, 0.5), (2, 0.7), (3, 0.9)]


def test_another_models_artifact_is_refused() -> None:
    with pytest.raises(OutcomesError, match="split test has no outcome of the artifact's models"):
        evaluate([tiny_artifact()], tiny_dataset(), SETTING, no_bar)


def test_artifacts_of_different_models_are_not_mixed() -> None:
    with pytest.raises(OutcomesError, match="different models"):
        evaluate([trained(), tiny_artifact()], tiny_dataset(), SETTING, no_bar)


def known(score: list[list[float]], tasks: list[str], new_tasks: list[str]) -> Known:
    texts, new_texts = [f"text {t}" for t in tasks], [f"text {t}" for t in new_tasks]
    blank = np.zeros((len(tasks), 2), np.float32)
    return Known(
        np.array(score), np.array(score), tasks, new_tasks, texts, new_texts, blank, np.zeros((len(new_tasks), 2))
    )


def test_the_best_single_model_is_the_one_of_the_training_rows_with_missing_ones_left_out() -> None:
    value = always_best(known([[1, 0], [np.nan, 0.5], [np.nan, 0.5]], ["a"] * 3, ["a"]))

    np.testing.assert_allclose(value, [[1.0, 1 / 3]])


def test_the_task_table_falls_back_to_the_mean_for_a_task_it_never_saw() -> None:
    value = task_table(known([[1.0, 0.0]] * 40 + [[0.0, 1.0]] * 40, ["a"] * 40 + ["b"] * 40, ["a", "b", "new"]))

    assert value[0, 0] > 0.9 > 0.1 > value[0, 1]
    np.testing.assert_allclose(value[2], [0.5, 0.5])


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_gives_every_prompt_a_number_for_every_model(name: str) -> None:
    rng = np.random.default_rng(0)
    score = np.where(rng.random((60, 3)) < 0.2, np.nan, rng.integers(0, 2, (60, 3)))
    score[:, 2] = 1.0
    words = [" ".join(rng.choice(["add", "rhyme", "sort"], 5)) for _ in range(60)]
    embedding = rng.normal(size=(60, 4))
    facts = Known(score, score, words, words[:7], words, words[:7], embedding, embedding[:7])

    value = BASELINES[name](facts)

    assert value.shape == (7, 3)
    assert np.isfinite(value).all()


def test_prices_are_found_behind_recorded_costs() -> None:
    prices = prices_behind(tiny_dataset(), ("adder", "poet"), None)

    np.testing.assert_allclose(prices.input_usd_per_m, 1.0, rtol=1e-6)
    np.testing.assert_allclose(prices.output_usd_per_m, 2.0, rtol=1e-6)


def test_without_recorded_costs_listed_prices_are_charged(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(json.dumps({"adder": [3.0, 0.0, "list"], "poet": [None, None, ""]}))
    dataset = tiny_dataset()
    unpriced = OutcomesDataset(dataset.prompts, dataset.outcomes.drop_columns(["cost_usd", "output_tokens"]))

    paid = paid_usd(unpriced, ("adder", "poet"), listed_prices(tmp_path, ("adder", "poet")))

    np.testing.assert_allclose(paid[:, 0], 8 * 3e-6)
    assert np.isnan(paid[:, 1]).all()


def test_without_any_cost_quality_is_measured_all_the_same() -> None:
    dataset = tiny_dataset(720)
    unpriced = OutcomesDataset(dataset.prompts, dataset.outcomes.drop_columns(["cost_usd"]))

    report = evaluate([trained()], unpriced, replace(SETTING, splits=("test",)), no_bar)[0]

    figures = report["splits"]["test"]
    assert figures["cost_curves"] == {}
    assert figures["policies"][OURS]["cost_usd"]["mean"] is None
    assert "| - |" in render_card(trained(), report, "thalamus evaluate")
