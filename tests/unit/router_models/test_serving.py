"""Serving a few models, one conversation at a time, gives the numbers that the whole artifact gives for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router_models.heads.correction import Correction, Stretch
from router_models.heads.glance import Glance
from router_models.joining.exam import exam_of
from router_models.joining.onboarding import onboard
from router_models.prediction import Prediction, PredictionRow
from router_models.predictor import ArtifactPredictor
from router_models.serving import AmendedGlance, ServingPredictor
from router_models.storage.artifact import Artifact, ArtifactError, load_artifact
from tests.fakes.artifacts import tiny_artifact, tiny_dataset, tiny_pools_artifact

ROOT = Path(__file__).parents[3]
CONVERSATIONS = [
    (("user", ""),),
    (("user", "add apples"),),
    (("user", "rhyme on rain, " * 400),),
    (("system", "be kind"), ("user", "zebra")),
    (("tools", "search"), ("user", "Wer zählt {[(<1234>)]} und 東京?"), ("assistant", "ich"), ("user", "A. b\nB. c?")),
    (("user", "$$$$ ==== \\\\\\\\ @@@@ " * 30),),
]


def with_heads(artifact: Artifact, **heads: np.ndarray) -> Artifact:
    return replace(
        artifact, heads={**artifact.heads, **{name.replace("__", "."): each for name, each in heads.items()}}
    )


def shrinking() -> Artifact:
    trust_P = np.array([0.3, 0.8], np.float32)
    return with_heads(tiny_pools_artifact(), static__trust_P=trust_P, full__trust_P=trust_P)


def shrinking_evenly() -> Artifact:
    trust_P = np.array([0.6, 0.6], np.float32)
    return with_heads(tiny_pools_artifact(), static__trust_P=trust_P, full__trust_P=trust_P)


def with_task_logits_at(level: float) -> Artifact:
    """Only differences between logits of tasks say anything."""
    old = tiny_pools_artifact()
    bias_O = old.heads["static.bias_O"].copy()
    bias_O[: len(old.heads["layout.pool_T"])] += level
    return with_heads(old, static__bias_O=bias_O)


def without_lengths_of_the_large() -> Artifact:
    old = tiny_pools_artifact()
    return with_heads(old, tokens__known_R=(old.heads["layout.model_R"] != 1).astype(np.uint8))


def joined() -> Artifact:
    old = tiny_pools_artifact(rows=80)
    exam = exam_of(old, ("adder", "poet"), "graded", tiny_dataset(), 60, seed=1)
    return onboard(old, ("adder", "poet"), exam, "tiny-v2", seed=1)[0]


def corrected(artifact: Artifact) -> Artifact:
    tasks, models = len(artifact.heads["layout.pool_T"]), len(artifact.models)
    rng = np.random.default_rng(3)
    correction = Correction(
        rng.normal(size=models), rng.normal(size=(tasks, models)), np.array([0.9, 0.7]), np.ones(models)
    )
    return replace(artifact, heads={**artifact.heads, **correction.tensors()})


def stretched(artifact: Artifact) -> Artifact:
    tasks, models = len(artifact.heads["layout.pool_T"]), len(artifact.models)
    rng = np.random.default_rng(4)
    stretch = Stretch(rng.normal(size=models), rng.normal(size=(tasks, models)))
    return replace(artifact, heads={**artifact.heads, **stretch.tensors()})


ARTIFACTS = {
    "one pool": tiny_artifact(("a", "b", "c")),
    "static only": tiny_artifact(("a", "b", "c"), speeds=("static",)),
    "two pools": tiny_pools_artifact(),
    "shrinking": shrinking(),
    "shrinking evenly": shrinking_evenly(),
    "high logits": with_task_logits_at(200),
    "low logits": with_task_logits_at(-200),
    "lengths unknown": without_lengths_of_the_large(),
    "joined": joined(),
    "corrected": corrected(tiny_pools_artifact()),
    "joined and corrected": corrected(joined()),
    "stretched": stretched(without_lengths_of_the_large()),
    "joined, corrected and stretched": stretched(corrected(joined())),
    **{folder.name: load_artifact(folder) for folder in sorted(ROOT.glob("router_models/artifacts/*-v*"))},
}
EVERY = pytest.mark.parametrize("artifact", ARTIFACTS.values(), ids=ARTIFACTS)


def assert_same(served: Glance | AmendedGlance | PredictionRow, whole: Prediction, columns: Sequence[int]) -> None:
    for name in ("quality", "quality_interval", "output_tokens", "output_tokens_interval"):
        expected = getattr(whole, name)[0][columns]
        np.testing.assert_allclose(getattr(served, name), expected, rtol=2e-5, atol=2e-6, err_msg=name)
    assert served.unfamiliar is bool(whole.unfamiliar[0])


@EVERY
def test_a_glance_at_some_models_has_the_numbers_of_the_whole(artifact: Artifact) -> None:
    if artifact.static is None:
        pytest.skip("this artifact has no glance")
    whole, last = ArtifactPredictor(artifact), len(artifact.models) - 1

    for columns in ([last, 0], range(last + 1)):
        serving = ServingPredictor(artifact, [artifact.models[column] for column in columns])
        for conversation in CONVERSATIONS:
            assert_same(serving.glance(conversation), whole.glance([conversation]), columns)


@EVERY
def test_a_look_at_some_models_has_the_numbers_of_the_whole(artifact: Artifact) -> None:
    last = len(artifact.models) - 1
    serving = ServingPredictor(artifact, [artifact.models[last], artifact.models[0]])

    for conversation in CONVERSATIONS:
        assert_same(serving.predict(conversation), ArtifactPredictor(artifact).predict([conversation]), [last, 0])


def test_what_is_unfamiliar_to_the_whole_is_so_at_a_glance() -> None:
    """The letters of its training prompts are familiar to the tiny artifact."""
    old = tiny_artifact()
    strict = replace(old, settings=replace(old.settings, alarm_static=0.5))
    serving = ServingPredictor(strict, strict.models)

    assert [serving.glance((("user", text),)).unfamiliar for text in ("aaa rrr", "zzz qqq")] == [False, True]


@pytest.mark.parametrize("models", [(), ("small", "nobody")])
def test_models_that_are_not_there_are_refused(models: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="serve"):
        ServingPredictor(tiny_artifact(), models)


def test_without_a_static_encoder_there_is_no_glance() -> None:
    serving = ServingPredictor(tiny_artifact(speeds=("transformer",)), ("small",))

    assert serving.speeds == {"transformer"}
    with pytest.raises(KeyError):
        serving.glance(CONVERSATIONS[1])


def test_who_only_glances_needs_no_transformer() -> None:
    """What would not open is not opened."""
    broken = replace(tiny_artifact(), encoder=b"no ONNX")
    with pytest.raises(ArtifactError):
        ServingPredictor(broken, broken.models)

    glance = ServingPredictor(broken, broken.models, glances_only=True).glance(CONVERSATIONS[1])

    assert (
        glance.quality.tolist()
        == ServingPredictor(tiny_artifact(), broken.models).glance(CONVERSATIONS[1]).quality.tolist()
    )
