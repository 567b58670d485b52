"""A router model against every baseline on one split: choices, calibration, lengths, trade-offs, with intervals.

How it works: the baselines learn from the dataset's training split, the artifact brings its own heads. All of them
choose on the prompts of the split that is measured; what a choice was worth comes from the outcomes there. Several
artifacts that differ in their seed count as one policy whose spread over seeds is part of the interval.

Legend of array suffixes: S artifacts (seeds), B prompts measured, M models, W weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from router_models.artifact import Artifact
from router_models.evaluation import metrics
from router_models.evaluation.bootstrap import estimate
from router_models.evaluation.costs import Prices, expected_usd, paid_usd, prices_behind
from router_models.evaluation.metrics import METRICS, Truth, per_prompt, worth
from router_models.evaluation.policies import BASELINES, Known, at_random, chosen, oracle, text_of
from router_models.features import TextEncoder
from router_models.operating_curve import (
    WEIGHTS,
    CostScale,
    PricedRows,
    largest_weight,
    operating_curve,
)
from router_models.outcomes import OutcomesDataset, OutcomesError
from router_models.predictor import ArtifactPredictor
from router_models.prediction import Prediction
from router_models.tryage import TryageHead

Bar = Callable[[str, int], Callable[[], object]]
"""Opens a progress bar with a name and a number of steps; what it returns is called after each step."""

OURS = "router model"
# Baselines that give a value for every prompt and model, so that a trade-off can be drawn for them.
CURVED = ("task-name table", "prompt length", "TF-IDF + logistic", "kNN, k=100")
# Lengths of a group in which observed and predicted rates are compared.
COVERAGE_GROUP = 25
LATENCY_PROMPTS = 200
PROMISED_LOSS = 0.01


@dataclass(frozen=True)
class Setting:
    """What is not in the artifact or the dataset."""

    splits: tuple[str, ...]
    train_split: str = "train"
    scale: CostScale = field(default_factory=lambda: CostScale(worst_usd=0.1, best_usd=1e-7))
    sizes_b: Mapping[str, float] = field(default_factory=dict)
    """Billions of parameters by model, for the trade-off over size; may be empty."""
    size_ends_b: tuple[float, float] = (700.0, 0.05)
    listed_prices: Prices | None = None


def evaluate(
    artifacts: Sequence[Artifact], dataset: OutcomesDataset, setting: Setting, bar: Bar
) -> tuple[dict[str, Any], pa.Table]:
    """All figures as JSON-ready values, and every prediction as a table.

    Raises:
        OutcomesError: a split is missing, or holds no outcome of the artifact's models.
    """
    if any(artifact.models != artifacts[0].models for artifact in artifacts):
        raise OutcomesError("the artifacts have different models; evaluate them one by one")
    train = dataset.split(setting.train_split)
    bench = _Bench(artifacts, train, setting)
    conversations = train.conversations()
    advance = bar("reading training prompts", len(conversations))
    train_embedding = bench.encoder.encode(conversations, advance)
    report: dict[str, Any] = {"artifacts": [_described(artifact) for artifact in artifacts], "splits": {}}
    tables = []
    for split in setting.splits:
        measured = dataset.split(split)
        figures, table = _measure(bench, train_embedding, measured, split, bar)
        report["splits"][split] = figures
        tables.append(table)
    report["latency_ms"] = latency_ms(artifacts[0], conversations[:LATENCY_PROMPTS])
    return report, pa.concat_tables(tables)


def _described(artifact: Artifact) -> dict[str, Any]:
    about = artifact.about
    return {
        "name": artifact.name,
        "seed": about.get("seed"),
        "command": about.get("command"),
        "manifest_sha256": artifact.fingerprint,
    }


class _Bench:
    """What stays the same for every split."""

    def __init__(self, artifacts: Sequence[Artifact], train: OutcomesDataset, setting: Setting) -> None:
        self.artifacts, self.train, self.setting = artifacts, train, setting
        self.models = artifacts[0].models
        self.heads = [TryageHead(artifact.heads, artifact.settings) for artifact in artifacts]
        self.score = train.matrix("score", self.models)
        self.cost_usd = paid_usd(train, self.models, setting.listed_prices)
        self.prices = prices_behind(train, self.models, setting.listed_prices)

    @cached_property
    def encoder(self) -> TextEncoder:
        if any(artifact.encoder != self.artifacts[0].encoder for artifact in self.artifacts):
            raise OutcomesError("the artifacts have different encoders; evaluate them one by one")
        return ArtifactPredictor(self.artifacts[0]).encoder

    @cached_property
    def mean_usd(self) -> np.ndarray:
        """Mean cost of each model on the training rows [M]; NaN if unknown."""
        known = np.isfinite(self.cost_usd)
        total_M = np.where(known, self.cost_usd, 0).sum(0)
        return np.where(known.any(0), total_M / np.maximum(known.sum(0), 1), np.nan)

    def known(self, measured: OutcomesDataset, train_embedding: np.ndarray, embedding: np.ndarray) -> Known:
        return Known(
            score=self.score,
            cost_usd=self.cost_usd,
            tasks=_tasks(self.train),
            new_tasks=_tasks(measured),
            texts=[text_of(conversation) for conversation in self.train.conversations()],
            new_texts=[text_of(conversation) for conversation in measured.conversations()],
            embedding=train_embedding,
            new_embedding=embedding,
        )


def _tasks(dataset: OutcomesDataset) -> list[str]:
    if "task" not in dataset.prompts.column_names:
        return [""] * dataset.prompts.num_rows
    return [task or "" for task in dataset.prompts["task"].to_pylist()]


def _measure(
    bench: _Bench, train_embedding: np.ndarray, measured: OutcomesDataset, split: str, bar: Bar
) -> tuple[dict[str, Any], pa.Table]:
    answered_B = np.isfinite(measured.matrix("score", bench.models)).any(1)
    if not answered_B.any():
        raise OutcomesError(f"split {split} has no outcome of the artifact's models {bench.models}")
    measured = measured.select(answered_B)
    conversations = measured.conversations()
    embedding = bench.encoder.encode(conversations, bar(f"reading prompts of {split}", len(conversations)))
    predictions = [head.predict(embedding) for head in bench.heads]
    truth = Truth(measured.matrix("score", bench.models), paid_usd(measured, bench.models, bench.setting.listed_prices))
    known = bench.known(measured, train_embedding, embedding)
    advance = bar(f"baselines on {split}", len(BASELINES))
    values: dict[str, np.ndarray] = {}
    for name, policy in BASELINES.items():
        values[name] = policy(known)
        advance()
    expected = expected_usd(
        bench.prices, measured.matrix("input_tokens", bench.models), predictions[0].output_tokens, bench.mean_usd
    )
    ours = _our_choices(bench, predictions, expected, truth)
    shares = ours | {name: [chosen(value, truth)] for name, value in values.items()}
    shares |= {"random": [at_random(truth)], "oracle": [oracle(truth)]}
    results = {name: _stacked([per_prompt(worth(s, truth), truth) for s in seeds]) for name, seeds in shares.items()}
    figures = {
        "prompts": len(truth.score),
        "prompts_where_scores_differ": int(truth.differs.sum()),
        "policies": {name: _estimates(result) for name, result in results.items()},
        "differences": _differences(results),
        "share_of_most_chosen": _most_chosen(shares),
        "calibration": _calibration_figures(predictions, truth, embedding),
        "length": metrics.length_figures(
            predictions[0].output_tokens,
            predictions[0].output_tokens_interval,
            measured.matrix("output_tokens", bench.models),
        ),
        "by_task": _by_task(results, _tasks(measured)),
        "models": _per_model(bench, truth),
        "cost_curves": _cost_curves(bench, predictions, values, expected, truth),
        "size_curves": _size_curves(bench, predictions, values, truth),
        "weight_for_promised_loss": _promised_weights(bench),
    }
    return figures, _table(bench, measured, split, predictions)


def _our_choices(
    bench: _Bench, predictions: Sequence[Prediction], expected: np.ndarray, truth: Truth
) -> dict[str, list[np.ndarray]]:
    """Choices by quality alone, and as cheap as a promised loss allows."""
    weights = _promised_weights(bench)
    share = bench.setting.scale.share(expected)
    best_single_BM = np.tile(np.nan_to_num(_column_means(bench.score)), (len(truth.score), 1))
    promised = [
        chosen(best_single_BM if weight is None else prediction.quality - weight * share, truth)
        for weight, prediction in zip(weights, predictions, strict=True)
    ]
    name = f"{OURS}, max_quality_loss {PROMISED_LOSS:g}"
    return {OURS: [chosen(prediction.quality, truth) for prediction in predictions], name: promised}


def _column_means(score: np.ndarray) -> np.ndarray:
    known = np.isfinite(score)
    means: np.ndarray = np.where(known, score, 0).sum(0) / np.maximum(known.sum(0), 1)
    return means


def _promised_weights(bench: _Bench) -> list[float | None]:
    """For each artifact, the weight on cost that its own calibration rows allow; None where none does."""
    weights = []
    for artifact in bench.artifacts:
        rows = _calibration_in_dollars(artifact, bench)
        points = operating_curve(rows, bench.setting.scale)
        weights.append(largest_weight(points, PROMISED_LOSS))
    return weights


def _calibration_in_dollars(artifact: Artifact, bench: _Bench) -> PricedRows:
    """Priced by the same rule as the prompts that are measured: a weight means the same on both."""
    rows = artifact.calibration
    expected, real = (
        expected_usd(bench.prices, rows.input_tokens, tokens, bench.mean_usd)
        for tokens in (rows.output_tokens, rows.real_output_tokens)
    )
    return PricedRows(rows.quality, rows.score, expected, real)


def _stacked(seeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([seed[name] for seed in seeds]) for name in seeds[0]}


def _estimates(result: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: estimate(result[name]).as_dict() for name in METRICS}


def _differences(results: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """The router model minus each other policy, paired by prompt."""
    return {
        name: {metric: estimate(results[OURS][metric] - result[metric]).as_dict() for metric in METRICS}
        for name, result in results.items()
        if name != OURS
    }


def _most_chosen(shares: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float]:
    """How often a policy chooses the model it chooses most: 1 is a policy that does not route."""
    return {name: float(np.mean([share.mean(0).max() for share in seeds])) for name, seeds in shares.items()}


def _calibration_figures(predictions: Sequence[Prediction], truth: Truth, embedding: np.ndarray) -> dict[str, Any]:
    quality = [prediction.quality for prediction in predictions]
    group_B = _like_prompts(embedding)
    return {
        "ece": float(np.mean([metrics.expected_calibration_error(q, truth.score) for q in quality])),
        "brier": float(np.mean([metrics.brier(q, truth.score) for q in quality])),
        "brier_of_base_rates": metrics.brier(np.broadcast_to(np.nanmean(truth.score), truth.score.shape), truth.score),
        "rate_inside_90_percent_interval": float(
            np.mean([metrics.rate_coverage(p.quality_interval, truth.score, group_B) for p in predictions])
        ),
        "reliability": metrics.reliability(quality[0], truth.score),
    }


def _like_prompts(embedding: np.ndarray) -> np.ndarray:
    """Groups of like prompts [B], by halving along the direction of largest spread."""
    group_B = np.zeros(len(embedding), dtype=int)
    waiting, groups = [np.arange(len(embedding))], 0
    while waiting:
        rows = waiting.pop()
        if len(rows) < 2 * COVERAGE_GROUP:
            group_B[rows] = groups
            groups += 1
            continue
        centred = embedding[rows] - embedding[rows].mean(0)
        direction_D = np.linalg.svd(centred, full_matrices=False)[2][0]
        order = np.argsort(centred @ direction_D, kind="stable")
        waiting += [rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]]
    return group_B


def _by_task(results: Mapping[str, Mapping[str, np.ndarray]], tasks: Sequence[str]) -> dict[str, Any]:
    """Mean quality of each policy per task."""
    task_B = np.array(tasks, dtype=str)
    return {
        str(task): {
            "prompts": int((task_B == task).sum()),
            **{name: float(result["quality"][:, task_B == task].mean()) for name, result in results.items()},
        }
        for task in np.unique(task_B)
    }


def _per_model(bench: _Bench, truth: Truth) -> dict[str, Any]:
    """Each model on its own: what always choosing it would give."""
    return {
        model: {
            "outcomes": int(truth.available[:, column].sum()),
            "quality": _mean(truth.score[:, column]),
            "cost_usd": _mean(truth.cost_usd[:, column]),
            "size_b": bench.setting.sizes_b.get(model),
        }
        for column, model in enumerate(bench.models)
    }


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _cost_curves(
    bench: _Bench,
    predictions: Sequence[Prediction],
    values: Mapping[str, np.ndarray],
    expected: np.ndarray,
    truth: Truth,
) -> dict[str, Any]:
    """Mean cost and quality for every weight on cost, for all policies that predict quality."""
    if not np.isfinite(truth.cost_usd).any():
        return {}
    share = bench.setting.scale.share(expected)
    qualities = {OURS: [prediction.quality for prediction in predictions]} | {n: [values[n]] for n in CURVED}
    return {name: _curve(seeds, share, truth, truth.cost_usd) for name, seeds in qualities.items()}


def _size_curves(
    bench: _Bench, predictions: Sequence[Prediction], values: Mapping[str, np.ndarray], truth: Truth
) -> dict[str, Any]:
    """The same for a weight on size; empty unless the size of every model is known."""
    sizes = [bench.setting.sizes_b.get(model) for model in bench.models]
    if None in sizes:
        return {}
    size_BM = np.broadcast_to(np.array(sizes, dtype=float), truth.score.shape)
    worst, best = bench.setting.size_ends_b
    share = CostScale(worst, best).share(size_BM)
    qualities = {OURS: [prediction.quality for prediction in predictions]} | {n: [values[n]] for n in CURVED}
    return {name: _curve(seeds, share, truth, size_BM) for name, seeds in qualities.items()}


def _curve(seeds: Sequence[np.ndarray], worse: np.ndarray, truth: Truth, spent: np.ndarray) -> list[dict[str, float]]:
    points = []
    for weight in WEIGHTS:
        shares = [chosen(quality - weight * worse, truth) for quality in seeds]
        quality = np.mean([np.mean(truth.score[share > 0]) for share in shares])
        used = np.mean([np.nanmean(spent[share > 0]) for share in shares])
        points.append({"weight": weight, "quality": float(quality), "spent": float(used)})
    return points


def latency_ms(artifact: Artifact, conversations: Sequence[Any]) -> dict[str, float]:
    """Wall time of one prediction, prompt by prompt, on this machine."""
    predictor = ArtifactPredictor(artifact)
    taken = []
    for conversation in conversations:
        start = time.perf_counter()
        predictor.predict([conversation])
        taken.append(1000 * (time.perf_counter() - start))
    return {"prompts": len(taken), "p50": float(np.quantile(taken, 0.5)), "p99": float(np.quantile(taken, 0.99))}


def _table(bench: _Bench, measured: OutcomesDataset, split: str, predictions: Sequence[Prediction]) -> pa.Table:
    """One row per artifact, prompt and model."""
    prompt_ids = measured.prompts["prompt_id"].to_pylist()
    prompts, models = len(prompt_ids), len(bench.models)
    tables = []
    for artifact, prediction in zip(bench.artifacts, predictions, strict=True):
        columns: dict[str, Any] = {
            "artifact": pa.array([artifact.name] * (prompts * models)),
            "seed": pa.array([artifact.about.get("seed")] * (prompts * models), pa.int64()),
            "split": pa.array([split] * (prompts * models)),
            "prompt_id": pa.array(np.repeat(np.array(prompt_ids, dtype=object), models)),
            "model": pa.array(list(bench.models) * prompts),
            "quality": prediction.quality.ravel().astype(float),
            "quality_low": prediction.quality_interval[:, :, 0].ravel().astype(float),
            "quality_high": prediction.quality_interval[:, :, 1].ravel().astype(float),
            "output_tokens": prediction.output_tokens.ravel().astype(float),
            "output_tokens_low": prediction.output_tokens_interval[:, :, 0].ravel().astype(float),
            "output_tokens_high": prediction.output_tokens_interval[:, :, 1].ravel().astype(float),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)
