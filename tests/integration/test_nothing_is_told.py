"""Libraries that tell their makers about whoever uses them are kept from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

LOADS = """
from pathlib import Path
from router_models.storage.artifact import load_artifact
from router_models.predictor import ArtifactPredictor
ArtifactPredictor(load_artifact(Path("router_models/artifacts/demo-v2")))
"""


def test_loading_a_router_model_leaves_nothing_at_home(tmp_path: Path) -> None:
    """ONNX Runtime makes a device id and a database for its telemetry once it is used, unless it is told not to."""
    told = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
    environment = told | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LOADS], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.rglob("*")) == []
