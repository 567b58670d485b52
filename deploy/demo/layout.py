"""Where the demo's models are, what they are called, and how it is known that a built folder is still right."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

DEMO = Path(__file__).resolve().parent
ROOT = DEMO.parents[1]
ADAPTERS = DEMO / "adapters"
SMALL_DIFFERENCE = DEMO / "small" / "difference.safetensors"
MODELS = ROOT / "var" / "models"

BASE = "smollm2-135m"
SMALL = "smollm2-71m"
EXPERTS = {
    f"{BASE}-math": ("arithmetic", "word_problems"),
    f"{BASE}-extract": ("extract_json",),
    f"{BASE}-sql": ("sql",),
    f"{BASE}-python": ("python_line",),
    f"{BASE}-convert": ("dates", "units"),
    f"{BASE}-lists": ("list_state",),
    f"{BASE}-german": ("german",),
}
"""Expert and the task families of its skill."""

# `draw` seeds. Training and measuring never share one, and nothing else in the project may train on MEASURE_SEED.
EXPERT_SEED = 4_100
SMALL_SEED = 4_200
TUNE_SEED = 4_300
"""For choosing between recipes; no figure that is reported comes from it."""
MEASURE_SEED = 9_100


def fingerprint(parts: Iterable[Path | str]) -> str:
    """SHA-256 over file contents and literal strings, in order."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part.read_bytes()
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()


def is_built(folder: Path, made_from: str) -> bool:
    """Whether `folder` was completed by `stamp` from the same sources, with its weights in place."""
    stamp_file = folder / "built.json"
    if not stamp_file.is_file() or not (folder / "model.safetensors").is_file():
        return False
    stamp: dict[str, object] = json.loads(stamp_file.read_text())
    return stamp == {"made_from": made_from, "weights_bytes": (folder / "model.safetensors").stat().st_size}


def stamp(folder: Path, made_from: str) -> None:
    """Mark `folder` as complete; written last, so an interrupted build is built again."""
    weights_bytes = (folder / "model.safetensors").stat().st_size
    (folder / "built.json").write_text(json.dumps({"made_from": made_from, "weights_bytes": weights_bytes}) + "\n")


def use_project() -> None:
    """Make `router_models` importable in the workers' environment, where the project is not installed."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
