"""The demo's smaller model: some of the base's layers, plus a trained low-rank difference small enough to commit.

    .venv-vllm/bin/python deploy/demo/small.py

How it works: the layers in KEPT are copied and renumbered; to each of their linear weights W, `down @ up` of the
difference is added. What comes out is an ordinary Llama folder; the worker serves it without knowing any of this.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import torch
from layout import BASE, MODELS, SMALL, SMALL_DIFFERENCE, fingerprint, is_built, stamp
from safetensors.torch import load_file, save_file

FORM = "1"
"""Raise it when what this file writes changes: folders built before are then built again."""

KEPT = (0, 1, 2, 8, 9, 11, 20, 22, 24, 27, 28, 29)
"""Layers of the base; train_small.py says what else was tried."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def build_small(folder: Path) -> bool:
    """Write the model folder; False if it was there already. The base has to be there."""
    base = MODELS / BASE
    made_from = fingerprint([base / "built.json", SMALL_DIFFERENCE, FORM, str(KEPT)])
    if is_built(folder, made_from):
        return False
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = add_difference(keep_layers(load_file(base / "model.safetensors")), load_file(SMALL_DIFFERENCE))
    save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text()) | {"num_hidden_layers": len(KEPT)}
    (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        shutil.copyfile(base / name, temporary / name)
    stamp(temporary, made_from)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return True


def keep_layers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of the layers kept, renumbered from 0, and everything outside the layers."""
    new_number = {str(old): str(new) for new, old in enumerate(KEPT)}
    kept = {}
    for name, tensor in weights.items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer is None:
            kept[name] = tensor
        elif layer[1] in new_number:
            kept[f"model.layers.{new_number[layer[1]]}.{name[layer.end() :]}"] = tensor
    return kept


def add_difference(weights: dict[str, torch.Tensor], difference: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """W + down @ up for every weight that the difference names, summed in float32."""
    changed = dict(weights)
    for name in {key.rsplit(".", 1)[0] for key in difference}:
        product = difference[f"{name}.down"].float() @ difference[f"{name}.up"].float()
        changed[f"{name}.weight"] = (weights[f"{name}.weight"].float() + product).to(torch.bfloat16)
    return changed


if __name__ == "__main__":
    begin = time.monotonic()
    done = "built" if build_small(MODELS / SMALL) else "already there"
    print(f"{SMALL}: {done}, {time.monotonic() - begin:.1f} s ({MODELS / SMALL})")
