"""What `thalamus journal export` says in the end: what was written, what was left out and why, and what comes next."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.collect.rated import Written


def report(folder: Path | None, requests: int, found: Written, *, as_json: bool) -> None:
    """Say it; `folder` has the outcomes dataset, if one was asked for."""
    prompts = different_prompts(folder) if folder else Counter[str]()
    if as_json:
        _print_json(requests, found, prompts)
        return
    print(f"{requests} requests, {found.rated} of them rated")
    if folder is None:
        return
    _report_left_out(folder, found)
    if found.kept:
        print(f"Kept {found.kept} of earlier exports")
    if found.by_name:
        print(f"Which model answered {found.by_name} of them is not recorded: it is taken for what has its name now")
    _report_next(folder, prompts)


def different_prompts(folder: Path) -> Counter[str]:
    """How many different prompts a dataset has of each model, as everything counts that learns from it."""
    from router_models.outcomes.dataset import read_outcomes
    from router_models.outcomes.questions import one_per_question

    return Counter(one_per_question(read_outcomes(folder, may_be_empty=True)).outcomes["model"].to_pylist())


def _print_json(requests: int, found: Written, prompts: Counter[str]) -> None:
    from app.collect.rated import REASONS

    left_out = {reason.name: found.left_out.get(reason.name, 0) for reason in REASONS}
    more = {"kept": found.kept, "by_name": found.by_name, "prompts": prompts}
    print(json.dumps({"requests": requests, "rated": found.rated, **left_out, **more}))


def _report_left_out(folder: Path, found: Written) -> None:
    from app.collect.rated import REASONS

    counts = [(found.left_out.get(reason.name, 0), reason.words) for reason in REASONS]
    if left_out := "; ".join(f"{count}, for {words}" for count, words in counts if count):
        print(f"Not in {folder}: {left_out}")


def _report_next(folder: Path, prompts: Counter[str]) -> None:
    """What there is to learn from, and how much of it whoever learns from it wants."""
    from router_models.adapting.verdict import LEAST_MODELS, LEAST_PROMPTS
    from router_models.joining.exam import LEAST_SHOTS

    if not prompts:
        wanted = "answers to keys with `keeps_bodies: true`"
        print(f"{folder} has no rated prompts. Next: have {wanted} rated, at POST /v1/routing/feedback")
        return
    counted = ", ".join(f"{count} of {model}" for model, count in prompts.most_common())
    print(f"{folder} has different rated prompts: {counted}")
    print(
        f"Next: thalamus onboard MODEL --outcomes {folder} --artifact ARTIFACT --output NEW, with {LEAST_SHOTS} of the "
        f"model that joins; thalamus train --base ARTIFACT --data {folder} --output NEW, with {LEAST_PROMPTS} of each "
        f"model for lengths; for whom to choose it needs {LEAST_PROMPTS} that {LEAST_MODELS} models answered: thalamus "
        f"collect --prompts {folder} asks them"
    )
