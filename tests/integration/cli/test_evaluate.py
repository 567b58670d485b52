"""`thalamus evaluate` as a person types it: several sets, other names, files, gates, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from router_models.outcomes.dataset import OutcomesDataset, write_outcomes
from router_models.storage.artifact import write_artifact
from tests.fakes.artifacts import tiny_artifact, tiny_dataset

ALIASES = {"adder": {"second": ["adder-a", "adder-b"]}, "poet": {"second": ["bard"]}}


def evaluate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """An artifact of two models, and two datasets; the second has other names, and a model nobody knows."""
    write_artifact(tmp_path / "tiny-v1", tiny_artifact(("adder", "poet"), rows=120))
    first = tiny_dataset(240)
    write_outcomes(tmp_path / "first", first)
    second = tiny_dataset(240, seed=1)
    names = {"adder": "adder-a", "poet": "bard"}
    outcomes = second.renamed(names).outcomes.to_pylist()
    doubles = [row | {"model": "adder-b"} for row in outcomes if row["model"] == "adder-a"]
    strangers = [row | {"model": "stranger"} for row in outcomes if row["model"] == "bard"]
    outcomes_of_four = pa.Table.from_pylist([*outcomes, *doubles, *strangers])
    write_outcomes(tmp_path / "second", OutcomesDataset(second.prompts, outcomes_of_four))
    (tmp_path / "aliases.json").write_text(json.dumps(ALIASES))
    return tmp_path


@pytest.mark.slow
def test_several_sets_are_measured_under_canonical_names(world: Path) -> None:
    sets = ("--data", world / "first", "--data", world / "second", "--aliases", world / "aliases.json")
    files = ("--predictions", world / "out" / "predictions.parquet", "--plots", world / "plots", "--card")

    done = evaluate("--artifact", world / "tiny-v1", *sets, *files, "--json", "--gate")

    report = json.loads(done.stdout)
    assert list(report["sets"]) == ["first", "second"]
    assert [figures["pool"] for figures in report["sets"].values()] == [["adder", "poet"]] * 2
    assert [figures["split"] for figures in report["sets"].values()] == ["test", "test"]
    assert report["sets"]["second"]["unknown_models"] == ["stranger"]
    assert "second: the artifact does not know stranger; left out" in done.stderr
    assert report["pooled"]["prompts"] == 80
    # A gate that fails is an exit status.
    failed = [gate for gate in report["gates"] if gate["verdict"] == "FAILED"]
    assert done.returncode == (1 if failed else 0)
    assert failed
    assert "release gates" in done.stderr

    table = pq.read_table(world / "out" / "predictions.parquet")
    assert table.num_rows == 160
    assert set(table["model"].to_pylist()) == {"adder", "poet"}
    assert (world / "plots" / "profiles-second.png").exists()
    card = (world / "tiny-v1" / "README.md").read_text()
    assert "### On `second`" in card
    assert "**all sets**" in card
    assert json.loads((world / "tiny-v1" / "evaluation.json").read_text())["pooled"]["prompts"] == 80


@pytest.mark.slow
def test_models_are_known_by_what_was_collected_with_them(world: Path) -> None:
    third = tiny_dataset(240).renamed({"adder": "adder-instruct"})
    known_as = [{"adder-instruct": "adder"}.get(model) for model in third.outcomes["model"].to_pylist()]
    outcomes = third.outcomes.append_column("predicted_as", pa.array(known_as, pa.string()))
    write_outcomes(world / "third", OutcomesDataset(third.prompts, outcomes))

    done = evaluate("--artifact", world / "tiny-v1", "--data", world / "third", "--json")

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["sets"]["third"]
    assert (figures["pool"], figures["unknown_models"]) == (["adder", "poet"], [])
    assert "does not know" not in done.stderr


@pytest.mark.slow
def test_splits_of_one_set_are_measured_apart_and_shown_as_tables(world: Path) -> None:
    splits = ("--split", "test", "--split", "unseen")

    done = evaluate("--artifact", world / "tiny-v1", "--data", world / "first", *splits, "--sizes", "adder=1,poet=7")

    assert done.returncode == 0, done.stderr
    for name in ("first/test: 40 prompts", "first/unseen: 40 prompts", "pooled: 80 prompts"):
        assert name in done.stdout
    assert "best single" in done.stdout
    assert "AIQ minus the Zero router's" in done.stdout


@pytest.fixture
def pupil(world: Path) -> Path:
    """An artifact that says it was trained on the split `train` of `first`."""
    tiny = tiny_artifact(("adder", "poet"), rows=120)
    data = {"split": "train", "pools": {"first": {}, "elsewhere": {}}}
    write_artifact(world / "pupil-v1", replace(tiny, name="pupil-v1", about={**tiny.about, "data": data}))
    return world / "pupil-v1"


@pytest.mark.slow
def test_figures_on_what_an_artifact_was_trained_on_say_so_and_fail_the_gates(world: Path, pupil: Path) -> None:
    splits = ("--split", "train", "--split", "test")

    done = evaluate("--artifact", pupil, "--data", world / "first", *splits, "--json", "--gate")

    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "trained on these prompts" in line] == [
        "first/train: the artifact was trained on these prompts; of others this says nothing"
    ]
    flags = {name: figures["trained_on_these_prompts"] for name, figures in report["sets"].items()}
    assert flags == {"first/train": True, "first/test": False}


def test_no_card_is_written_of_prompts_that_an_artifact_was_trained_on(world: Path, pupil: Path) -> None:
    refused = evaluate("--artifact", pupil, "--data", world / "first", "--split", "test", "--split", "train", "--card")

    assert refused.returncode == 1
    assert "first: the artifact was trained on split train; a card needs" in refused.stderr.strip().splitlines()[-1]
    assert sorted(path.name for path in pupil.glob("*")) == sorted(path.name for path in (world / "tiny-v1").glob("*"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--data", "first", "--split", "dev"), "no prompt has split dev; there are test, train, unseen"),
        (
            ("--data", "first", "--train-split", "trian"),
            "first: no prompt has split trian; there are test, train, unseen",
        ),
        (("--data", "first", "--data", "first"), "two folders of --data are named first"),
        (("--data", "first", "--sizes", "adder"), "--sizes should look like"),
        (("--data", "first", "--sizes", "adder=nan"), "--sizes should look like"),
        (("--data", "first", "--sizes", "adder=0"), "--sizes should look like"),
        (("--data", "first", "--sizes", "adder=1,poet=-3"), "--sizes should look like"),
        (("--data", "first", "--sizes", "adder=inf"), "--sizes should look like"),
        (
            ("--data", "first", "--sizes", "adder=1,nosuch=3"),
            "--sizes names no model with nosuch; the data has adder, poet",
        ),
        (("--data", "second"), "second: the artifact knows none of the models adder-a, adder-b, bard, stranger"),
        (("--data", "second", "--aliases", "nowhere.json"), "nowhere.json: No such file"),
        (("--data", "nowhere"), "prompts.parquet: No such file; name a dataset folder"),
        (("--data", "nowhere", "--plots", "aliases.json"), "aliases.json"),
    ],
)
def test_what_cannot_be_measured_fails_with_one_line(world: Path, arguments: tuple[str, ...], complaint: str) -> None:
    there = {"first", "second", "nowhere", "nowhere.json", "aliases.json"}
    paths = [str(world / argument) if argument in there else argument for argument in arguments]

    failed = evaluate("--artifact", world / "tiny-v1", *paths)

    assert failed.returncode == 1
    assert complaint in failed.stderr.strip().splitlines()[-1]
    assert "Traceback" not in failed.stderr
