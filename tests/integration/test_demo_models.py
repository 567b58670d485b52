"""The committed parts of the demo's models: adapters that fit the base, and cards that tell the truth about them."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

DEMO = Path(__file__).resolve().parents[2] / "deploy/demo"
CARDS: dict[str, dict[str, Any]] = yaml.safe_load((DEMO / "cards.yaml").read_text())["models"]
CATALOGUE: dict[str, dict[str, Any]] = {
    model["name"]: model
    for model in yaml.safe_load((DEMO.parents[1] / "configs/demo-catalog.yaml").read_text())["models"]
}
EXPERTS = sorted(folder.name for folder in (DEMO / "adapters").iterdir())
BASE = "smollm2-135m"
LAYERS = 30
BASE_PARAMETERS = 134_515_008


def shapes_in(weights_file: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name → shape."""
    with safe_open(weights_file, "np") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


@pytest.mark.parametrize("expert", EXPERTS)
def test_an_adapter_is_rank_8_on_q_and_v_of_every_layer(expert: str) -> None:
    config = json.loads((DEMO / "adapters" / expert / "adapter_config.json").read_text())
    shapes = shapes_in(DEMO / "adapters" / expert / "adapter_model.safetensors")

    assert (config["base_model_name_or_path"], config["r"], config["target_modules"]) == (BASE, 8, ["q_proj", "v_proj"])
    assert len(shapes) == LAYERS * 2 * 2
    for layer in range(LAYERS):
        for projection, width in (("q_proj", 576), ("v_proj", 192)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{projection}"
            assert (shapes[f"{name}.lora_A.weight"], shapes[f"{name}.lora_B.weight"]) == ((8, 576), (width, 8))


def test_every_expert_has_a_card_and_the_base_and_the_smaller_model_too() -> None:
    assert sorted(CARDS) == sorted([BASE, "smollm2-71m", *EXPERTS])


@pytest.mark.parametrize("model", sorted(CARDS))
def test_a_card_names_the_weights_that_are_committed(model: str) -> None:
    for name, digest in CARDS[model]["sha256"].items():
        assert hashlib.sha256((DEMO / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("expert", EXPERTS)
def test_a_card_counts_the_adapter_s_parameters(expert: str) -> None:
    shapes = shapes_in(DEMO / "adapters" / expert / "adapter_model.safetensors")
    adapter = sum(math.prod(shape) for shape in shapes.values())

    assert CARDS[expert]["parameters_b"] == pytest.approx((BASE_PARAMETERS + adapter) / 1e9, abs=5e-7)


def test_the_low_rank_difference_is_small_enough_to_commit() -> None:
    assert (DEMO / "small/difference.safetensors").stat().st_size < 8_000_000


@pytest.mark.parametrize("name", CARDS)
def test_the_catalogue_says_what_the_card_says(name: str) -> None:
    entry = CATALOGUE[name]
    for fact in ("parameters_b", "released", "license", "context_tokens"):
        assert entry["card"][fact] == CARDS[name][fact], fact
    assert entry["price"]["self_hosted"]["tokens_per_s"] == CARDS[name]["tokens_per_s"]
    assert set(CARDS[name]["capabilities"]) <= set(entry["card"]["capabilities"])


def test_the_catalogue_lists_exactly_the_models_with_a_card() -> None:
    assert CATALOGUE.keys() == CARDS.keys()
