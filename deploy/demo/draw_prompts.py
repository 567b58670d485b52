"""Draws the prompts that the demo's router learns from and is measured on, as a JSONL file for `thalamus collect`.

    .venv/bin/python deploy/demo/draw_prompts.py var/collect/prompts.jsonl

Three splits: `train` and `test` with the wordings that experts were trained on, `unseen` with wordings that nothing was
trained on. No prompt is in two splits, and none is one that a model was trained on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Literal

from layout import EXPERT_SEED, SMALL_SEED, TUNE_SEED, use_project

use_project()

from router_models.aptitude import FAMILIES, Item, draw  # noqa: E402  # importable only after use_project

Wording = Literal["seen", "unseen"]
SPLITS: tuple[tuple[str, int, int, Wording], ...] = (
    ("train", 9_200, 180, "seen"),
    ("test", 9_300, 200, "seen"),
    ("unseen", 9_400, 40, "unseen"),
)
"""Name, seed, items per family, wording."""
TRAINED_ON = 2_400
"""Items per family that no training run draws more of."""


def draw_splits() -> dict[str, list[Item]]:
    """Items by split, in family order."""
    splits: dict[str, list[Item]] = {name: [] for name, *_ in SPLITS}
    for family in FAMILIES:
        taken = {
            item.prompt
            for seed in (EXPERT_SEED, SMALL_SEED, TUNE_SEED)
            for item in draw(family, seed=seed, count=TRAINED_ON)
        }
        for name, seed, count, wording in SPLITS:
            fresh = [
                item for item in draw(family, seed=seed, count=4 * count, wording=wording) if item.prompt not in taken
            ]
            if len(fresh) < count:
                raise SystemExit(f"{family} has only {len(fresh)} fresh items for {name}, {count} are wanted")
            splits[name] += fresh[:count]
            taken.update(item.prompt for item in fresh[:count])
    return splits


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "prompt_id": item.item_id,
            "dataset": "aptitude",
            "task": item.family,
            "prompt": item.prompt,
            "reference": item.reference,
            "grader": item.grader,
            "max_tokens": item.max_tokens,
            "split": split,
            "level": item.level,
        }
        for split, items in draw_splits().items()
        for item in items
    ]
    output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} prompts in {output}")


if __name__ == "__main__":
    main()
