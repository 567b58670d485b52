"""What an exam showed of one model, as JSON and as a picture: skill by skill, with intervals, and in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from app.collect.rates import wilson
from app.exam.paper import FRESH
from app.exam.sitting import Sat
from router_models.joining.onboarding import Report

LIKE_NOBODY = "like none of them in particular"


def profile_of(sat: Sat, report: Report, artifact: str, seed: int) -> dict[str, Any]:
    """All of it, in plain types."""
    skills, tasks = _rates(sat, fresh=True), _rates(sat, fresh=False)
    return {
        "model": sat.model,
        "served_as": sat.target.served_as,
        "exam": {
            "artifact": artifact,
            "seed": seed,
            "asked": len(sat.replies),
            "counted": report.prompts,
            "of": len(sat.prompts),
            "spent_usd": round(sat.spent_usd, 6),
        },
        "sentence": sentence(report, skills),
        "expected_quality": report.expected_quality,
        "expected_quality_interval": list(report.expected_quality_interval),
        "mean_score": report.mean_score,
        "alike": list(report.alike),
        "is_informative": report.is_informative,
        "skills": skills,
        "anchors": tasks,
        "output_tokens": float(np.mean([sat.output_tokens(each) or 0.0 for each in sat.replies])),
        "median_latency_s": float(np.median([reply.latency_s for reply in sat.replies.values()])),
        "standings": [asdict(standing) for standing in sat.standings],
        "noticed": [asdict(fault) for fault in sat.faults],
    }


def sentence(report: Report, skills: Mapping[str, Mapping[str, Any]]) -> str:
    """Whom the model behaves like, and what it is good at."""
    low, high = report.expected_quality_interval
    words = (
        f"Behaves like {', '.join(report.alike) or LIKE_NOBODY}: expected quality {report.expected_quality:.2f} "
        f"[{low:.2f}, {high:.2f}]"
    )
    if skills:
        ranked = sorted(skills, key=lambda name: skills[name]["score"])
        best, worst = ranked[-1], ranked[0]
    if skills and skills[best]["interval"][0] > skills[worst]["interval"][1]:
        words += f"; best at {best} ({skills[best]['score']:.2f}), worst at {worst} ({skills[worst]['score']:.2f})"
    return words + "."


def _rates(sat: Sat, *, fresh: bool) -> dict[str, dict[str, Any]]:
    """Score by task, with Wilson's 90 % interval."""
    scores: dict[str, list[float]] = {}
    for prompt in sat.prompts:
        if prompt.prompt_id in sat.scores and (prompt.dataset == FRESH) == fresh:
            name = prompt.task if fresh else f"{prompt.dataset}/{prompt.task}"
            scores.setdefault(name, []).append(sat.scores[prompt.prompt_id])
    return {
        name: {"asked": len(own), "score": float(np.mean(own)), "interval": list(wilson(float(np.mean(own)), len(own)))}
        for name, own in sorted(scores.items())
    }


def write_profile(folder: Path, profile: Mapping[str, Any]) -> Path:
    """`<model>.json`, and `<model>.png` where matplotlib is installed; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{str(profile['model']).replace('/', '_')}.json"
    path.write_text(json.dumps(profile, indent=1) + "\n", encoding="utf-8")
    try:
        _draw(profile, path.with_suffix(".png"))
    except ModuleNotFoundError:
        path.with_suffix(".png").unlink(missing_ok=True)
    return path


def _draw(profile: Mapping[str, Any], path: Path) -> None:
    """Scores by skill on the left, how the expected quality narrowed on the right."""
    from matplotlib.figure import Figure

    rows: Sequence[tuple[str, Mapping[str, Any]]] = [*profile["anchors"].items(), *profile["skills"].items()]
    figure = Figure(figsize=(10, 0.28 * len(rows) + 2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (_, rate) in enumerate(rows):
        low, high = rate["interval"]
        left.plot([low, high], [place, place], color="tab:blue", linewidth=2)
        left.plot(rate["score"], place, "o", color="tab:blue", markersize=4)
    left.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    left.set(xlabel="score, with its 90 % interval", xlim=(0, 1), title=str(profile["model"]))
    counted = [standing["counted"] for standing in profile["standings"]]
    low_and_high = np.array([standing["interval"] for standing in profile["standings"]])
    right.plot(counted, [standing["mean"] for standing in profile["standings"]], "o-", color="tab:blue", markersize=3)
    right.fill_between(counted, low_and_high[:, 0], low_and_high[:, 1], alpha=0.2, color="tab:blue")
    right.set(xlabel="answers that count", ylabel="expected quality", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
