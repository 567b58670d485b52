"""The evaluation's figures as PNG files. A figure whose numbers are missing is not drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib import pyplot as plt

from router_models.evaluation.evaluate import OURS

# Distinguishable without colour vision (Okabe and Ito); ours is black.
COLOURS = {
    OURS: "#000000",
    "task-name table": "#E69F00",
    "prompt length": "#999999",
    "TF-IDF + logistic": "#56B4E9",
    "kNN, k=100": "#009E73",
}
INCHES = (7.0, 4.5)


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the figures of every split and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split, figures in report["splits"].items():
        for name, figure in (
            ("cost-quality", trade_off(figures, "cost_curves", "cost_usd", "mean cost of a request, USD")),
            ("pareto-cost", pareto(figures, "cost_curves", "cost_usd", "mean cost of a request, USD")),
            ("pareto-size", pareto(figures, "size_curves", "size_b", "mean size of the chosen model, billions")),
            ("reliability", reliability(figures)),
            ("tasks", tasks(figures)),
        ):
            if figure is not None:
                path = folder / f"{name}-{split}.png"
                figure.suptitle(f"{split}: {figures['prompts']} prompts", fontsize=10)
                figure.savefig(path, dpi=150)
                plt.close(figure)
                written.append(path)
    return written


def trade_off(figures: Mapping[str, Any], curves: str, axis: str, label: str) -> Any:
    """Quality against what is spent, for every policy that predicts, beside the single models and fixed policies."""
    if not figures[curves]:
        return None
    figure, axes = _axes(label, "mean graded quality")
    for name, points in figures[curves].items():
        axes.plot(*_columns(points), color=COLOURS[name], label=name, linewidth=1.8 if name == OURS else 1.1)
    _single_models(axes, figures, axis)
    for name, marker in (("random", "x"), ("always the best", "s"), ("oracle", "*")):
        policy = figures["policies"][name]
        if axis == "cost_usd" and policy["cost_usd"]["mean"] is not None:
            axes.plot(policy["cost_usd"]["mean"], policy["quality"]["mean"], marker, color="#D55E00", label=name)
    axes.legend(fontsize=7)
    return figure


def pareto(figures: Mapping[str, Any], curves: str, axis: str, label: str) -> Any:
    """The front the router model walks as the weight grows, and the front of the single models."""
    if not figures[curves]:
        return None
    figure, axes = _axes(label, "mean graded quality")
    ours = [(point["spent"], point["quality"]) for point in figures[curves][OURS]]
    singles = [(model[axis], model["quality"]) for model in figures["models"].values() if model[axis] is not None]
    axes.plot(*zip(*ours, strict=True), ".", color="#000000", alpha=0.35, markersize=4)
    axes.plot(*zip(*front(ours), strict=True), color="#000000", label=f"{OURS}, weight from 0 up")
    if singles:
        # To the right edge: with the best single model, spending more buys nothing.
        best = [*front(singles), (max(spent for spent, _ in singles), front(singles)[-1][1])]
        axes.step(*zip(*best, strict=True), color="#D55E00", where="post", label="front of the single models")
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
    figure, axes = _axes("predicted quality", "observed rate", logarithmic=False)
    points = figures["calibration"]["reliability"]
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    axes.plot([p[0] for p in points], [p[1] for p in points], "o-", color="#000000", markersize=4)
    axes.set_title(f"expected calibration error {figures['calibration']['ece']:.3f}", fontsize=9)
    return figure


def tasks(figures: Mapping[str, Any]) -> Any:
    """Quality per task: the router model, the best single model, the oracle."""
    names = list(figures["by_task"])
    figure, axes = plt.subplots(figsize=(INCHES[0], max(2.5, 0.42 * len(names) + 1)), layout="constrained")
    shown = ((OURS, "#000000"), ("always the best", "#D55E00"), ("oracle", "#CCCCCC"))
    for offset, (policy, colour) in enumerate(shown):
        values = [figures["by_task"][task][policy] for task in names]
        axes.barh([row + 0.27 * (1 - offset) for row in range(len(names))], values, 0.25, color=colour, label=policy)
    axes.set_yticks(
        range(len(names)), [f"{task} ({figures['by_task'][task]['prompts']})" for task in names], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlabel("mean graded quality")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=3)
    return figure


def _axes(across: str, up: str, logarithmic: bool = True) -> tuple[Any, Any]:
    figure, axes = plt.subplots(figsize=INCHES, layout="constrained")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.25)
    axes.margins(x=0.2)
    if logarithmic:
        axes.set_xscale("log")
    return figure, axes


def _columns(points: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float]]:
    return [point["spent"] for point in points], [point["quality"] for point in points]


def _single_models(axes: Any, figures: Mapping[str, Any], axis: str) -> None:
    for name, model in figures["models"].items():
        if model[axis] is not None and model["quality"] is not None:
            axes.plot(model[axis], model["quality"], "o", color="#0072B2", markersize=4)
            axes.annotate(name, (model[axis], model["quality"]), fontsize=6, xytext=(4, 2), textcoords="offset points")
