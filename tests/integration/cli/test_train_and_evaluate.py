"""`thalamus train` and `thalamus evaluate` as a person types them, with the real encoder, on a tiny dataset."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from router_models.outcomes import write_outcomes
from tests.fakes.artifacts import tiny_dataset

CONFIG = """
name: tiny-v1
data: outcomes
output: out/tiny-v1
folds: 2
dev_share: 0.3
wording_groups: 12
mlp: {hidden: 16, networks: 1, epochs: 10}
about: Tiny.
licences: [Apache-2.0]
"""


def thalamus(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "app.cli", *arguments], capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_an_artifact_is_trained_measured_and_gets_its_card(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "outcomes", tiny_dataset(360))
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    artifact = tmp_path / "out" / "tiny-v1"
    cache = Path("var/cache").resolve()

    trained = thalamus("train", str(tmp_path / "tiny.yaml"), "--cache", str(cache), "--json")
    data = ("--artifact", str(artifact), "--data", str(tmp_path / "outcomes"))
    measured = thalamus("evaluate", *data, "--split", "unseen", "--plots", str(tmp_path / "plots"), "--card", "--json")

    assert (trained.returncode, measured.returncode) == (0, 0), trained.stderr + measured.stderr
    assert json.loads(trained.stdout)["models"] == ["adder", "poet"]
    figures = json.loads(measured.stdout)["splits"]["unseen"]["policies"]
    assert figures["router model"]["quality"]["mean"] > figures["random"]["quality"]["mean"]
    assert "## Results on `unseen`" in (artifact / "README.md").read_text()
    assert (tmp_path / "plots" / "cost-quality-unseen.png").exists()

    again = thalamus("train", str(tmp_path / "tiny.yaml"))
    assert again.returncode == 1
    assert again.stderr.strip().endswith("is there already; name another folder with --output")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("train", "nowhere.yaml"), "cannot read nowhere.yaml"),
        (("evaluate", "--artifact", "nowhere", "--data", "nowhere"), "manifest.json cannot be read"),
    ],
)
def test_what_cannot_work_fails_with_one_line(arguments: tuple[str, ...], complaint: str) -> None:
    failed = thalamus(*arguments)

    assert failed.returncode == 1
    assert complaint in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
