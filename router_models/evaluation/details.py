"""What is said of one set only: per task, per model, aptitude profiles, and curves for plots. JSON-ready values.

Legend of array suffixes: B prompts, P models of the pool, W settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from router_models.evaluation import metrics
from router_models.evaluation.contest import OURS, Stratum
from router_models.evaluation.frontier import SETTINGS, hulls
from router_models.evaluation.policies import chosen_column, take
from router_models.operating.curve import WEIGHTS
from router_models.operating.rows import CostScale

# Prompts of a group in which observed and predicted rates are compared.
COVERAGE_GROUP = 25


def details(
    stratum: Stratum, embedding_BD: np.ndarray, sizes_b: Mapping[str, float], size_scale: CostScale
) -> dict[str, Any]:
    """All of it; `embedding_BD` says which prompts are alike, `sizes_b` are billions of parameters by model."""
    trial = stratum.trial
    return {
        "set": trial.folder,
        "split": trial.split,
        "prompts_asked_in_training": trial.asked_before,
        "models": len(trial.pool),
        "pool": list(trial.models),
        "known_models": list(trial.roster.models),
        "unknown_models": list(trial.roster.unknown),
        "best_single_model": trial.models[int(trial.standing.argmax())],
        "best_single_from": "training split" if trial.train is not None else "calibration rows of the artifact",
        "by_task": _by_task(stratum),
        "per_model": _per_model(stratum, sizes_b),
        "profiles": _profiles(stratum),
        "rate_inside_90_percent_interval": _rate_coverage(stratum, embedding_BD),
        "curves": _curves(stratum),
        "size_curve": _size_curve(stratum, sizes_b, size_scale),
    }


def _tasks(stratum: Stratum) -> dict[str, np.ndarray]:
    """Which prompts are of each task, bool [B]."""
    task_B = np.array(stratum.trial.tasks, dtype=str)
    return {str(task): task_B == task for task in np.unique(task_B)}


def _by_task(stratum: Stratum) -> dict[str, Any]:
    """Mean quality of each policy per task."""
    return {
        task: {
            "prompts": int(rows_B.sum()),
            **{name: float(result["quality"][:, rows_B].mean()) for name, result in stratum.results.items()},
        }
        for task, rows_B in _tasks(stratum).items()
    }


def _per_model(stratum: Stratum, sizes_b: Mapping[str, float]) -> dict[str, Any]:
    """Each model of the pool on its own: what always choosing it would give, and how its quality is predicted."""
    truth, found = stratum.trial.truth, {}
    for place, model in enumerate(stratum.trial.models):
        score_B, predicted_B = truth.score[:, place], stratum.predictions[0].quality[:, place]
        found[model] = {
            "outcomes": int(np.isfinite(score_B).sum()),
            "quality": _mean(score_B),
            "predicted_quality": _mean(np.where(np.isfinite(score_B), predicted_B, np.nan)),
            "ece": _number(metrics.expected_calibration_error(predicted_B, score_B)),
            "cost_usd": _mean(truth.cost_usd[:, place]),
            "size_b": sizes_b.get(model),
        }
    return found


def _profiles(stratum: Stratum) -> dict[str, Any]:
    """By task and model: mean score, mean predicted quality on the same prompts, and how many there are."""
    score_BP, quality_BP = stratum.trial.truth.score, stratum.predictions[0].quality
    found: dict[str, Any] = {}
    for task, rows_B in _tasks(stratum).items():
        known_BP = np.isfinite(score_BP[rows_B])
        found[task] = {
            model: [
                _mean(score_BP[rows_B, place]),
                _mean(np.where(known_BP[:, place], quality_BP[rows_B, place], np.nan)),
                int(known_BP[:, place].sum()),
            ]
            for place, model in enumerate(stratum.trial.models)
        }
    return found


def _rate_coverage(stratum: Stratum, embedding_BD: np.ndarray) -> float | None:
    """Share of (group of like prompts, model) whose observed rate lies inside the 90 % interval of quality."""
    group_B = metrics.like_prompts(embedding_BD, COVERAGE_GROUP)
    score_BP = stratum.trial.truth.score
    rates = [metrics.rate_coverage(p.quality_interval, score_BP, group_B) for p in stratum.predictions]
    return _number(float(np.mean(rates)))


def _curves(stratum: Stratum) -> dict[str, Any]:
    """Mean cost in dollars and quality: every setting of the router model, and the hull of every policy."""
    priced = stratum.priced
    if priced is None:
        return {}
    ours = priced.curves[OURS]
    settings = [
        {"form": form, "weight": weight, "cost_usd": float(cost), "quality": float(quality)}
        for (form, weight), cost, quality in zip(
            SETTINGS, priced.unit_usd * ours.cost.mean(1), ours.quality.mean(1), strict=True
        )
    ]
    curves = {**priced.curves, "single models": priced.singles}
    points = {name: _hull(priced.unit_usd * c.cost.mean(1), c.quality.mean(1)) for name, c in curves.items()}
    return {"settings": settings, "hulls": points}


def _hull(cost_W: np.ndarray, quality_W: np.ndarray) -> list[list[float]]:
    found = hulls(cost_W[None], quality_W[None])
    points = np.stack([found.cost[0], found.quality[0]], axis=1)
    return [[float(cost), float(quality)] for cost, quality in np.unique(points, axis=0)]


def _size_curve(stratum: Stratum, sizes_b: Mapping[str, float], scale: CostScale) -> list[dict[str, float]]:
    """Mean size of the chosen model and quality for every weight on size; empty unless all sizes are known."""
    trial = stratum.trial
    sizes = [sizes_b.get(model) for model in trial.models]
    if None in sizes:
        return []
    size_BP = np.broadcast_to(np.array(sizes, dtype=float), trial.truth.score.shape)
    share_BP, points = scale.share(size_BP), []
    values = [belief.value(trial.default_column) for belief in stratum.beliefs]
    for weight in WEIGHTS:
        columns = [chosen_column(value - weight * share_BP, trial.truth.available) for value in values]
        quality = float(np.mean([take(trial.truth.score, column_B) for column_B in columns]))
        spent = float(np.mean([take(size_BP, column_B) for column_B in columns]))
        points.append({"weight": weight, "quality": quality, "size_b": spent})
    return points


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
