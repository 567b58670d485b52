"""Trains the demo's experts: one small LoRA adapter of the base per skill.

    .venv-vllm/bin/python deploy/demo/train_experts.py                                  all of them
    .venv-vllm/bin/python deploy/demo/train_experts.py smollm2-135m-sql                 one

Rank 8 on the attention's q and v: 0.46 million numbers in 0.92 MB, small enough to commit, and the cheapest form for
a worker to serve. The base stays in bfloat16, the adapter is trained in float32; only seen wordings are used, and the
loss is on the answer alone. Seeded: on the same machine and thread count the same adapter comes out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from base import build_base
from layout import ADAPTERS, BASE, EXPERT_SEED, EXPERTS, MODELS
from peft import LoraConfig, get_peft_model
from practice import answer_loss, batches, draw_practice, warm_cosine
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

RANK = 8
ALPHA = 16
LEARNING_RATE = 2e-3
BATCH = 8
CLIP = 1.0

STEPS = {
    f"{BASE}-math": 260,
    f"{BASE}-extract": 50,
    f"{BASE}-sql": 80,
    f"{BASE}-python": 80,
    f"{BASE}-convert": 300,
    f"{BASE}-lists": 220,
    f"{BASE}-german": 120,
}
"""One to six CPU-minutes each; the two-family skills and the ones learnt slowest get the most."""


def train(expert: str, target: Path, progress: Progress) -> dict[str, float]:
    """Train one adapter and save it in PEFT's layout; returns what it took."""
    begin = time.monotonic()
    steps = STEPS[expert]
    torch.manual_seed(EXPERT_SEED)

    tokenizer = AutoTokenizer.from_pretrained(MODELS / BASE)
    base = AutoModelForCausalLM.from_pretrained(MODELS / BASE, dtype=torch.bfloat16, attn_implementation="eager")
    form = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, form)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, steps))

    items = draw_practice(dict.fromkeys(EXPERTS[expert], 1.0), seed=EXPERT_SEED, count=steps * BATCH)
    task = progress.add_task(expert, total=steps, loss=float("nan"))
    smooth = float("nan")
    model.train()
    for batch in batches(items, tokenizer, BATCH, EXPERT_SEED):
        loss = answer_loss(model.get_base_model(), batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        smooth = loss.item() if smooth != smooth else 0.9 * smooth + 0.1 * loss.item()
        progress.update(task, advance=1, loss=smooth)

    save(model, target)
    return {"steps": steps, "loss": round(smooth, 4), "wall_s": round(time.monotonic() - begin, 1)}


def save(model: torch.nn.Module, target: Path) -> None:
    """adapter_model.safetensors in bfloat16 and adapter_config.json, without what differs from run to run."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        tensors = load_file(Path(folder) / "adapter_model.safetensors")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    config["base_model_name_or_path"] = BASE
    config["target_modules"] = sorted(config["target_modules"])
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(halves, target / "adapter_model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Train the experts named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experts", nargs="*", metavar="EXPERT", help=", ".join(EXPERTS))
    parser.add_argument("--output", type=Path, default=ADAPTERS, help="folder of the adapters (%(default)s)")
    wanted = parser.parse_args()
    if unknown := set(wanted.experts) - set(EXPERTS):
        sys.exit(f"no such expert: {', '.join(sorted(unknown))}; there are {', '.join(EXPERTS)}")
    build_base(MODELS / BASE)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    with Progress(*columns, TimeRemainingColumn()) as progress:
        for expert in wanted.experts or EXPERTS:
            took = train(expert, wanted.output / expert, progress)
            print(json.dumps({"expert": expert, **took}), flush=True)


if __name__ == "__main__":
    main()
