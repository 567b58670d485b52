"""The evaluation as a whole, on tiny datasets: figures add up, nobody knows outcomes, a card and plots appear."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from router_models.evaluation.bootstrap import Against, Draws, ratio
from router_models.evaluation.card import render_card
from router_models.evaluation.contest import OURS, OURS_PROMISED
from router_models.evaluation.evaluate import Setting, evaluate
from router_models.evaluation.learners import BASELINES
from router_models.evaluation.plots import draw, front
from router_models.evaluation.policies import BEST_SINGLE, CHEAPEST, ORACLE, RANDOM, TASK_TABLE
from router_models.evaluation.robustness import PERTURBATIONS
from router_models.evaluation.sets import Entrant, Source
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError
from router_models.prediction import Prediction
from router_models.reading.conversation import Conversation
from router_models.storage.calibration import Calibration
from tests.fakes.artifacts import tiny_artifact, tiny_dataset
from tests.fakes.reader import FakeReader

SETTING = Setting(sizes_b={"adder": 1.0, "poet": 7.0}, draws=200)
PROMPTS = 480
# Right about who is good at what; calibrated, too: 19 of 20 and 1 of 10 are right.
QUALITY = {"adder": {"a": 0.95, "r": 0.1}, "poet": {"a": 0.1, "r": 0.95}}
TOKENS = {"adder": 14.5, "poet": 43.5}


def no_bar(_: str, __: int) -> Callable[[], object]:
    return lambda: None


def calibration(rows: int = 400) -> Calibration:
    """Half sums, half rhymes, with the scores that QUALITY expects."""
    rng = np.random.default_rng(5)
    quality = np.repeat([[0.95, 0.1], [0.1, 0.95]], rows // 2, axis=0)
    tokens = np.tile([TOKENS["adder"], TOKENS["poet"]], (rows, 1))
    score = (rng.random(quality.shape) < quality).astype(float)
    return Calibration(
        quality, score, tokens, tokens, np.full((rows, 2), 8.0), np.zeros(rows, np.int32), ("tiny",), np.ones((rows, 1))
    )


def entrant(seed: int = 1, unfamiliar: str = "", name: str = "tiny-v1") -> Entrant:
    return Entrant(name, FakeReader(QUALITY, TOKENS, unfamiliar), calibration(), about={"seed": seed})


def source(name: str = "tiny", splits: tuple[str, ...] = ("test",), seed: int = 0) -> Source:
    return Source(name, tiny_dataset(PROMPTS, seed), splits)


def without(given: Source, *columns: str) -> Source:
    dataset = OutcomesDataset(given.dataset.prompts, given.dataset.outcomes.drop_columns(list(columns)))
    return replace(given, dataset=dataset)


@cache
def measured() -> tuple[dict[str, Any], pa.Table]:
    """Two seeds on two sets, the first of them with two splits."""
    sources = [source("first", ("test", "unseen")), source("second", seed=1)]
    return evaluate([entrant(), entrant(2)], sources, SETTING, no_bar)


@cache
def unpriced() -> dict[str, Any]:
    return evaluate([entrant()], [without(source(), "cost_usd")], SETTING, no_bar)[0]


def test_every_set_and_split_is_measured_and_all_of_them_together() -> None:
    report = measured()[0]

    assert list(report["sets"]) == ["first/test", "first/unseen", "second"]
    assert report["pooled"]["sets"] == list(report["sets"])
    assert report["pooled"]["prompts"] == sum(figures["prompts"] for figures in report["sets"].values()) == 240


@pytest.mark.parametrize("name", ["first/test", "first/unseen", "second", "pooled"])
def test_the_router_model_beats_one_model_for_everything_with_the_interval_above_zero(name: str) -> None:
    figures = {**measured()[0]["sets"], "pooled": measured()[0]["pooled"]}[name]

    assert figures["quality_minus_best_single"][0] > 0
    assert figures["daiq"][0] > 0
    assert figures["policies"][OURS]["oracle_match_where_scores_differ"][1] > 0.8
    assert figures["quality"] == figures["policies"][OURS]["quality"]


def test_no_policy_passes_the_oracle() -> None:
    for figures in [*measured()[0]["sets"].values(), measured()[0]["pooled"]]:
        assert all(policy["quality"][1] <= figures["oracle"][1] + 1e-9 for policy in figures["policies"].values())


def test_a_perfect_table_of_tasks_is_the_same_as_a_router_that_knows_them() -> None:
    figures = measured()[0]["sets"]["first/test"]

    assert figures["quality_minus_task_table"] == pytest.approx([0, 0, 0])
    assert figures["task_table"] == figures["policies"][TASK_TABLE]["quality"]


def test_pooled_figures_are_means_over_all_prompts() -> None:
    report = measured()[0]

    sizes = [figures["prompts"] for figures in report["sets"].values()]
    for key in ("quality", "best_single", "random", "oracle", "quality_minus_best_single", "daiq"):
        mids = [figures[key][1] for figures in report["sets"].values()]
        assert report["pooled"][key][1] == pytest.approx(np.average(mids, weights=sizes))


def test_pooled_costs_are_multiples_of_the_best_single_models() -> None:
    pooled = measured()[0]["pooled"]["policies"]

    assert pooled[BEST_SINGLE]["cost_ratio"][1] == pytest.approx(1.0)
    assert "cost_usd" not in pooled[OURS]


@pytest.mark.parametrize("name", ["first/test", "first/unseen", "second", "pooled"])
def test_a_cost_ratio_is_of_two_means_that_vary_together(name: str) -> None:
    figures = {**measured()[0]["sets"], "pooled": measured()[0]["pooled"]}[name]

    ratio = {policy: np.array(metrics["cost_ratio"]) for policy, metrics in figures["policies"].items()}
    np.testing.assert_allclose(ratio[BEST_SINGLE], 1.0, atol=1e-6)
    against = figures["differences"][BEST_SINGLE]["cost_ratio"]
    np.testing.assert_allclose(ratio[OURS] - 1, against, atol=1e-6)


def without_prices(model: str, share: float) -> dict[str, Any]:
    """Figures of a set in which so large a share of a model's answers has no cost."""
    given = source()
    rows = given.dataset.outcomes.to_pylist()
    unpriced = [row | ({"cost_usd": None} if row["model"] == model else {}) for row in rows]
    until = int(len(rows) * share)
    dataset = OutcomesDataset(given.dataset.prompts, pa.Table.from_pylist([*unpriced[:until], *rows[until:]]))
    figures: dict[str, Any] = evaluate([entrant()], [replace(given, dataset=dataset)], SETTING, no_bar)[0]["sets"][
        "tiny"
    ]
    return figures


def test_no_mean_cost_is_told_of_choices_without_a_price() -> None:
    policies = without_prices("poet", 1)["policies"]

    for name in (OURS, ORACLE, RANDOM):
        assert (policies[name]["cost_usd"], policies[name]["cost_ratio"]) == (None, None)
    assert policies[OURS]["quality"] is not None


@pytest.mark.parametrize("share", [0.5, 1])
def test_nothing_is_compared_with_a_best_single_model_without_a_price(share: float) -> None:
    figures = without_prices("adder", share)

    assert figures["best_single_model"] == "adder"
    assert [figures[key] for key in ("daiq", "cost_at_best_single", "cost_at_minus_1_point")] == [None] * 3
    assert all(policy["cost_ratio"] is None for policy in figures["policies"].values())


def test_a_cost_ratio_is_over_prompts_with_both_costs() -> None:
    values_SB, unit_B = np.array([[1.0, 2.0, np.nan, 9.0]]), np.array([1.0, 1.0, 5.0, np.nan])

    assert ratio([Against(Draws.of(4, draws=50), values_SB, unit_B)]).mid == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("about", "what"),
    [
        ({"data": {"split": "train", "pools": {"elsewhere": {}}}}, "the data it was trained on"),
        ({"adapted": {"from": "tiny-v1", "to": "own"}}, "the prompts it was adapted to"),
        ({"joined": [{"model": "poet", "exam": "own", "seed": 1}]}, "the exams of models that joined"),
    ],
)
def test_artifacts_that_differ_in_more_than_their_seed_are_not_averaged(about: dict[str, Any], what: str) -> None:
    other = replace(entrant(2, name="other-v1"), about={"seed": 2, **about})

    with pytest.raises(OutcomesError, match=f"other-v1 differs from tiny-v1 in more than the seed: {what}; "):
        evaluate([entrant(), other], [source()], SETTING, no_bar)


@pytest.mark.parametrize("name", ["tiny-v1", "copy-v1"])
def test_an_artifact_is_no_second_seed_of_itself(name: str) -> None:
    joined = {"seed": 1, "joined": [{"model": "poet", "exam": "own", "seed": 1}]}
    for about in ({"seed": 1}, joined):
        entrants = [replace(entrant(name=each), about=about) for each in ("tiny-v1", name)]
        with pytest.raises(OutcomesError, match=f"tiny-v1 and {name} were made with the same seed; name each artifact"):
            evaluate(entrants, [source()], SETTING, no_bar)


def test_figures_hold_for_every_baseline() -> None:
    figures = measured()[0]["sets"]["second"]

    for name in (OURS, OURS_PROMISED, RANDOM, CHEAPEST, BEST_SINGLE, ORACLE, *BASELINES):
        assert figures["policies"][name]["quality"][0] <= figures["policies"][name]["quality"][1]
    assert figures["baselines_left_out"] == {}
    assert set(figures["costs"]["aiq"]["linear"]["minus_zero"]) == {OURS, *BASELINES}
    assert set(figures["robustness"]) == set(PERTURBATIONS)


def test_every_prediction_is_in_the_table() -> None:
    table = measured()[1]

    assert table.num_rows == 2 * 2 * 240
    assert table.column_names == [
        "artifact",
        "seed",
        "set",
        "split",
        "prompt_id",
        "model",
        *(f"{name}{end}" for name in ("quality", "output_tokens") for end in ("", "_low", "_high")),
        "cost_usd",
        "unfamiliar",
    ]
    assert set(zip(table["set"].to_pylist(), table["split"].to_pylist(), strict=True)) == {
        ("first", "test"),
        ("first", "unseen"),
        ("second", "test"),
    }
    poet = table.filter(pc.equal(table["model"], "poet"))
    assert pc.min_max(poet["output_tokens"]).as_py() == {"min": 43.5, "max": 43.5}
    np.testing.assert_allclose(poet["cost_usd"].to_numpy(), (8 + 43.5 * 2) * 1e-6, rtol=1e-5)


def test_the_figures_are_json() -> None:
    json.dumps(measured()[0], allow_nan=False, default=float)
    json.dumps(unpriced(), allow_nan=False, default=float)


def test_without_costs_quality_is_measured_and_what_needs_costs_is_null() -> None:
    figures = unpriced()["sets"]["tiny"]

    assert figures["quality"][1] > figures["best_single"][1]
    assert [figures[key] for key in ("daiq", "cost_at_best_single", "cost_at_minus_1_point", "cheapest")] == [None] * 4
    assert figures["curves"] == {}
    assert OURS_PROMISED not in figures["policies"]
    verdicts = {gate["name"]: gate["verdict"] for gate in unpriced()["gates"]}
    assert verdicts["AIQ minus the Zero router's, lower bound"] == "not measured"


def test_an_unfamiliar_prompt_goes_to_the_best_single_model() -> None:
    figures = evaluate([entrant(unfamiliar="ar")], [source()], SETTING, no_bar)[0]["sets"]["tiny"]

    assert figures["abstained"] == 1.0
    assert figures["quality_minus_best_single"] == [0, 0, 0]
    assert figures["policies"][OURS]["cost_ratio"][1] == pytest.approx(1.0)
    assert figures["top_model_share"] == 1.0
    # No weight changes that.
    assert len({point["cost_usd"] for point in figures["curves"]["settings"]}) == 1


def test_models_the_artifact_does_not_know_are_named_and_left_out_everywhere() -> None:
    given = source()
    oracle = [
        row | {"model": "stranger", "score": 1.0}
        for row in given.dataset.outcomes.to_pylist()
        if row["model"] == "poet"
    ]
    outcomes = pa.Table.from_pylist([*given.dataset.outcomes.to_pylist(), *oracle])

    report = evaluate(
        [entrant()], [replace(given, dataset=OutcomesDataset(given.dataset.prompts, outcomes))], SETTING, no_bar
    )

    plain = evaluate([entrant()], [given], SETTING, no_bar)
    figures = report[0]["sets"]["tiny"]
    assert figures["unknown_models"] == ["stranger"]
    assert figures["pool"] == ["adder", "poet"]
    assert figures["oracle"] == plain[0]["sets"]["tiny"]["oracle"]
    assert report[1].num_rows == plain[1].num_rows


def test_a_set_of_strangers_is_refused_by_name() -> None:
    given = source()
    strangers = replace(given, dataset=given.dataset.renamed({"adder": "a", "poet": "b"}))

    with pytest.raises(
        OutcomesError, match=r"^tiny: the artifact knows none of the models a, b; it knows adder, poet$"
    ):
        evaluate([entrant()], [strangers], SETTING, no_bar)


def test_an_artifacts_own_aliases_are_enough() -> None:
    given = source()
    renamed = replace(given, dataset=given.dataset.renamed({"adder": "adder-latest"}))

    report = evaluate([replace(entrant(), aliases={"adder-latest": "adder"})], [renamed], SETTING, no_bar)[0]

    assert report["sets"]["tiny"]["pool"] == ["adder-latest", "poet"]
    assert (
        report["sets"]["tiny"]["quality"]
        == evaluate([entrant()], [given], SETTING, no_bar)[0]["sets"]["tiny"]["quality"]
    )


def test_one_known_model_leaves_nothing_to_route_and_nothing_breaks() -> None:
    rows = calibration()
    columns = ("quality", "score", "output_tokens", "real_output_tokens", "input_tokens")
    alone = replace(rows, **{name: getattr(rows, name)[:, :1] for name in columns})

    report = evaluate([Entrant("alone", FakeReader({"adder": QUALITY["adder"]}), alone)], [source()], SETTING, no_bar)[
        0
    ]

    figures = report["sets"]["tiny"]
    assert figures["pool"] == ["adder"]
    assert figures["quality"] == figures["best_single"] == figures["oracle"]
    assert [figures["daiq"], figures["gap_closed"]] == [None, None]
    json.dumps(report, allow_nan=False, default=float)


def test_where_nothing_is_predicted_calibration_is_null(tmp_path: Path) -> None:
    class Silent(FakeReader):
        def predict(
            self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None
        ) -> Prediction:
            said = super().predict(conversations, advance)
            return replace(said, quality=np.full_like(said.quality, np.nan))

    report = evaluate([Entrant("silent", Silent(QUALITY), calibration())], [source()], SETTING, no_bar)[0]

    assert report["sets"]["tiny"]["ece"] is None
    assert "reliability-tiny.png" not in {path.name for path in draw(report, tmp_path)}
    assert [gate["verdict"] for gate in report["gates"] if gate["name"] == "expected calibration error"] == [
        "not measured"
    ]
    json.dumps(report, allow_nan=False, default=float)


@pytest.mark.parametrize(
    ("split", "pool", "learned"),
    [("train", "tiny", True), (None, "tiny", True), ("test", "tiny", False), ("train", "other", False)],
)
def test_an_artifact_was_trained_on_a_split_of_its_own_pools(split: str | None, pool: str, learned: bool) -> None:
    about = {"data": {"split": split, "pools": {pool: {"prompts": 320}}}}

    assert replace(entrant(), about=about).learned_from("tiny", "train") is learned
    assert not entrant().learned_from("tiny", "train"), "nothing is known of it"


@pytest.mark.parametrize(
    "about",
    [
        {"adapted": {"from": "demo-v2", "to": "tiny", "prompts": 200, "splits": ["train"]}},
        {"joined": [{"model": "adder", "exam": "exam on tiny", "prompts": 200, "splits": ["dev", "train"]}]},
    ],
)
def test_an_artifact_learned_from_what_it_was_adapted_to_and_what_its_models_sat(about: dict[str, Any]) -> None:
    it = replace(entrant(), about={"data": {"split": "train", "pools": {"other": {}}}, **about})

    assert it.learned_from("tiny", "train")
    assert not it.learned_from("tiny", "test")
    assert not it.learned_from("own", "train")


def test_of_an_artifact_that_does_not_say_which_splits_it_was_adapted_to_all_count() -> None:
    it = replace(entrant(), about={"adapted": {"from": "demo-v2", "to": "tiny", "prompts": 200}})

    assert it.learned_from("tiny", "test")


def test_artifacts_of_different_models_are_not_mixed() -> None:
    other = Entrant("other", FakeReader({"adder": {}}), calibration())

    with pytest.raises(OutcomesError, match="different models"):
        evaluate([entrant(), other], [source()], SETTING, no_bar)


def test_without_a_training_split_baselines_that_learn_are_left_out_and_named() -> None:
    given = source()
    only_test = replace(given, dataset=given.dataset.split("test"))

    report = evaluate([entrant()], [only_test], SETTING, no_bar)[0]

    figures = report["sets"]["tiny"]
    assert set(figures["baselines_left_out"]) == set(BASELINES)
    assert figures["task_table"] is None
    assert figures["quality_minus_task_table"] is None
    assert figures["best_single_from"] == "calibration rows of the artifact"
    assert figures["daiq"][0] > 0


def test_a_promised_loss_is_kept_and_saves_something() -> None:
    figures = measured()[0]["sets"]["first/test"]

    promised = figures["policies"][OURS_PROMISED]
    assert promised["quality"][1] > figures["best_single"][1] - 0.01
    assert promised["cost_usd"][1] < figures["policies"][OURS]["cost_usd"][1]
    assert 0 <= figures["costs"]["promise"]["kept"] <= 1


def test_a_reader_of_first_letters_is_led_astray_by_a_prefix_and_not_by_typos_elsewhere() -> None:
    figures = measured()[0]["pooled"]["robustness"]

    assert figures["polite prefix"]["unchanged_by_quality"] < 0.8
    assert figures["5 % typos"]["unchanged_by_quality"] > 0.9


def test_weight_on_size_ends_with_the_smallest_model() -> None:
    curve = measured()[0]["sets"]["first/test"]["size_curve"]

    assert curve[-1]["size_b"] == pytest.approx(1.0)
    assert curve[0]["size_b"] > 2


def test_profiles_hold_what_was_observed_and_what_was_predicted() -> None:
    observed, predicted, outcomes = measured()[0]["sets"]["second"]["profiles"]["sums"]["adder"]

    assert predicted == pytest.approx(0.95)
    assert abs(observed - predicted) < 0.1
    assert outcomes == 40


def test_the_card_says_what_was_measured() -> None:
    about = {"tuning": {"folds": 2, "loss": {"all": 0.25}}, "data": {"rows": 1200}}
    artifact = replace(tiny_artifact(), about={**tiny_artifact().about, **about})

    card = render_card(artifact, measured()[0], "thalamus evaluate")

    low, mid, high = measured()[0]["sets"]["first/unseen"]["policies"][OURS]["quality"]
    assert f"{mid:.3f} [{low:.3f}, {high:.3f}]" in card
    for policy in (*BASELINES, RANDOM, ORACLE, BEST_SINGLE, CHEAPEST):
        assert f"| {policy} |" in card
    assert "2 training seeds" in card
    assert "- loss:\n  - all: 0.25" in card
    assert "- rows: 1,200" in card
    assert "| not measured |" in card
    assert "nan" not in card.lower().split()
    assert max(len(line) for line in card.splitlines() if not line.startswith(("|", "-"))) <= 120


def test_the_card_names_the_tasks_that_a_model_was_never_asked() -> None:
    pools = {"first": {"tasks": 2, "never_asked": {"sums": ["poet"]}}, "second": {"tasks": 2}}
    artifact = replace(tiny_artifact(), about={**tiny_artifact().about, "data": {"pools": pools}})

    card, plain = (render_card(each, measured()[0], "thalamus evaluate") for each in (artifact, tiny_artifact()))

    assert "    - never asked:\n      - sums: poet" in card
    assert "- 1 pairs of task and model, named above, have no outcome." in card
    assert "have no outcome" not in plain


def test_a_card_without_costs_has_dashes_and_not_numbers() -> None:
    card = render_card(tiny_artifact(), unpriced(), "thalamus evaluate")

    assert "No costs are compared: none are known, or the best single model is free." in card
    assert "| - |" in card


def test_a_single_prompt_is_measured_and_no_promise_is_said_to_be_broken_on_it() -> None:
    given = source()
    is_one = np.zeros(given.dataset.prompts.num_rows, dtype=bool)
    is_one[given.dataset.prompts["split"].to_pylist().index("test")] = True
    alone = replace(given, dataset=given.dataset.select(is_one))

    report = evaluate([entrant()], [alone], SETTING, no_bar)[0]

    assert report["sets"]["tiny"]["costs"]["promise"]["kept"] is None
    assert "`max_quality_loss: 0.01` was not tried" in render_card(tiny_artifact(), report, "thalamus evaluate")


def test_plots_are_drawn_for_what_is_known(tmp_path: Path) -> None:
    written = {path.name for path in draw(measured()[0], tmp_path)}

    kinds = ("cost-quality", "pareto-cost", "pareto-size", "reliability", "tasks", "wins", "profiles")
    assert written == {f"{kind}-{name}.png" for kind in kinds for name in ("first-test", "first-unseen", "second")}
    assert all((tmp_path / name).stat().st_size > 5_000 for name in written)


def test_without_costs_and_sizes_the_other_plots_are_drawn(tmp_path: Path) -> None:
    report = unpriced()
    figures = {**report["sets"]["tiny"], "size_curve": []}

    written = {path.name for path in draw({"sets": {"tiny": figures}}, tmp_path)}

    assert written == {f"{kind}-tiny.png" for kind in ("reliability", "tasks", "wins", "profiles")}


def test_a_front_holds_only_what_nothing_beats() -> None:
    assert front([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (4, 0.9)]) == [(1, 0.5), (2, 0.7), (3, 0.9)]
