"""From an outcomes dataset to an artifact: rows, features, tuning on held-out wordings, members, calibration, length.

How it works: prompts of the training split are divided once, into rows to fit on and rows set aside (`dev_share`). On
the rows to fit on, whole groups of like-worded prompts are held out in turn; the regularisation, the members and the
residual weight are those that do best there, because what will be asked is worded in ways nobody wrote down. The
members are then fitted on all of them. The rows set aside give the map of the pool, the intervals, and the calibration
rows of the artifact.

Legend of array suffixes: B prompts, D embedding, M models, S members.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from router_models.artifact import Artifact, Calibration
from router_models.features import TextEncoder
from router_models.outcomes import OutcomesDataset, OutcomesError
from router_models.training import members
from router_models.training.calibration import GROUP_PROMPTS, fit_interval, fit_platt
from router_models.training.config import TrainingConfig
from router_models.tryage import MEMBERS, HeadSettings, TryageHead, logit, shrunk_logit, standardised, standing

Bar = Callable[[str, int], Callable[[], object]]
"""Opens a progress bar with a name and a number of steps; what it returns is called after each step."""

# Below these numbers of prompts a member's variance costs more than it finds (measured on public outcomes).
LEAST_PROMPTS = {"clusters": 0, "neighbours": 1_000, "logistic": 0, "mlp": 500}
# An answer-length regression of a model with fewer outcomes says nothing; its length stays unknown.
LEAST_LENGTHS = 30
# A member is left out when the loss on held-out wordings falls by more than this without it.
LEAST_GAIN = 1e-4


@dataclass(frozen=True)
class Tuned:
    """What held-out wordings decided."""

    l2: float
    members: tuple[str, ...]
    residual_weight: float
    figures: dict[str, Any]
    """Losses and qualities that decided, for the card and the log."""


def train(config: TrainingConfig, dataset: OutcomesDataset, encoder: tuple[bytes, bytes], bar: Bar) -> Artifact:
    """An artifact from the dataset's training split; the same arguments give the same numbers.

    Raises:
        OutcomesError: a model of the configuration has no outcomes, or there are too few prompts.
    """
    torch.set_num_threads(1)
    rows = dataset.split(config.split)
    models = _models(config, rows)
    conversations = rows.conversations()
    embedding_BD = TextEncoder(*encoder).encode(conversations, bar("reading prompts", len(conversations)))
    score_BM = rows.matrix("score", models)
    dev_B = _set_aside(rows, config)

    scale = members.input_scale(embedding_BD[~dev_B])
    everything = members.Rows(embedding_BD, standardised(scale, embedding_BD), score_BM)
    fit_rows = everything.take(~dev_B)
    groups_B = _groups(config, rows, embedding_BD)[~dev_B]
    tuned = _tune(config, fit_rows, groups_B, bar)

    tensors: dict[str, np.ndarray] = dict(scale)
    advance = bar("fitting members", len(tuned.members))
    for name in tuned.members:
        tensors |= _fit(name, config, fit_rows, tuned.l2, _network_seeds(config))
        advance()
    tensors["quality.prior_M"] = standing(_mean_quality(tensors, tuned.members, fit_rows)).astype(np.float32)
    tensors |= _fit_length(config, everything.inputs, rows.matrix("output_tokens", models), dev_B)
    settings = _calibrated(config, tensors, tuned, everything.take(dev_B))

    return Artifact(
        name=config.name,
        models=models,
        settings=settings,
        encoder=encoder[0],
        tokenizer=encoder[1],
        heads=tensors,
        calibration=_calibration_rows(TryageHead(tensors, settings), rows.select(dev_B), models, embedding_BD[dev_B]),
        about=_about(config, rows, score_BM, dev_B, tuned),
    )


def _models(config: TrainingConfig, rows: OutcomesDataset) -> tuple[str, ...]:
    models = config.models or rows.models
    if missing := [name for name in models if name not in rows.models]:
        raise OutcomesError(f"model {missing[0]} has no outcome in split {config.split}; there are {rows.models}")
    if rows.prompts.num_rows < 2 * config.folds:
        raise OutcomesError(f"{rows.prompts.num_rows} prompts are too few; at least {2 * config.folds} are needed")
    return tuple(models)


def _set_aside(rows: OutcomesDataset, config: TrainingConfig) -> np.ndarray:
    """Which prompts are kept for calibration, by a hash of seed and prompt id, so that more data move none."""
    shares = [_share(f"{config.seed}/{prompt_id}") for prompt_id in rows.prompts["prompt_id"].to_pylist()]
    dev_B = np.array(shares) < config.dev_share
    if not dev_B.any() or dev_B.all():
        raise OutcomesError("too few prompts to set some aside; give more or change dev_share")
    return dev_B


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def _groups(config: TrainingConfig, rows: OutcomesDataset, embedding_BD: np.ndarray) -> np.ndarray:
    """A group for every prompt [B]; tuning holds whole groups out."""
    if config.group_by == "task":
        tasks = rows.prompts["task"].to_pylist()
        return np.unique(np.array(tasks, dtype=str), return_inverse=True)[1]
    return members.kmeans(embedding_BD, config.wording_groups, config.seed)[1]


def _network_seeds(config: TrainingConfig) -> list[int]:
    return [1_000 * config.seed + network for network in range(config.mlp.networks if config.mlp else 0)]


def _fit(
    name: str, config: TrainingConfig, rows: members.Rows, l2: float, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    if name == "logistic":
        return members.fit_logistic(rows, l2)
    if name == "mlp" and config.mlp:
        return members.fit_mlp(rows, config.mlp, seeds)
    if name == "clusters" and config.clusters:
        return members.fit_clusters(rows, config.clusters, config.seed)
    if name == "neighbours" and config.neighbours:
        return members.fit_neighbours(rows, config.neighbours)
    raise ValueError(f"member {name} is not configured")


def _tune(config: TrainingConfig, rows: members.Rows, groups_B: np.ndarray, bar: Bar) -> Tuned:
    """Choose strength, members and residual weight by what they do on groups that were held out."""
    names = [n for n in MEMBERS if getattr(config, n) is not None and len(rows.score) >= LEAST_PROMPTS[n]]
    if not names:
        raise OutcomesError(f"no member is configured that can be fitted on {len(rows.score)} prompts")
    strengths = config.logistic.l2 if config.logistic and "logistic" in names else (0.0,)
    variants = [(name, l2) for name in names for l2 in (strengths if name == "logistic" else (0.0,))]
    fold_B = _folds(groups_B, config)
    quality = {variant: np.empty_like(rows.score) for variant in variants}
    advance = bar("tuning on held-out wordings", config.folds * len(variants))
    for fold in np.unique(fold_B):
        outside, inside = rows.take(fold_B != fold), rows.take(fold_B == fold)
        for name, l2 in variants:
            # One network per fold is enough to compare; the artifact gets several.
            tensors = _fit(name, config, outside, l2, _network_seeds(config)[:1])
            quality[name, l2][fold_B == fold] = MEMBERS[name](tensors, inside.embedding, inside.inputs)
            advance()
    l2 = min(strengths, key=lambda value: _loss(quality.get(("logistic", value)), rows.score))
    held_out = {name: quality[name, l2 if name == "logistic" else 0.0] for name in names}
    chosen = _choose_members(held_out, rows.score)
    mean_BM = np.mean([held_out[name] for name in chosen], axis=0)
    weight, by_weight = _choose_weight(mean_BM, rows.score, config.residual_weights)
    figures = {
        "held_out_loss": {name: round(_loss(value, rows.score), 5) for name, value in held_out.items()},
        "held_out_loss_by_l2": {str(v): round(_loss(quality.get(("logistic", v)), rows.score), 5) for v in strengths},
        "held_out_loss_of_average": round(_loss(mean_BM, rows.score), 5),
        "held_out_quality_by_residual_weight": by_weight,
    }
    return Tuned(l2, chosen, weight, figures)


def _folds(groups_B: np.ndarray, config: TrainingConfig) -> np.ndarray:
    """Whole groups dealt to folds, the largest first, each to the fold with the fewest prompts."""
    groups, sizes = np.unique(groups_B, return_counts=True)
    filled = np.zeros(min(config.folds, len(groups)))
    if len(filled) < 2:
        raise OutcomesError("all prompts are in one group; nothing can be held out")
    fold_of = {}
    for index in np.argsort(-sizes, kind="stable"):
        fold = int(filled.argmin())
        fold_of[groups[index]] = fold
        filled[fold] += sizes[index]
    return np.array([fold_of[group] for group in groups_B])


def _loss(quality_BM: np.ndarray | None, score_BM: np.ndarray) -> float:
    """Mean cross-entropy over the outcomes that exist."""
    if quality_BM is None:
        return 0.0
    known_BM = np.isfinite(score_BM)
    value, target = logit(quality_BM[known_BM]), score_BM[known_BM]
    return float(np.mean(np.logaddexp(0, value) - target * value))


def _choose_members(held_out: dict[str, np.ndarray], score_BM: np.ndarray) -> tuple[str, ...]:
    """All members, then without those whose absence lowers the loss of the average, the worst first."""
    chosen = list(held_out)
    while len(chosen) > 1:
        loss = _loss(np.mean([held_out[name] for name in chosen], axis=0), score_BM)
        without = {
            name: _loss(np.mean([held_out[other] for other in chosen if other != name], axis=0), score_BM)
            for name in chosen
        }
        worst = min(without, key=lambda name: without[name])
        if loss - without[worst] <= LEAST_GAIN:
            break
        chosen.remove(worst)
    return tuple(chosen)


def _choose_weight(
    mean_BM: np.ndarray, score_BM: np.ndarray, weights: Sequence[float]
) -> tuple[float, dict[str, float]]:
    """The residual weight whose choice answers best; of those within one standard error, the smallest."""
    prior_M = standing(mean_BM)
    known_BM = np.isfinite(score_BM)
    chosen_score = {}
    for weight in weights:
        logit_BM = np.where(known_BM, shrunk_logit(mean_BM, prior_M, weight), -np.inf)
        rows = known_BM.any(1)
        chosen_score[weight] = np.take_along_axis(score_BM, logit_BM.argmax(1)[:, None], 1)[rows, 0]
    best = max(weights, key=lambda weight: chosen_score[weight].mean())
    for weight in sorted(weights):
        behind = chosen_score[best] - chosen_score[weight]
        if behind.mean() <= behind.std() / np.sqrt(len(behind)):
            return weight, {str(w): round(float(s.mean()), 4) for w, s in chosen_score.items()}
    raise AssertionError("the best weight is within one standard error of itself")


def _mean_quality(tensors: dict[str, np.ndarray], names: Sequence[str], rows: members.Rows) -> np.ndarray:
    mean_BM: np.ndarray = np.mean([MEMBERS[name](tensors, rows.embedding, rows.inputs) for name in names], axis=0)
    return mean_BM


def _fit_length(
    config: TrainingConfig, inputs_BD: np.ndarray, tokens_BM: np.ndarray, dev_B: np.ndarray
) -> dict[str, np.ndarray]:
    """Ridge regressions on log tokens; the interval from what they missed on the rows set aside."""
    size_D, size_M = inputs_BD.shape[1], tokens_BM.shape[1]
    weight_DM, bias_M = np.zeros((size_D, size_M), np.float32), np.zeros(size_M, np.float32)
    residual_M2, known_M = np.zeros((size_M, 2), np.float32), np.zeros(size_M, np.uint8)
    for model in range(size_M):
        measured_B = np.isfinite(tokens_BM[:, model])
        fitted_B, judged_B = measured_B & ~dev_B, measured_B & dev_B
        if min(fitted_B.sum(), judged_B.sum() * 2) < LEAST_LENGTHS:
            continue
        log_B = np.log(np.maximum(tokens_BM[:, model], 1))
        bias = log_B[fitted_B].mean()
        inputs = inputs_BD[fitted_B].astype(np.float64)
        gram_DD = inputs.T @ inputs + config.tokens_l2 * np.eye(size_D)
        weight_DM[:, model] = np.linalg.solve(gram_DD, inputs.T @ (log_B[fitted_B] - bias))
        bias_M[model], known_M[model] = bias, 1
        missed = log_B[judged_B] - inputs_BD[judged_B] @ weight_DM[:, model] - bias
        residual_M2[model] = np.quantile(missed, (0.05, 0.95))
    return {
        "tokens.weight_DM": weight_DM,
        "tokens.bias_M": bias_M,
        "tokens.residual_M2": residual_M2,
        "tokens.known_M": known_M,
    }


def _calibrated(
    config: TrainingConfig, tensors: dict[str, np.ndarray], tuned: Tuned, dev: members.Rows
) -> HeadSettings:
    member_SBM = np.stack([MEMBERS[name](tensors, dev.embedding, dev.inputs) for name in tuned.members])
    logit_BM = shrunk_logit(member_SBM.mean(0), tensors["quality.prior_M"], tuned.residual_weight)
    slope, offset = fit_platt(logit_BM, dev.score)
    plain = HeadSettings(tuned.members, tuned.residual_weight, slope, offset, 0.0, 0.0)
    quality_BM = TryageHead(tensors, plain).predict(dev.embedding).quality
    groups = max(2, len(dev.score) // GROUP_PROMPTS)
    group_B = members.kmeans(dev.embedding, groups, config.seed)[1]
    floor, slope_of_variance = fit_interval(quality_BM, member_SBM.var(0), dev.score, group_B)
    return HeadSettings(tuned.members, tuned.residual_weight, slope, offset, floor, slope_of_variance)


def _calibration_rows(
    head: TryageHead, dev: OutcomesDataset, models: Sequence[str], embedding_BD: np.ndarray
) -> Calibration:
    prediction = head.predict(embedding_BD)
    names = dev.prompts["dataset"].to_pylist() if "dataset" in dev.prompts.column_names else [""] * len(embedding_BD)
    datasets, dataset_B = np.unique(np.array([name or "" for name in names], dtype=str), return_inverse=True)
    return Calibration(
        quality=prediction.quality,
        score=dev.matrix("score", models),
        output_tokens=prediction.output_tokens,
        real_output_tokens=dev.matrix("output_tokens", models),
        input_tokens=dev.matrix("input_tokens", models),
        dataset=dataset_B.astype(np.int32),
        datasets=tuple(str(name) for name in datasets),
    )


def _about(
    config: TrainingConfig, rows: OutcomesDataset, score_BM: np.ndarray, dev_B: np.ndarray, tuned: Tuned
) -> dict[str, Any]:
    return {
        "about": config.about,
        "licences": list(config.licences),
        "limits": list(config.limits),
        "seed": config.seed,
        "code_commit": _code_commit(),
        "data": {
            "folder": config.data.name,
            "split": config.split,
            "prompts_fitted": int((~dev_B).sum()),
            "prompts_set_aside": int(dev_B.sum()),
            "outcomes": int(np.isfinite(score_BM).sum()),
            "sha256": _data_fingerprint(rows, score_BM),
        },
        "tuning": {"l2": tuned.l2, "grouped_by": config.group_by, **tuned.figures},
        "mean_score": {
            model: round(float(mean), 4)
            for model, mean in zip(config.models or rows.models, members.mean_score(score_BM), strict=True)
        },
    }


def _data_fingerprint(rows: OutcomesDataset, score_BM: np.ndarray) -> str:
    """SHA-256 over what was learned from: prompt ids, texts and scores, in order."""
    total = hashlib.sha256()
    for prompt_id, text in zip(rows.prompts["prompt_id"].to_pylist(), rows.prompts["prompt"].to_pylist(), strict=True):
        total.update(f"{prompt_id}\0{text}\0".encode(errors="replace"))
    total.update(np.ascontiguousarray(score_BM).tobytes())
    return total.hexdigest()


def _code_commit() -> str:
    """The checkout's commit, with a plus where this package was changed since; "unknown" outside of one."""
    package = Path(__file__).resolve().parents[1]
    commit, changes = _git(package, "rev-parse", "--short=12", "HEAD"), _git(package, "status", "--porcelain", "*.py")
    return "unknown" if commit is None or changes is None else commit + ("+" if changes else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git, no checkout or no answer."""
    try:
        said = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
