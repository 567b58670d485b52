"""Builds what the demo's workers serve, the base and the smaller model: in seconds, and nothing when it is there.

    .venv-vllm/bin/python deploy/demo/build_models.py

The experts need no building: their adapters are committed, and the worker loads them as they are.
"""

from __future__ import annotations

import time

from base import build_base
from layout import ADAPTERS, BASE, EXPERTS, MODELS, SMALL, SMALL_DIFFERENCE
from rich.console import Console
from small import build_small


def main() -> None:
    """Build what is missing, and say what was done."""
    missing = [
        file
        for file in (SMALL_DIFFERENCE, *(ADAPTERS / expert / "adapter_model.safetensors" for expert in EXPERTS))
        if not file.is_file()
    ]
    if missing:
        raise SystemExit(
            f"{missing[0]} is missing; it belongs to the checkout, or make it with train_experts.py, train_small.py"
        )
    console = Console(stderr=True)
    begin = time.monotonic()
    with console.status(f"Building {BASE} ..."):
        built = [BASE] if build_base(MODELS / BASE) else []
    with console.status(f"Building {SMALL} ..."):
        built += [SMALL] if build_small(MODELS / SMALL) else []
    what = f"{', '.join(built)} built" if built else "already there"
    console.print(f"Models in {MODELS}: {what}, {time.monotonic() - begin:.1f} s.")


if __name__ == "__main__":
    main()
