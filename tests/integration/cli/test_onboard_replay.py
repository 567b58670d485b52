"""A model that the artifact knows sits the exam under another name, its published answers replayed by a test server."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from router_models.predictor import ArtifactPredictor
from router_models.storage.artifact import load_artifact
from tests.fakes.replay import replayed

PUBLIC = Path(__file__).parents[3] / "router_models/artifacts/public-v1"
KNOWN = "llama-3.1-8b-it"
"""It answered all anchors."""


@pytest.mark.full
async def test_a_replayed_model_is_graded_as_published_and_described_as_what_it_is(tmp_path: Path) -> None:
    public = load_artifact(PUBLIC)
    published = {anchor["prompt_id"]: anchor["scores"][KNOWN] for anchor in public.anchors}
    async with replayed(public.anchors, {"mystery": published}) as server:
        catalog = {
            "models": [{"name": "mystery", "backend": "replay", "card": {"context_tokens": 8192}}],
            "backends": [{"name": "replay", "kind": "openai", "urls": [server.url]}],
        }
        (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
        (tmp_path / "gateway.yaml").write_text(f"catalog: catalog.yaml\nartifact: {PUBLIC}\n")
        command = ["onboard", "--config", str(tmp_path / "gateway.yaml"), "--items", "0", "--precision", "0", "--yes"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.cli", *command, "--json", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()

    assert process.returncode == 0
    (report,) = json.loads(out)["models"]
    assert report["prompts"] == len(public.anchors)
    assert report["mean_score"] == pytest.approx(np.mean(list(published.values())), abs=0.005)
    extended = load_artifact(tmp_path / "artifacts/mine-v1")
    rows, itself = extended.calibration, public.models.index(KNOWN)
    own_N = np.isfinite(rows.score[:, itself]) & (rows.dataset < len(public.pools))
    assert rows.quality[own_N, -1].mean() == pytest.approx(rows.score[own_N, itself].mean(), abs=0.08)
    quality = ArtifactPredictor(extended).predict([(("user", "What is 2 + 2?"),)]).quality
    assert quality.shape == (1, len(public.models) + 1)
    assert len(set(server.asked)) == len(public.anchors)
