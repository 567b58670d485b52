"""Every released router model is held to its card: it loads, says what it was measured to say, and keeps its gates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_models.evaluation.card import render_card
from router_models.evaluation.evaluate import OURS, Setting, evaluate
from router_models.evaluation.latency import latency_ms
from router_models.evaluation.sets import Entrant, Source
from router_models.outcomes.dataset import OutcomesDataset, read_outcomes
from router_models.predictor import ArtifactPredictor
from router_models.storage.artifact import Artifact, load_artifact

ROOT = Path(__file__).resolve().parents[2]
RELEASED = sorted((ROOT / "router_models" / "artifacts").glob("*-v*"))
# Where the outcomes are that an artifact was measured on.
OUTCOMES = {"demo-v2": ROOT / "deploy" / "demo" / "outcomes"}
# Gates that an artifact was released in spite of; LOG.md says why, and what would mend it.
_TYPOS = "decisions changed by 5 % typos"
ADMITTED = {
    "public-v1": {
        (_TYPOS, "llmrouter_nim9"),
        (_TYPOS, "lookahead6"),
        ("expected calibration error", "zeroeval"),  # 213 prompts
        # On the machine of its card, where the artifact before it takes as long; 8.1 ms on one twice as fast.
        ("p99 of one prediction in ms of one core", "latency"),
    }
}
# What it had to reach to be released, on prompts where the models' scores differ.
LEAST_MATCH = {"demo-v2": {"outcomes/test": 0.80, "outcomes/unseen": 0.65}}

pytestmark = pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.name)


def loaded(folder: Path) -> tuple[Artifact, dict[str, Any]]:
    return load_artifact(folder), json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def no_bar(_: str, __: int) -> Callable[[], object]:
    return lambda: None


def test_it_loads_and_is_named_like_its_folder(folder: Path) -> None:
    assert load_artifact(folder).name == folder.name


def test_the_card_is_the_evaluation(folder: Path) -> None:
    artifact, report = loaded(folder)

    assert (folder / "README.md").read_text(encoding="utf-8") == render_card(artifact, report, report["command"])
    assert report["artifacts"][0]["manifest_sha256"] == artifact.fingerprint


def test_it_kept_its_promises_when_it_was_measured(folder: Path) -> None:
    _, report = loaded(folder)

    for name, least in LEAST_MATCH.get(folder.name, {}).items():
        figures = report["sets"][name]
        assert figures["policies"][OURS]["oracle_match_where_scores_differ"][1] > least
        assert figures["quality_minus_best_single"][0] > 0
        assert figures["ece"] < 0.1


def test_it_failed_no_release_gate_but_those_its_card_admits(folder: Path) -> None:
    if folder.name not in ADMITTED:
        pytest.skip(f"{folder.name} is held to its own bounds: its models were trained for these tasks")
    _, report = loaded(folder)

    failed = {(gate["name"], gate["about"]) for gate in report["gates"] if gate["verdict"] == "FAILED"}
    assert len(report["gates"]) > len(failed)
    assert failed <= ADMITTED[folder.name]


def test_a_prediction_fits_the_budget(folder: Path) -> None:
    predictor = ArtifactPredictor(load_artifact(folder))

    measured = latency_ms(predictor, [(("user", "Translate 'the old tree' into German. " * 20),)] * 50)

    print(f"{folder.name}: p50 {measured['p50']:.1f} ms at the full window, of the processor {measured['cpu_p50']:.1f}")
    # 6 ms on an idle core is what is wanted; the bound leaves room for a machine with other work.
    assert measured["cpu_p50"] < 30


def test_no_prompt_makes_it_say_nonsense(folder: Path) -> None:
    predictor = ArtifactPredictor(load_artifact(folder))

    prediction = predictor.predict([(("user", text),) for text in ("", "?" * 5_000, "Wie geht's?", "\ud800", "SELECT")])

    assert ((prediction.quality >= 0) & (prediction.quality <= 1)).all()
    assert (prediction.quality_interval[..., 0] <= prediction.quality_interval[..., 1]).all()
    known = np.isfinite(prediction.output_tokens)
    assert (prediction.output_tokens[known] > 0).all()


def smallest_set(folder: Path, report: dict[str, Any]) -> tuple[str, OutcomesDataset, str]:
    """Of those that its card measured it on: what it is called there, the outcomes, and which split of them."""
    if folder.name not in OUTCOMES:
        pytest.skip(f"the outcomes {folder.name} was measured on are not part of the project")
    name = min(report["sets"], key=lambda name: report["sets"][name]["prompts"])
    return name, read_outcomes(OUTCOMES[folder.name]), report["sets"][name]["split"]


@pytest.mark.slow
def test_it_still_chooses_as_well_as_its_card_says(folder: Path) -> None:
    artifact, report = loaded(folder)
    name, dataset, split = smallest_set(folder, report)
    asked = dataset.split(split)

    chosen_B = ArtifactPredictor(artifact).predict(asked.conversations()).quality.argmax(1)

    now = asked.matrix("score", artifact.models)[np.arange(len(chosen_B)), chosen_B].mean()
    # The card's figure is a mean over training seeds; this is one of them.
    assert now == pytest.approx(report["sets"][name]["quality"][1], abs=0.03)


@pytest.mark.full
def test_it_still_measures_what_its_card_says(folder: Path) -> None:
    artifact, report = loaded(folder)
    name, dataset, split = smallest_set(folder, report)

    again = evaluate([Entrant.of(artifact)], [Source(name, dataset, (split,))], Setting(draws=200), no_bar)[0]

    card, now = (figures["sets"][name]["quality"][1] for figures in (report, again))
    assert now == pytest.approx(card, abs=0.03)
