"""The predictor: shapes and ranges of what it says, agreement with the artifact's own rows, and its speed."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from router_models.artifact import ArtifactError
from router_models.predictor import ArtifactPredictor
from router_models.tryage import TryageHead
from tests.fakes.artifacts import SIZE_D, tiny_artifact

PROMPTS = [(("user", "add apples"),), (("user", "rhyme on rain"),), (("system", "be kind"), ("user", "zebra"))]


def test_a_prediction_has_a_row_per_prompt_and_a_column_per_model() -> None:
    prediction = ArtifactPredictor(tiny_artifact(("a", "b", "c"))).predict(PROMPTS)

    assert prediction.quality.shape == prediction.output_tokens.shape == (3, 3)
    assert prediction.quality_interval.shape == prediction.output_tokens_interval.shape == (3, 3, 2)


def test_intervals_hold_their_estimate_and_quality_stays_a_probability() -> None:
    prediction = ArtifactPredictor(tiny_artifact()).predict(PROMPTS)

    low, high = np.moveaxis(prediction.quality_interval, 2, 0)
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert ((low <= prediction.quality) & (prediction.quality <= high)).all()
    short, long = np.moveaxis(prediction.output_tokens_interval, 2, 0)
    assert ((short < prediction.output_tokens) & (prediction.output_tokens < long)).all()


def test_a_model_whose_lengths_were_never_measured_has_none() -> None:
    artifact = tiny_artifact()
    heads = {**artifact.heads, "tokens.known_M": np.array([1, 0], np.uint8)}

    prediction = ArtifactPredictor(replace(artifact, heads=heads)).predict(PROMPTS)

    assert np.isfinite(prediction.output_tokens[:, 0]).all()
    assert np.isnan(prediction.output_tokens[:, 1]).all()


def test_alone_or_in_company_a_prompt_gets_the_same_prediction() -> None:
    predictor = ArtifactPredictor(tiny_artifact())

    np.testing.assert_allclose(
        predictor.predict(PROMPTS).quality[2], predictor.predict(PROMPTS[2:]).quality[0], rtol=1e-5
    )


def test_an_encoder_that_onnx_runtime_refuses_is_an_artifact_error() -> None:
    with pytest.raises(ArtifactError, match="its encoder fails"):
        ArtifactPredictor(replace(tiny_artifact(), encoder=b"not onnx"))


def test_an_encoder_of_another_size_is_an_artifact_error() -> None:
    artifact = tiny_artifact()
    heads = {**artifact.heads, "input.mean_D": np.zeros(SIZE_D + 1, np.float32)}

    with pytest.raises(ArtifactError, match=f"makes {SIZE_D} numbers, the heads want {SIZE_D + 1}"):
        ArtifactPredictor(replace(artifact, heads=heads))


@pytest.mark.slow
def test_the_heads_of_ten_models_take_microseconds() -> None:
    rng = np.random.default_rng(0)
    heads: dict[str, np.ndarray] = {
        "input.mean_D": np.zeros(384, np.float32),
        "input.scale_D": np.ones(384, np.float32),
        "logistic.weight_DM": rng.normal(size=(384, 10)).astype(np.float32),
        "logistic.bias_M": np.zeros(10, np.float32),
        "mlp.hidden_weight_DH": rng.normal(size=(384, 768)).astype(np.float32),
        "mlp.hidden_bias_H": np.zeros(768, np.float32),
        "mlp.weight_SHM": rng.normal(size=(3, 256, 10)).astype(np.float32),
        "mlp.bias_SM": np.zeros((3, 10), np.float32),
        "clusters.center_KD": rng.normal(size=(64, 384)).astype(np.float32),
        "clusters.quality_KM": rng.random((64, 10)).astype(np.float32),
        "quality.prior_M": np.zeros(10, np.float32),
        "tokens.weight_DM": np.zeros((384, 10), np.float32),
        "tokens.bias_M": np.zeros(10, np.float32),
        "tokens.residual_M2": np.zeros((10, 2), np.float32),
        "tokens.known_M": np.ones(10, np.uint8),
    }
    head = TryageHead(heads, replace(tiny_artifact().settings, members=("logistic", "mlp", "clusters")))
    embedding = rng.normal(size=(1, 384)).astype(np.float32)
    taken = []
    for _ in range(2_000):
        start = time.perf_counter()
        head.predict(embedding)
        taken.append(time.perf_counter() - start)
    microseconds = 1e6 * float(np.median(taken))
    print(f"heads of 10 models, three members: {microseconds:.0f} microseconds")
    # 150 were measured on an idle core; the bound leaves room for a busy machine, not for a mistake.
    assert microseconds < 1_000
