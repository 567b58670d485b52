"""Trains the demo's smaller model: heals the layers kept with a low-rank difference on every linear weight.

    .venv-vllm/bin/python deploy/demo/train_small.py

The base's other layers are gone, and with them most of what it knew: the practice below teaches it several skills and
leaves out others, so it is good at some things, cheap at all, and best at few. The frozen weights stay in bfloat16, the
difference is trained in float32. Seeded; only seen wordings; the loss is on the answer alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from base import build_base
from layout import BASE, MODELS, SMALL_DIFFERENCE, SMALL_SEED
from peft import LoraConfig, get_peft_model
from practice import answer_loss, batches, draw_practice, warm_cosine
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from small import KEPT
from transformers import AutoModelForCausalLM, AutoTokenizer

RANK = 32
ALPHA = 32
LEARNING_RATE = 4e-3
BATCH = 16
STEPS = 500
CLIP = 1.0
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

SHARES = {
    "extract_json": 1.0,
    "sql": 1.0,
    "dates": 1.0,
    "units": 1.0,
    "arithmetic": 1.0,
    "list_state": 0.5,
    "python_line": 0.5,
}
"""Practice by family. Word problems, German and general facts are left to others."""


def kept_layers_of_base(kept: tuple[int, ...]) -> torch.nn.Module:
    """The base without the layers that are not kept."""
    model = AutoModelForCausalLM.from_pretrained(MODELS / BASE, dtype=torch.bfloat16, attn_implementation="eager")
    model.model.layers = torch.nn.ModuleList([model.model.layers[number] for number in kept])
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number
    model.config.num_hidden_layers = len(kept)
    return model


def save(model: torch.nn.Module, target: Path) -> None:
    """The difference as `down` [out, rank] and `up` [rank, in] of every weight, the scale folded in, bfloat16."""
    tensors = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            own = name.removeprefix("base_model.model.")
            tensors[f"{own}.down"] = (module.lora_B["default"].weight * ALPHA / RANK).detach().to(torch.bfloat16)
            tensors[f"{own}.up"] = module.lora_A["default"].weight.detach().to(torch.bfloat16)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target)


def main() -> None:
    """Prune, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kept", default=",".join(map(str, KEPT)), help="layers of the base (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--output", type=Path, default=SMALL_DIFFERENCE)
    wanted = parser.parse_args()
    build_base(MODELS / BASE)
    begin = time.monotonic()
    torch.manual_seed(SMALL_SEED)

    tokenizer = AutoTokenizer.from_pretrained(MODELS / BASE)
    pruned = kept_layers_of_base(tuple(int(number) for number in wanted.kept.split(",")))
    form = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LINEAR, task_type="CAUSAL_LM")
    model = get_peft_model(pruned, form)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=wanted.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, wanted.steps))

    items = draw_practice(SHARES, seed=SMALL_SEED, count=(wanted.steps + 1) * BATCH)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
    )
    smooth = float("nan")
    model.train()
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task("smollm2-71m", total=wanted.steps, loss=smooth)
        for step, batch in enumerate(batches(items, tokenizer, BATCH, SMALL_SEED)):
            if step == wanted.steps:
                break
            loss = answer_loss(model.get_base_model(), batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            smooth = loss.item() if smooth != smooth else 0.9 * smooth + 0.1 * loss.item()
            progress.update(task, advance=1, loss=smooth)

    save(model, wanted.output)
    print(json.dumps({"steps": wanted.steps, "loss": round(smooth, 4), "wall_s": round(time.monotonic() - begin, 1)}))


if __name__ == "__main__":
    main()
