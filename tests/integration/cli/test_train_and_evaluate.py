"""`thalamus train`, `evaluate` and `onboard` as a person types them, with the real encoder, on a tiny dataset."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from router_models.outcomes.dataset import OutcomesDataset, write_outcomes
from router_models.predictor import ArtifactPredictor
from router_models.storage.artifact import load_artifact, write_artifact
from tests.fakes.artifacts import tiny_artifact, tiny_dataset, write_tiny_pools
from tests.fakes.chat_server import ChatServer, Scripted
from tests.fakes.collecting import finished

CONFIG = """
name: tiny-v1
data: [outcomes]
output: out/tiny-v1
folds: 2
task_folds: 2
clusters: 8
about: Tiny.
licences: [Apache-2.0]
"""


def thalamus(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "app.cli", *arguments], capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_an_artifact_is_trained_measured_and_gets_its_card(tmp_path: Path, made_encoders: Path) -> None:
    whole = tiny_dataset(360)
    write_outcomes(tmp_path / "outcomes", OutcomesDataset(whole.prompts, whole.outcomes.slice(1)))
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    artifact = tmp_path / "out" / "tiny-v1"

    trained = thalamus("train", str(tmp_path / "tiny.yaml"), "--cache", str(made_encoders), "--json")
    data = ("--artifact", str(artifact), "--data", str(tmp_path / "outcomes"))
    measured = thalamus("evaluate", *data, "--split", "unseen", "--plots", str(tmp_path / "plots"), "--card", "--json")

    assert (trained.returncode, measured.returncode) == (0, 0), trained.stderr + measured.stderr
    assert json.loads(trained.stdout)["models"] == ["adder", "poet"]
    alone = "outcomes: 1 of 240 prompts (0.4%) have an outcome of one model alone, so they compare nothing"
    assert alone in trained.stderr
    figures = json.loads(measured.stdout)["sets"]["outcomes"]
    assert figures["split"] == "unseen"
    assert figures["quality"][1] > figures["random"][1]
    assert "### On `outcomes`" in (artifact / "README.md").read_text()
    assert (tmp_path / "plots" / "cost-quality-outcomes.png").exists()

    again = thalamus("train", str(tmp_path / "tiny.yaml"))
    assert again.returncode == 1
    assert again.stderr.strip().endswith("is there already; name another folder with --output")


@pytest.mark.slow
async def test_prompts_of_ones_own_without_splits_are_collected_learned_from_and_measured(
    tmp_path: Path, made_encoders: Path
) -> None:
    """With nothing but a prompt, a reference and a grader in each line."""
    kinds = dict(zip(*(tiny_dataset(240).prompts[name].to_pylist() for name in ("prompt", "task")), strict=True))
    lines = [json.dumps({"prompt": text, "reference": "ok", "grader": "exact"}) for text in kinds]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    (tmp_path / "tiny.yaml").write_text(CONFIG)

    def script(text: str, before: int, body: dict[str, Any]) -> Scripted:
        return Scripted(text="ok" if (body["model"] == "adder") == (kinds[text] == "sums") else "no")

    async with ChatServer(script) as server:
        models = ("--url", server.url, "--models", "adder,poet", "--yes")
        code, _, err = await finished(
            *("--prompts", str(tmp_path / "own.jsonl"), "--output", str(tmp_path / "outcomes"), *models)
        )
    assert code == 0, err
    train = ("train", str(tmp_path / "tiny.yaml"), "--cache", str(made_encoders), "--json")
    trained = await asyncio.to_thread(thalamus, *train)
    assert trained.returncode == 0, trained.stderr
    data = ("--artifact", str(tmp_path / "out/tiny-v1"), "--data", str(tmp_path / "outcomes"))
    measured = await asyncio.to_thread(thalamus, "evaluate", *data, "--split", "test", "--json")
    assert measured.returncode == 0, measured.stderr

    drawn = "outcomes: no prompt has a split, so each was given one by its text: 70% train, 10% dev, 20% test"
    assert (trained.stderr.count(drawn), measured.stderr.count(drawn)) == (1, 1)
    data_said = json.loads(trained.stdout)["data"]
    assert data_said["drawn_splits"] == ["outcomes"]
    figures = json.loads(measured.stdout)["sets"]["outcomes"]
    assert data_said["pools"]["outcomes"]["prompts"] + figures["prompts"] < len(kinds)
    assert figures["quality"][1] > figures["best_single"][1] + 0.1


@pytest.mark.slow
def test_prompts_without_a_split_beside_others_are_said_to_be_left_out(tmp_path: Path, made_encoders: Path) -> None:
    """And nothing is suggested that could not be measured."""
    whole = tiny_dataset(360)
    split = ["train" if said == "train" else None for said in whole.prompts["split"].to_pylist()]
    place = whole.prompts.column_names.index("split")
    prompts = whole.prompts.set_column(place, "split", pa.array(split))
    write_outcomes(tmp_path / "outcomes", OutcomesDataset(prompts, whole.outcomes))
    (tmp_path / "tiny.yaml").write_text(CONFIG)

    trained = thalamus("train", str(tmp_path / "tiny.yaml"), "--cache", str(made_encoders))
    data = ("--artifact", str(tmp_path / "out" / "tiny-v1"), "--data", str(tmp_path / "outcomes"))
    measured = thalamus("evaluate", *data, "--split", "train")

    left_out = "outcomes: 120 of 360 prompts are left out: they have no split, and others have one"
    assert (trained.returncode, measured.returncode) == (0, 0), trained.stderr + measured.stderr
    assert (trained.stderr.count(left_out), measured.stderr.count(left_out)) == (1, 1)
    assert "No prompt with a split is left to measure it on." in trained.stdout
    assert "Next:" not in trained.stdout


@pytest.mark.parametrize(
    ("split", "complaint"),
    [("", "5 prompts are too few"), ("split: unseen\n", "outcomes: no prompt has split unseen; there are ")],
)
def test_a_dataset_that_nothing_can_be_learned_from_is_refused_before_the_encoder_is_made(
    tmp_path: Path, split: str, complaint: str
) -> None:
    whole = tiny_dataset(6)
    undivided = OutcomesDataset(whole.prompts.drop_columns(["split"]), whole.outcomes)
    write_outcomes(tmp_path / "outcomes", undivided)
    (tmp_path / "tiny.yaml").write_text(CONFIG.replace("folds: 2\n", "folds: 7\n", 1) + split)

    refused = thalamus("train", str(tmp_path / "tiny.yaml"), "--cache", str(tmp_path / "cache"))

    assert refused.returncode == 1
    assert complaint in refused.stderr
    assert not (tmp_path / "cache").exists()


def test_rated_prompts_of_a_journal_teach_nobody_whom_to_choose(tmp_path: Path) -> None:
    """Each was answered by one model."""
    whole = tiny_dataset(360)
    rated = [
        row for row in whole.outcomes.to_pylist() if (int(row["prompt_id"][1:]) % 2 == 0) == (row["model"] == "poet")
    ]
    write_outcomes(tmp_path / "outcomes", OutcomesDataset(whole.prompts, pa.Table.from_pylist(rated)))
    (tmp_path / "tiny.yaml").write_text(CONFIG)

    refused = thalamus("train", str(tmp_path / "tiny.yaml"), "--cache", str(tmp_path / "cache"))

    assert refused.returncode == 1
    assert "only 0 of 240 prompts have outcomes of two models, and 50 are needed" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("train", "nowhere.yaml"), "cannot read nowhere.yaml"),
        (("evaluate", "--artifact", "nowhere", "--data", "nowhere"), "manifest.json cannot be read"),
        (
            ("onboard", "x", "--artifact", "nowhere", "--outcomes", "nowhere", "--output", "nowhere/x"),
            "manifest.json cannot be read",
        ),
    ],
)
def test_what_cannot_work_fails_with_one_line(arguments: tuple[str, ...], complaint: str) -> None:
    failed = thalamus(*arguments)

    assert failed.returncode == 1
    assert complaint in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_pools_aliases_seed_and_folder_may_come_from_the_command_line(tmp_path: Path, made_encoders: Path) -> None:
    (first, second), aliases = write_tiny_pools(tmp_path, 150)
    (tmp_path / "tiny.yaml").write_text(CONFIG.replace("data: [outcomes]\n", "anchors: true\n"))
    made = tmp_path / "elsewhere"

    given = ("--data", str(first), "--data", str(second), "--aliases", str(aliases), "--seed", "7")
    trained = thalamus(
        *("train", str(tmp_path / "tiny.yaml"), *given),
        *("--output", str(made), "--cache", str(made_encoders), "--json"),
    )

    assert trained.returncode == 0, trained.stderr
    said, artifact = json.loads(trained.stdout), load_artifact(made)
    assert said["output"] == str(made)
    assert said["models"] == ["adder", "poet", "singer"]
    assert (said["seed"], set(said["data"]["pools"])) == (7, {"first", "second"})
    assert artifact.settings.speeds == ("static", "transformer")
    assert artifact.about["command"].startswith("thalamus train ")
    assert {anchor["pool"] for anchor in artifact.anchors} == {"first"}
    sums, rhymes = (
        ArtifactPredictor(artifact)
        .predict([(("user", "add all apples amount add all"),), (("user", "rhyme rose river rain rose rain"),)])
        .quality
    )
    assert sums[0] > sums[1]
    assert rhymes[1] > rhymes[0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (CONFIG + "mlp: {hidden: 16}\n", "mlp: Extra inputs are not permitted"),
        (CONFIG + "transformer: false\nstatic: null\n", "static: expected at least one encoder"),
    ],
)
def test_a_training_file_that_says_nonsense_fails_with_one_line(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(content)

    failed = thalamus("train", str(tmp_path / "tiny.yaml"))

    assert failed.returncode == 1
    assert complaint in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1


def test_models_join_an_artifact_and_are_measured(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "outcomes", tiny_dataset(360))
    write_artifact(tmp_path / "old", tiny_artifact(rows=400))
    (tmp_path / "aliases.json").write_text(json.dumps({"sums": {"outcomes": ["adder"]}}))
    given = ("--artifact", str(tmp_path / "old"), "--outcomes", str(tmp_path / "outcomes"), "--split", "train")
    new = ("--output", str(tmp_path / "new"), "--shots", "200", "--aliases", str(tmp_path / "aliases.json"))

    joined = thalamus("onboard", "sums", "poet", *given, *new, "--json")
    again = thalamus("onboard", "sums", *given, *new)
    measured = thalamus(
        "evaluate",
        "--artifact",
        str(tmp_path / "new"),
        "--data",
        str(tmp_path / "outcomes"),
        "--split",
        "test",
        "--json",
    )

    assert (joined.returncode, measured.returncode) == (0, 0), joined.stderr + measured.stderr
    assert [row["prompts"] for row in json.loads(joined.stdout)["models"]] == [200, 200]
    assert "is there already; name another folder" in again.stderr
    assert load_artifact(tmp_path / "new").aliases == {"adder": "sums"}
    figures = json.loads(measured.stdout)["sets"]["outcomes"]
    assert figures["quality"][1] > figures["best_single"][1] + 0.1


def test_what_an_exam_showed_is_a_table(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "outcomes", tiny_dataset(120))
    write_artifact(tmp_path / "old", tiny_artifact(rows=200))

    joined = thalamus(
        *("onboard", "adder", "--artifact", str(tmp_path / "old"), "--outcomes", str(tmp_path / "outcomes")),
        *("--output", str(tmp_path / "new")),
    )

    assert joined.returncode == 0, joined.stderr
    assert "adder" in joined.stdout
    assert "most alike" in joined.stdout


def test_a_name_that_the_artifact_knows_is_not_given_to_another_model(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "outcomes", tiny_dataset(120))
    write_artifact(tmp_path / "old", replace(tiny_artifact(rows=200), aliases={"poet": "small"}))
    (tmp_path / "aliases.json").write_text(json.dumps({"bard": {"outcomes": ["poet"]}}))

    refused = thalamus(
        *("onboard", "bard", "--artifact", str(tmp_path / "old"), "--outcomes", str(tmp_path / "outcomes")),
        *("--aliases", str(tmp_path / "aliases.json"), "--output", str(tmp_path / "new")),
    )

    assert refused.returncode == 1
    assert "knows 'poet' already, and as another model" in refused.stderr
