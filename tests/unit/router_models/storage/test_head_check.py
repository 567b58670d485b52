"""Heads that do not fit together are found before they serve, and it is said which tensor is wrong."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest

from router_models.heads.joined import LENGTHS, STORED
from router_models.heads.tryage import Speed
from router_models.joining.exam import exam_of
from router_models.joining.onboarding import onboard
from router_models.storage.head_check import misfit
from tests.fakes.artifacts import SIZE_F, tiny_artifact, tiny_dataset, tiny_pools_artifact

BOTH: tuple[Speed, ...] = ("static", "transformer")


def two_pools() -> dict[str, np.ndarray]:
    """Three models, two pools of two tasks and two rules, both encoders."""
    return dict(tiny_pools_artifact().heads)


@pytest.mark.parametrize("speeds", [("static",), ("transformer",), BOTH])
def test_heads_that_fit_pass(speeds: tuple[Speed, ...]) -> None:
    assert misfit(tiny_artifact(speeds=speeds).heads, speeds, 2) is None


def test_pools_pass() -> None:
    assert misfit(two_pools(), BOTH, 3) is None


@pytest.mark.parametrize(
    "speeds", [(), ("static", "static"), ("transformer", "static"), ("slow",), ("static", "slow"), (["static"],)]
)
def test_encoders_must_be_known_different_and_the_faster_one_first(speeds: tuple[Speed, ...]) -> None:
    assert str(misfit(two_pools(), speeds, 3)).startswith("its encoders are [")


def adapted() -> dict[str, np.ndarray]:
    """The same, adapted to own prompts."""
    flat, by_task = np.zeros(3, np.float32), np.zeros((4, 3), np.float32)
    return two_pools() | {
        **{f"adapted.{name}": flat for name in ("offset_C", "measured_C", "length_C")},
        **{f"adapted.{name}": by_task for name in ("kind_TC", "length_TC")},
        "adapted.slope_2": np.ones(2, np.float32),
    }


@pytest.mark.parametrize("name", [name for name in adapted() if name.startswith("adapted.")])
def test_an_adaptation_is_whole_and_about_all_models(name: str) -> None:
    without = {other: tensor for other, tensor in adapted().items() if other != name}

    assert misfit(adapted(), BOTH, 3) is None
    assert misfit(without, BOTH, 3) == f"tensor {name} is missing"
    if name.endswith("C"):
        short = adapted() | {name: adapted()[name][..., :2]}
        assert misfit(short, BOTH, 3) == "its adaptation is not about 3 models"


@pytest.mark.parametrize("name", sorted(two_pools()))
def test_every_tensor_is_needed(name: str) -> None:
    heads = {other: tensor for other, tensor in two_pools().items() if other != name}

    assert misfit(heads, BOTH, 3) == f"tensor {name} is missing"


@pytest.mark.parametrize(
    ("name", "speeds"),
    [
        ("quality.surprise_M", BOTH),
        ("transformer.hidden_bias_F", BOTH),
        ("transformer.mean_F", ("static",)),
        ("static.platt_2P", ("transformer",)),
    ],
)
def test_a_tensor_too_many_is_named(name: str, speeds: tuple[Speed, ...]) -> None:
    heads = {**tiny_artifact(speeds=speeds).heads, name: np.zeros(2, np.float32)}

    assert misfit(heads, speeds, 2) == f"tensor {name} is not expected"


@pytest.mark.parametrize("name", sorted(two_pools()))
def test_every_tensor_must_have_the_rank_that_its_name_says(name: str) -> None:
    tensor = two_pools()[name]

    assert misfit({**two_pools(), name: tensor[None]}, BOTH, 3) == f"tensor {name} has shape {(1, *tensor.shape)}"


EVERY_AXIS = [(name, axis) for name, tensor in sorted(two_pools().items()) for axis in range(tensor.ndim)]
# Nothing else says how many clusters there are. Whether their size is the encoder's, the predictor finds out.
FREE = {(f"{speed}.center_KD", axis) for speed in BOTH for axis in (0, 1)}


@pytest.mark.parametrize(("name", "axis"), [each for each in EVERY_AXIS if each not in FREE])
def test_every_size_must_agree_with_the_others(name: str, axis: int) -> None:
    tensor = two_pools()[name]
    longer = np.concatenate([tensor, np.take(tensor, [0], axis)], axis)

    assert misfit({**two_pools(), name: longer}, BOTH, 3) is not None


@pytest.mark.parametrize("name", ["tokens.known_R", "static.center_KD", "layout.pool_R"])
def test_nothing_may_be_empty(name: str) -> None:
    assert misfit({**two_pools(), name: two_pools()[name][:0]}, BOTH, 3) is not None


@pytest.mark.parametrize(
    ("name", "changed", "complaint"),
    [
        ("layout.pool_T", [0, 0, 1, -1], "names a pool or a model that it does not have"),
        ("layout.pool_R", [0, 0, 1, -1], "names a pool or a model that it does not have"),
        ("layout.pool_R", [0, 0, 1, 2], "names a pool or a model that it does not have"),
        ("layout.model_R", [0, 2, 1, 3], "names a pool or a model that it does not have"),
        ("layout.model_R", [0, 2, 1, -1], "names a pool or a model that it does not have"),
        ("layout.pool_R", [0, 0, 0, 0], "has a pool without models or without tasks"),
        ("layout.model_R", [0, 2, 1, 1], "has a rule twice, or a model without one"),
        ("layout.model_R", [0, 2, 0, 2], "has a rule twice, or a model without one"),
    ],
)
def test_a_layout_that_leads_nowhere_is_refused(name: str, changed: list[int], complaint: str) -> None:
    assert misfit({**two_pools(), name: np.array(changed, np.int32)}, BOTH, 3) == f"its layout {complaint}"


@pytest.mark.parametrize(
    "changes",
    [
        {"layout.pool_T": [0, 0, 1, 2**31 - 1]},
        {"layout.pool_T": [0, 0, 1, 20_000_000]},
        {"layout.pool_T": [0, 0, 1, 2**31 - 1], "layout.pool_R": [0, 0, 1, 2**31 - 1]},
    ],
)
def test_a_layout_of_countless_pools_is_refused_at_once(changes: Mapping[str, list[int]]) -> None:
    heads = {**two_pools(), **{name: np.array(changed, np.int32) for name, changed in changes.items()}}

    complaint, second_mib = measured(heads, BOTH, 3)

    assert complaint == "its layout has a pool without models or without tasks"
    assert max(second_mib) < 1, "second, and MiB"


def test_a_layout_that_serving_would_lay_out_in_gigabytes_is_refused_at_once() -> None:
    """A thousand pools of a task each, and a model in each: five megabytes as a file, four gigabytes laid out."""
    many = np.arange(1_000, dtype=np.int32)
    heads = {"layout.pool_T": many, "layout.pool_R": many, "layout.model_R": many}

    with_the_rest = {**tiny_artifact(speeds=("static",)).heads, **heads}
    for name, tensor in with_the_rest.items():
        letters = name.rpartition("_")[2]
        sizes = {"T": 1_000, "P": 1_000, "R": 1_000, "M": 1_000, "O": 3_000}
        shape = tuple(sizes.get(letter, size) for letter, size in zip(letters, tensor.shape, strict=True))
        if name not in heads:
            with_the_rest[name] = np.ones(shape, tensor.dtype)

    complaint, (took_s, took_mib) = measured(with_the_rest, ("static",), 1_000)

    assert complaint == "its layout has more than 4194304 places of a model within a task"
    assert took_s < 1
    assert took_mib < 16


def measured(heads: Mapping[str, np.ndarray], speeds: tuple[Speed, ...], models: int) -> tuple[str | None, list[float]]:
    """What is wrong, and the seconds and the MiB that it took to say so."""
    tracemalloc.start()
    began = time.process_time()
    try:
        complaint = misfit(heads, speeds, models)
        return complaint, [time.process_time() - began, tracemalloc.get_traced_memory()[1] / 2**20]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
@pytest.mark.parametrize("name", ["layout.pool_T", "layout.pool_R", "layout.model_R"])
def test_a_layout_must_count_in_numbers_that_can_be_counted_with(name: str, kind: type[np.generic]) -> None:
    """Half a pool leads nowhere, and pool 3 of 86 models starts beyond the last uint8."""
    complaint = misfit({**two_pools(), name: two_pools()[name].astype(kind)}, BOTH, 3)

    assert complaint == "its layout holds something else than int32"


@pytest.mark.parametrize(
    ("pool_T", "complaint"),
    [
        ([0, 0, 1, 1], "tensor full.platt_2P has size 3; expected 2"),
        ([0, 0, 2, 2], "its layout has a pool without models or without tasks"),
    ],
)
def test_whatever_counts_pools_counts_those_of_the_tasks(pool_T: list[int], complaint: str) -> None:
    """Maps and trust are made for three pools."""
    heads = two_pools()
    names = [f"{stage}.{kind}" for stage in ("static", "full") for kind in ("platt_2P", "trust_P")]
    more = {name: np.concatenate([heads[name], heads[name][..., :1]], axis=-1) for name in names}

    found = misfit({**heads, **more, "layout.pool_T": np.array(pool_T, np.int32)}, BOTH, 3)

    assert found == complaint


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_an_input_is_never_divided_by_nothing(scale: float) -> None:
    scale_F = np.ones(SIZE_F, np.float32)
    scale_F[3] = scale

    complaint = misfit({**two_pools(), "static.scale_F": scale_F}, BOTH, 3)

    assert complaint == "tensor static.scale_F holds a scale that is not above 0"


@pytest.mark.parametrize(
    ("stage", "speeds", "expected"), [("static", BOTH, 5), ("full", BOTH, 9), ("full", ("static",), 5)]
)
def test_an_alarm_has_a_weight_for_each_figure_of_each_encoder(
    stage: str, speeds: tuple[Speed, ...], expected: int
) -> None:
    heads: Mapping[str, np.ndarray] = tiny_artifact(speeds=speeds).heads
    short = {**heads, f"{stage}.alarm_A": heads[f"{stage}.alarm_A"][:-1]}

    assert misfit(short, speeds, 2) == f"tensor {stage}.alarm_A has size {expected - 1}; expected {expected}"


@pytest.mark.parametrize("models", [2, 4])
def test_models_that_are_named_elsewhere_must_be_as_many(models: int) -> None:
    assert f"M should be {models}" in str(misfit(two_pools(), BOTH, models))


def with_joined() -> dict[str, np.ndarray]:
    """Two pools and a model that joined."""
    artifact = tiny_pools_artifact(rows=60)
    exam = exam_of(artifact, ("adder",), "graded", tiny_dataset(), 20, seed=1)
    return dict(onboard(artifact, ("adder",), exam, "tiny-v2", seed=1)[0].heads)


def test_a_model_that_joined_passes() -> None:
    assert misfit(with_joined(), BOTH, 4) is None


@pytest.mark.parametrize("name", [*STORED.values(), *LENGTHS])
def test_every_tensor_of_models_that_joined_is_checked(name: str) -> None:
    heads = with_joined()

    missing = misfit({each: tensor for each, tensor in heads.items() if each != name}, BOTH, 4)
    of_another_size = misfit({**heads, name: np.concatenate([heads[name], heads[name]])}, BOTH, 4)

    assert missing is not None
    assert "joined." in missing
    assert of_another_size is not None


def test_models_that_joined_are_described_by_all_old_ones() -> None:
    heads = with_joined()
    heads["joined.weight_JM"] = heads["joined.weight_JM"][:, :2]

    assert misfit(heads, BOTH, 4) == "tensor joined.weight_JM has shape (1, 2); M should be 3"


def test_the_manifest_must_name_models_that_joined() -> None:
    assert misfit(with_joined(), BOTH, 3) is not None
