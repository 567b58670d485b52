"""The evaluation's figures as PNG files. A figure whose numbers are missing is not drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import numpy as np
from matplotlib import pyplot as plt

from router_models.evaluation.contest import OURS
from router_models.evaluation.learners import CLUSTERS, HAND, NEIGHBOURS, TFIDF
from router_models.evaluation.policies import BEST_SINGLE, CHEAPEST, ORACLE, PROMPT_LENGTH, RANDOM, TASK_TABLE

SINGLES = "single models"
# Distinguishable without colour vision (Okabe and Ito); ours is black.
COLOURS = {
    OURS: "#000000",
    TASK_TABLE: "#E69F00",
    PROMPT_LENGTH: "#999999",
    HAND: "#F0E442",
    TFIDF: "#56B4E9",
    NEIGHBOURS: "#009E73",
    CLUSTERS: "#CC79A7",
    SINGLES: "#D55E00",
}
MARKERS = {RANDOM: "x", CHEAPEST: "v", BEST_SINGLE: "s", ORACLE: "*"}
INCHES = (7.0, 4.5)
# Tasks in one figure; with more, those with most prompts.
MOST_TASKS = 24
# More models than these are not named beside their points.
MOST_NAMES = 12


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the figures of every set and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for set_name, figures in report["sets"].items():
        for name, figure in (
            ("cost-quality", trade_off(figures)),
            ("pareto-cost", pareto_cost(figures)),
            ("pareto-size", pareto_size(figures)),
            ("reliability", reliability(figures)),
            ("tasks", tasks(figures)),
            ("wins", wins(figures)),
            ("profiles", profiles(figures)),
        ):
            if figure is not None:
                path = folder / f"{name}-{set_name.replace('/', '-')}.png"
                figure.suptitle(f"{set_name}: {figures['prompts']} prompts", fontsize=10)
                figure.savefig(path, dpi=150)
                plt.close(figure)
                written.append(path)
    return written


def trade_off(figures: Mapping[str, Any]) -> Any:
    """Hulls of quality against cost, of every policy that predicts and of the single models, beside the fixed ones."""
    if not figures["curves"]:
        return None
    figure, axes = _axes("mean cost of a request, USD", "mean graded quality")
    for name, points in figures["curves"]["hulls"].items():
        style = {"linewidth": 1.8 if name == OURS else 1.1, "linestyle": "--" if name == SINGLES else "-"}
        axes.plot(*_filled(points), color=COLOURS[name], label=name, **style)
    _single_models(axes, figures, "cost_usd")
    for name, marker in MARKERS.items():
        policy = figures["policies"].get(name)
        if policy and policy["cost_usd"]:
            axes.plot(policy["cost_usd"][1], policy["quality"][1], marker, color="#D55E00", label=name)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    return figure


def _filled(points: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """A hull with points between its vertices: what is straight in dollars is bent on a logarithmic axis."""
    cost_H, quality_H = np.array(points).T
    between = np.concatenate([cost_H, *(np.linspace(*pair, 20) for pair in pairwise(cost_H))])
    return np.sort(between), np.interp(np.sort(between), cost_H, quality_H)


def pareto_cost(figures: Mapping[str, Any]) -> Any:
    """What every weight on cost does, and the front of the single models."""
    if not figures["curves"]:
        return None
    points = [(point["cost_usd"], point["quality"]) for point in figures["curves"]["settings"]]
    return _pareto(figures, points, "cost_usd", "mean cost of a request, USD")


def pareto_size(figures: Mapping[str, Any]) -> Any:
    """What every weight on size does, and the front of the single models."""
    points = [(point["size_b"], point["quality"]) for point in figures["size_curve"]]
    return _pareto(figures, points, "size_b", "mean size of the chosen model, billions") if points else None


def _pareto(figures: Mapping[str, Any], ours: Sequence[tuple[float, float]], axis: str, label: str) -> Any:
    figure, axes = _axes(label, "mean graded quality")
    singles = [(model[axis], model["quality"]) for model in figures["per_model"].values() if model[axis] is not None]
    axes.plot(*zip(*ours, strict=True), ".", color=COLOURS[OURS], alpha=0.35, markersize=4)
    axes.plot(*zip(*front(ours), strict=True), color=COLOURS[OURS], label=f"{OURS}, weight from 0 up")
    if singles:
        # To the right edge: with the best single model, spending more buys nothing.
        best = [*front(singles), (max(spent for spent, _ in singles), front(singles)[-1][1])]
        axes.step(*zip(*best, strict=True), color=COLOURS[SINGLES], where="post", label="front of the single models")
    _single_models(axes, figures, axis)
    axes.legend(fontsize=7, loc="upper left")
    return figure


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (spent, quality) that nothing beats in both, cheapest first."""
    kept: list[tuple[float, float]] = []
    for spent, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((spent, quality))
    return kept


def reliability(figures: Mapping[str, Any]) -> Any:
    """Observed rate against predicted quality, in bins of equal size."""
    points = figures["calibration"]["reliability"]
    if not points:
        return None
    figure, axes = _axes("predicted quality", "observed rate", logarithmic=False)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    axes.plot([p[0] for p in points], [p[1] for p in points], "o-", color="#000000", markersize=4)
    axes.set_title(f"expected calibration error {figures['calibration']['ece']:.3f}", fontsize=9)
    return figure


def tasks(figures: Mapping[str, Any]) -> Any:
    """Quality per task: the router model, the best single model, the oracle."""
    names = _shown_tasks(figures)
    figure, axes = _task_axes(figures, names)
    shown = ((OURS, "#000000"), (BEST_SINGLE, "#D55E00"), (ORACLE, "#CCCCCC"))
    for offset, (policy, colour) in enumerate(shown):
        values = [figures["by_task"][task][policy] for task in names]
        axes.barh([row + 0.27 * (1 - offset) for row in range(len(names))], values, 0.25, color=colour, label=policy)
    axes.set_xlabel("mean graded quality")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=3)
    return figure


def wins(figures: Mapping[str, Any]) -> Any:
    """Quality won and lost per task against the best single model, and against the task-name table."""
    names = _shown_tasks(figures)
    figure, axes = _task_axes(figures, names)
    against = [name for name in (BEST_SINGLE, TASK_TABLE) if name in figures["policies"]]
    for offset, name in enumerate(against):
        values = [figures["by_task"][task][OURS] - figures["by_task"][task][name] for task in names]
        colour = COLOURS.get(name, "#D55E00")
        axes.barh([row + 0.2 - 0.4 * offset for row in range(len(names))], values, 0.36, color=colour, label=name)
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.set_xlabel("quality of the router model minus that of")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=2)
    return figure


def profiles(figures: Mapping[str, Any]) -> Any:
    """Mean score of every model on every task: observed, predicted, and the difference."""
    names, models = _shown_tasks(figures), list(figures["per_model"])
    cells = np.array([[figures["profiles"][task][model] for task in names] for model in models], dtype=float)
    size = (2 + 0.75 * len(names) + 4, 1.6 + 0.17 * len(models))
    figure, panels = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained")
    shown = (("observed", cells[:, :, 0]), ("predicted", cells[:, :, 1]), ("predicted - observed", None))
    for axes, (title, values) in zip(panels, shown, strict=True):
        apart = values is None
        values = cells[:, :, 1] - cells[:, :, 0] if values is None else values
        ends = {"cmap": "PuOr", "vmin": -0.3, "vmax": 0.3} if apart else {"cmap": "viridis", "vmin": 0, "vmax": 1}
        image = axes.imshow(values, aspect="auto", **ends)
        axes.set_title(title, fontsize=8)
        axes.set_xticks(range(len(names)), names, fontsize=6, rotation=90)
        axes.set_yticks(range(len(models)), models, fontsize=6)
        figure.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=6)
    return figure


def _shown_tasks(figures: Mapping[str, Any]) -> list[str]:
    by_task = figures["by_task"]
    most = sorted(by_task, key=lambda task: -by_task[task]["prompts"])[:MOST_TASKS]
    return [task for task in by_task if task in most]


def _task_axes(figures: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=(INCHES[0], max(2.5, 0.42 * len(names) + 1)), layout="constrained")
    labels = [f"{task} ({figures['by_task'][task]['prompts']})" for task in names]
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.invert_yaxis()
    return figure, axes


def _axes(across: str, up: str, logarithmic: bool = True) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=INCHES, layout="constrained")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.25)
    axes.margins(x=0.2)
    if logarithmic:
        axes.set_xscale("log")
    return figure, axes


def _single_models(axes: Any, figures: Mapping[str, Any], axis: str) -> None:
    named = len(figures["per_model"]) <= MOST_NAMES
    for name, model in figures["per_model"].items():
        if model[axis] is not None and model["quality"] is not None:
            place = (model[axis], model["quality"])
            axes.plot(*place, "o", color="#0072B2", markersize=4)
            if named:
                axes.annotate(name, place, fontsize=6, xytext=(4, 2), textcoords="offset points")
