"""`thalamus train --base`, as a person types it, on the demo's outcomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from router_models.outcomes.dataset import read_outcomes, write_outcomes
from router_models.storage.artifact import load_artifact

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "router_models/artifacts/demo-v2"


def adapt(data: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["train", "--base", str(DEMO), "--data", str(data), "--output", str(output), *options]
    return subprocess.run([sys.executable, "-m", "app.cli", *command], capture_output=True, text=True, timeout=240)


def own_prompts(folder: Path, split: str) -> Path:
    dataset = read_outcomes(ROOT / "deploy/demo/outcomes").split(split)
    chosen_B = np.random.default_rng(0).permutation(dataset.prompts.num_rows) < 200
    write_outcomes(folder / split, dataset.select(chosen_B))
    return folder / split


@pytest.mark.slow
def test_it_writes_an_artifact_where_that_helps(tmp_path: Path) -> None:
    done = adapt(own_prompts(tmp_path, "unseen"), tmp_path / "own-v1", "--json")

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["helps"]
    assert figures["qualities"]["quality_after"] > figures["qualities"]["quality_before"]
    adapted = load_artifact(tmp_path / "own-v1").about["adapted"]
    assert adapted == {"from": "demo-v2", "to": "unseen", "prompts": 200, "splits": ["unseen"]}


@pytest.mark.slow
def test_it_writes_nothing_where_the_old_heads_are_as_good(tmp_path: Path) -> None:
    done = adapt(own_prompts(tmp_path, "test"), tmp_path / "own-v1")

    assert done.returncode == 0, done.stderr
    assert "it does not help, so the old heads stay" in done.stdout
    assert "Nothing was written; go on with" in done.stdout
    assert not (tmp_path / "own-v1").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["some.yaml", "--base", "x"], ["--base", "x"], ["some.yaml", "--split", "dev"]]
)
def test_what_is_missing_is_said(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "app.cli", "train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "--base" in done.stderr
