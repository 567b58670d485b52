"""A gateway with a router model: decisions are predicted, explained, remembered, and survive a failing predictor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from app.assembly.router_model import load_checked
from app.errors import UsageError
from app.main import create_app
from app.settings import load_settings
from router_models.heads.tryage import Speed
from router_models.storage.artifact import Artifact, write_artifact
from tests.fakes.artifacts import tiny_artifact
from tests.fakes.deployment import PLAIN_SECRET, SECRET, Deployment, deployed, write_config

CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "the capital of France"}]}


def with_artifact(folder: Path, artifact: Artifact | None = None, **changes: Any) -> dict[str, Any]:
    write_artifact(folder / "tiny-v1", artifact or tiny_artifact(rows=200))
    return {"artifact": "tiny-v1", "predictor_limit_s": 5, **changes}


def session(deployment: Deployment, secret: str = SECRET) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(deployment.url, headers={"authorization": f"Bearer {secret}"})


@asynccontextmanager
async def running(
    folder: Path, artifact: Artifact | None = None, **changes: Any
) -> AsyncIterator[tuple[Deployment, aiohttp.ClientSession]]:
    """Two models that the tiny artifact predicts, and a caller."""
    config = with_artifact(folder, artifact, **changes)
    async with (
        deployed(folder, "small", "large", predicted=True, **config) as deployment,
        session(deployment) as caller,
    ):
        yield deployment, caller


async def test_a_decision_is_made_from_a_prediction_and_can_be_looked_up(tmp_path: Path) -> None:
    async with running(tmp_path) as (deployment, caller):
        async with caller.post("/v1/chat/completions", json=CHAT) as answer:
            body, headers = await answer.json(), answer.headers
            assert answer.status == 200
        assert headers["x-thalamus-reason"] == "best"
        async with caller.get(f"/v1/routing/decisions/{headers['x-thalamus-decision-id']}") as found:
            record = await found.json()
        best = max(record["candidates"], key=lambda one: one["quality"])
        assert record["model"] == body["model"] == headers["x-thalamus-model"] == best["model"]
        assert record["outcome"]["result"] == "ok"
        assert record["versions"]["artifact"].startswith("tiny-v1@")
        assert len(record["versions"]["config"]) == 12
        path = f"/v1/routing/decisions/{record['decision_id']}"
        async with session(deployment, PLAIN_SECRET) as stranger, stranger.get(path) as hidden:
            assert hidden.status == 403


async def test_who_read_the_prompt_is_recorded_and_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as (deployment, caller):
        asked = {**CHAT, "routing": {"explain": True}}
        async with caller.post("/v1/chat/completions", json=asked) as answer:
            record = (await answer.json())["thalamus"]
        assert record["encoder"] == "transformer", "an explanation is worth the milliseconds"
        assert record["unfamiliar"] in (True, False)
        registry = deployment.application.telemetry.metrics.registry
        assert registry.get_sample_value("thalamus_predictions_total", {"encoder": "transformer"}) == 1


@pytest.mark.parametrize("speeds", [("static",), ("static", "transformer")])
async def test_a_static_encoder_can_decide_alone(tmp_path: Path, speeds: tuple[Speed, ...]) -> None:
    artifact = tiny_artifact(rows=200, speeds=speeds)
    async with running(tmp_path, artifact=artifact, encoder="static") as (deployment, caller):
        async with caller.post("/v1/chat/completions", json={**CHAT, "routing": {"explain": True}}) as answer:
            record = (await answer.json())["thalamus"]
        assert (record["encoder"], record["reason"]) == ("static", "best")
        registry = deployment.application.telemetry.metrics.registry
        assert registry.get_sample_value("thalamus_predictions_total", {"encoder": "static"}) == 1


async def test_an_encoder_that_the_artifact_does_not_have_is_said(tmp_path: Path) -> None:
    config = with_artifact(tmp_path, tiny_artifact(speeds=("static",)), encoder="transformer")
    path = write_config(tmp_path, {"small": "http://127.0.0.1:1"}, predicted=True, **config)
    with pytest.raises(UsageError, match="this artifact has no transformer encoder; write auto or static"):
        async with create_app(load_settings(path)):
            pass


async def test_a_prompt_unlike_all_that_was_learned_from_gets_the_profiles_order(tmp_path: Path) -> None:
    artifact = tiny_artifact(rows=200)
    alarmed = replace(artifact, settings=replace(artifact.settings, alarm_static=0.0, alarm_full=0.0))
    profiles = {"default": {"order": ["large"]}, "cheap": {"weights": {"cost": 20}, "order": ["large"]}}
    async with running(tmp_path, artifact=alarmed, profiles=profiles) as (_, caller):
        unlike = [{"role": "user", "content": "zebra zoo zero"}]
        async with caller.post("/v1/chat/completions", json={"model": "auto:cheap", "messages": unlike}) as answer:
            assert (answer.headers["x-thalamus-reason"], answer.headers["x-thalamus-model"]) == ("abstained", "large")
            decision_id = answer.headers["x-thalamus-decision-id"]
        async with caller.get(f"/v1/routing/decisions/{decision_id}") as found:
            record = await found.json()
    assert record["unfamiliar"] is True
    assert record["why"].startswith("this prompt is unlike what the router model learned from")
    assert all(each["quality"] is not None for each in record["candidates"])


async def test_explaining_asks_no_backend_and_answers_with_every_estimate(tmp_path: Path) -> None:
    async with running(tmp_path) as (deployment, caller):
        asked = {**CHAT, "routing": {"weights": {"cost": 2}, "max_size_b": 50}}
        async with caller.post("/v1/routing/explain", json=asked) as answer:
            record = await answer.json()
        async with caller.post("/v1/routing/explain", json={"model": "auto", "prompt": "x"}) as answer:
            assert answer.status == 200
        async with caller.post("/v1/routing/explain", json={"model": "auto", "input": "x"}) as answer:
            assert answer.status == 200
    (candidate,) = record["candidates"]
    assert candidate["model"] == "small"
    assert 0 <= candidate["quality_interval"][0] <= candidate["quality"] <= candidate["quality_interval"][1] <= 1
    (excluded,) = record["excluded"]
    assert (excluded["model"], excluded["constraint"]) == ("large", "max_size_b")
    assert "set routing.max_size_b to 70" in excluded["relaxation"]
    assert [backend.calls for backend in deployment.backends.values()] == [0, 0]


async def test_the_record_travels_with_the_answer_when_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, caller):
        explained = {**CHAT, "routing": {"explain": True}}
        async with caller.post("/v1/chat/completions", json=explained) as answer:
            assert (await answer.json())["thalamus"]["candidates"]
        async with caller.post("/v1/chat/completions", json={**explained, "stream": True}) as answer:
            events = (await answer.read()).split(b"\n\n")
    assert events[-2] == b"data: [DONE]"
    assert b'"thalamus":' in events[-3]


async def test_a_predictor_that_is_too_slow_costs_its_prediction_not_the_answer(tmp_path: Path) -> None:
    async with running(tmp_path, encoder="transformer", predictor_limit_s=1e-9) as (deployment, caller):
        async with caller.post("/v1/chat/completions", json=CHAT) as answer:
            assert (answer.status, answer.headers["x-thalamus-reason"]) == (200, "default")
        registry = deployment.application.telemetry.metrics.registry
        assert registry.get_sample_value("thalamus_predictor_failures_total") == 1


async def test_a_promised_loss_is_understood(tmp_path: Path) -> None:
    """The calibration rows of the tiny artifact are drawn at random, so only the form of the decision is certain."""
    async with running(tmp_path) as (_, caller):
        for loss in (0.0, 1.0):
            asked = {**CHAT, "routing": {"max_quality_loss": loss}}
            async with caller.post("/v1/routing/explain", json=asked) as answer:
                applied = (await answer.json())["applied"]
            assert applied["best_single_model"] in ("small", "large")
            # A whole point of quality can be lost at any weight.
            assert loss == 0 or applied["cost_weight_of_max_quality_loss"] > 1


def test_a_column_that_the_artifact_does_not_have_is_said(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"small": "http://127.0.0.1:1"}, predicted=True, **with_artifact(tmp_path))
    content = yaml.safe_load((tmp_path / "catalog.yaml").read_text())
    content["models"][0]["predicted_as"] = "enormous"
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=r"models\[0\]\.predicted_as: tiny-v1 has no 'enormous'; it has small, large"):
        load_checked(load_settings(path))


async def test_an_artifact_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"small": "http://127.0.0.1:1"}, predicted=True, **with_artifact(tmp_path))
    with (tmp_path / "tiny-v1" / "heads.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(UsageError, match=r"tiny-v1: "):
        async with create_app(load_settings(path)):
            pass
