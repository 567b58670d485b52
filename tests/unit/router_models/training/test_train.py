"""Training, on a dataset that a tiny encoder can tell apart: it learns, it is repeatable, it refuses nonsense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from router_models.artifact import load_artifact, write_artifact
from router_models.outcomes import OutcomesDataset, OutcomesError
from router_models.predictor import ArtifactPredictor
from router_models.training import members
from router_models.training.config import (
    ClustersConfig,
    ConfigError,
    MlpConfig,
    NeighboursConfig,
    TrainingConfig,
    load_config,
)
from router_models.training.train import train
from router_models.tryage import MEMBERS, mlp, shrunk_logit, sigmoid, standing
from tests.fakes.artifacts import tiny_dataset, tiny_encoder


def no_bar(_: str, __: int) -> Callable[[], object]:
    return lambda: None


def tiny_config(**changed: Any) -> TrainingConfig:
    """Seconds on one core; small enough groups and networks for 160 prompts."""
    values: dict[str, Any] = {
        "name": "tiny-v1",
        "data": Path("nowhere"),
        "output": Path("nowhere"),
        "about": "Tiny.",
        "licences": ("Apache-2.0",),
        "folds": 3,
        "wording_groups": 12,
        "dev_share": 0.3,
        "mlp": MlpConfig(hidden=16, networks=2, epochs=20),
    }
    return TrainingConfig(**(values | changed))


def test_training_learns_who_is_good_at_what_and_what_it_writes_predicts_the_same(tmp_path: Path) -> None:
    dataset = tiny_dataset()

    artifact = train(tiny_config(), dataset, tiny_encoder(), no_bar)
    write_artifact(tmp_path / "tiny-v1", artifact)

    test = dataset.split("unseen")
    quality = ArtifactPredictor(load_artifact(tmp_path / "tiny-v1")).predict(test.conversations()).quality
    score = test.matrix("score", artifact.models)
    chosen = np.take_along_axis(score, quality.argmax(1)[:, None], 1).mean()
    assert artifact.models == ("adder", "poet")
    assert chosen > score.mean(0).max() + 0.2
    np.testing.assert_allclose(quality, ArtifactPredictor(artifact).predict(test.conversations()).quality, rtol=1e-5)


def test_calibration_rows_are_prompts_it_was_not_trained_on_as_the_predictor_sees_them() -> None:
    dataset = tiny_dataset()
    artifact = train(tiny_config(), dataset, tiny_encoder(), no_bar)
    rows = artifact.calibration

    assert len(rows.score) == artifact.about["data"]["prompts_set_aside"]
    assert len(rows.score) + artifact.about["data"]["prompts_fitted"] == dataset.split("train").prompts.num_rows
    everything = ArtifactPredictor(artifact).predict(dataset.split("train").conversations())
    for row in rows.quality:
        assert np.isclose(everything.quality, row, atol=1e-5).all(1).any()
    assert np.isfinite(rows.real_output_tokens).all()


def test_lengths_follow_the_model() -> None:
    artifact = train(tiny_config(), tiny_dataset(), tiny_encoder(), no_bar)

    prediction = ArtifactPredictor(artifact).predict([(("user", "add apples"),)])

    adder, poet = prediction.output_tokens[0]
    assert 10 <= adder <= 20
    assert 30 <= poet <= 60
    assert (prediction.output_tokens_interval[0, :, 0] < prediction.output_tokens_interval[0, :, 1]).all()


def test_the_same_seed_gives_the_same_numbers_and_another_does_not() -> None:
    dataset = tiny_dataset()
    first, again = (train(tiny_config(), dataset, tiny_encoder(), no_bar) for _ in range(2))
    other = train(tiny_config(seed=2), dataset, tiny_encoder(), no_bar)

    assert first.settings == again.settings
    for name, tensor in first.heads.items():
        np.testing.assert_array_equal(tensor, again.heads[name])
    assert not np.array_equal(first.heads["input.mean_D"], other.heads["input.mean_D"])


def test_a_missing_outcome_is_not_a_bad_one() -> None:
    dataset = tiny_dataset()
    good = pc.and_(pc.equal(dataset.outcomes["model"], "adder"), pc.equal(dataset.outcomes["score"], 1.0))
    thinned = dataset.outcomes.filter(pc.or_(good, pc.not_equal(dataset.outcomes["model"], "adder")))

    artifact = train(tiny_config(), OutcomesDataset(dataset.prompts, thinned), tiny_encoder(), no_bar)

    quality = ArtifactPredictor(artifact).predict(dataset.split("test").conversations()).quality
    assert quality[:, artifact.models.index("adder")].mean() > 0.85


def test_columns_are_those_asked_for_in_that_order() -> None:
    assert train(tiny_config(models=("poet", "adder")), tiny_dataset(), tiny_encoder(), no_bar).models == (
        "poet",
        "adder",
    )


def test_a_model_without_outcomes_is_refused() -> None:
    with pytest.raises(OutcomesError, match="model nobody has no outcome in split train"):
        train(tiny_config(models=("adder", "nobody")), tiny_dataset(), tiny_encoder(), no_bar)


def test_a_handful_of_prompts_is_refused() -> None:
    with pytest.raises(OutcomesError, match="too few"):
        train(tiny_config(), tiny_dataset(prompts=6), tiny_encoder(), no_bar)


def rows_of(prompts: int = 200) -> members.Rows:
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(prompts, 8)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    score = (sigmoid(embedding @ rng.normal(size=(8, 3)) * 6) > rng.random((prompts, 3))).astype(float)
    return members.Rows(embedding, embedding * 3, score)


def test_the_numpy_network_is_the_torch_network() -> None:
    rows = rows_of()
    networks = [members.fit_network(rows, MlpConfig(hidden=16, epochs=5), seed) for seed in (1, 2)]

    ours = mlp(members.stacked(networks), rows.embedding, rows.inputs)

    with torch.no_grad():
        theirs = np.mean(
            [torch.sigmoid(network(torch.from_numpy(rows.inputs))).numpy() for network in networks], axis=0
        )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "mlp", "clusters", "neighbours"])
def test_every_member_beats_the_mean_on_rows_it_has_not_seen(name: str) -> None:
    rows = rows_of(800)
    fitted, judged = rows.take(np.arange(600)), rows.take(np.arange(600, 800))
    fits: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "logistic": lambda: members.fit_logistic(fitted, 0.03),
        "mlp": lambda: members.fit_mlp(fitted, MlpConfig(hidden=32), [1]),
        "clusters": lambda: members.fit_clusters(fitted, ClustersConfig(), 1),
        "neighbours": lambda: members.fit_neighbours(fitted, NeighboursConfig(count=30)),
    }

    quality = MEMBERS[name](fits[name](), judged.embedding, judged.inputs)

    brier = np.mean((quality - judged.score) ** 2)
    assert brier < 0.9 * np.mean((fitted.score.mean(0) - judged.score) ** 2)
    assert ((quality >= 0) & (quality <= 1 + 1e-6)).all()


def test_soft_scores_are_targets_as_they_are() -> None:
    rows = rows_of()
    half = members.Rows(rows.embedding, rows.inputs, np.full_like(rows.score, 0.5))

    quality = MEMBERS["logistic"](members.fit_logistic(half, 0.1), rows.embedding, rows.inputs)

    np.testing.assert_allclose(quality, 0.5, atol=0.01)


def test_no_residual_leaves_every_prompt_the_same_order_of_models() -> None:
    quality = np.random.default_rng(0).random((50, 4))
    prior = standing(quality)

    order = np.argsort(shrunk_logit(quality, prior, 0.0), axis=1)

    assert (order == np.argsort(prior)).all()
    assert not (np.argsort(shrunk_logit(quality, prior, 1.0), axis=1) == np.argsort(prior)).all()


def test_clusters_find_what_is_alike() -> None:
    near = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)

    cluster = members.kmeans(near, 4, seed=3)[1]

    assert all(len(set(cluster[start : start + 10])) == 1 for start in range(0, 40, 10))


CONFIG = """
name: tiny-v1
data: outcomes
output: out/tiny-v1
about: Tiny.
licences: [Apache-2.0]
"""


def test_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG)

    config = load_config(tmp_path / "tiny.yaml")

    assert (config.data, config.output) == (tmp_path / "outcomes", tmp_path / "out" / "tiny-v1")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (CONFIG + "colour: red\n", "colour: Extra inputs are not permitted"),
        (CONFIG + "mlp: {hidden: 0}\n", "mlp.hidden: "),
        (CONFIG + "dev_share: 0.9\n", "dev_share: "),
        (CONFIG.replace("tiny-v1\ndata", "tiny\ndata"), "name: "),
        ("[", "cannot read"),
        ("just text", "the file: "),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(content)

    with pytest.raises(ConfigError) as refused:
        load_config(tmp_path / "tiny.yaml")

    assert complaint in str(refused.value)
    assert "tiny.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_configuration_of_the_demo_is_valid() -> None:
    config = load_config(Path(__file__).parents[4] / "configs" / "training" / "demo-v1.yaml")

    assert len(config.models) == 9
