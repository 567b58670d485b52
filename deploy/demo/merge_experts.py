"""Merges each expert's adapter into a copy of the base: a folder of its own in var/models, for collecting many answers.

    .venv-vllm/bin/python deploy/demo/merge_experts.py [EXPERT ...]
    deploy/vllm/serve.sh smollm2-135m-sql 8103

A worker computes adapters apart from the base's weights, which costs CPU at every token; a merged copy costs 269 MB of
disk and a worker of its own instead. The demo itself serves adapters.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from base import build_base
from layout import ADAPTERS, BASE, EXPERTS, MODELS, fingerprint, is_built, stamp
from rich.progress import track
from safetensors.torch import load_file, save_file


def merge(expert: str, folder: Path) -> None:
    """Write the merged model unless it is there."""
    adapter = ADAPTERS / expert
    made_from = fingerprint([MODELS / BASE / "built.json", adapter / "adapter_model.safetensors"])
    if is_built(folder, made_from):
        return
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(MODELS / BASE, folder, ignore=shutil.ignore_patterns("built.json", "model.safetensors"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    weights = load_file(MODELS / BASE / "model.safetensors")
    parts = load_file(adapter / "adapter_model.safetensors")
    for name in (key for key in parts if key.endswith(".lora_A.weight")):
        own = name.removeprefix("base_model.model.").replace(".lora_A", "")
        product = parts[name.replace("lora_A", "lora_B")].float() @ parts[name].float()
        scaled = product * (config["lora_alpha"] / config["r"])
        weights[own] = (weights[own].float() + scaled).to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    stamp(folder, made_from)


def main() -> None:
    """Merge the experts named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experts", nargs="*", metavar="EXPERT", help=", ".join(EXPERTS))
    wanted = parser.parse_args()
    build_base(MODELS / BASE)
    for expert in track(wanted.experts or list(EXPERTS), description="Merging"):
        merge(expert, MODELS / expert)


if __name__ == "__main__":
    main()
