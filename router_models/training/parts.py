"""Fitting the parts of the Tryage head: from inputs and outcomes to the tensors that `TryageHead` reads.

A missing score is masked, never 0. Scores between 0 and 1 are targets of the cross-entropy as they are.

Legend of array suffixes: B rows, F inputs, D embedding, T tasks, R rules, O outputs, M models, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from router_models.heads.layout import Layout
from router_models.heads.odds import logit, softmax
from router_models.heads.tryage import Speed, standardised
from router_models.reading.surface import NAMES as SURFACE_NAMES
from router_models.training.config import TrainingConfig
from router_models.training.rows import Inputs, Library, Rows
from router_models.training.tables import fit_tables, log_lengths

# Three of MiniLM's 384 outputs are dead; without this floor, noise of 1e-9 would be blown up to deviation 1.
LEAST_SCALE = 1e-2
# A number divided by this says nothing.
UNREAD_SCALE = 1e9
# A length regression of a rule with fewer outcomes says nothing; its lengths stay unknown.
LEAST_LENGTHS = 30
KMEANS_ROUNDS = 15


def use_one_thread() -> None:
    """Have torch compute in one thread: the sums, and so the figures of a study, come in the same order everywhere."""
    torch.set_num_threads(1)


LBFGS_STEPS = 60


def fit_parts(config: TrainingConfig, library: Library, rows: Rows, inputs: Inputs, seed: int) -> dict[str, np.ndarray]:
    """All tensors but those that calibrate: layout, tables, and the parts of each encoder."""
    known_R = (np.isfinite(rows.output_tokens) & (rows.output_tokens > 0)).sum(0) >= LEAST_LENGTHS
    tables = fit_tables(library, rows)
    tensors = library.tensors() | {
        "table.quality_TR": tables.quality_TR,
        "table.log_tokens_TR": tables.log_tokens_TR * known_R.astype(np.float32),
        "tokens.known_R": known_R.astype(np.uint8),
        "complete.logit_TM": tables.complete_TM,
    }
    layout = Layout(tensors, len(library.models))
    for speed, inputs_BF in inputs.items():
        tensors |= _encoder_parts(config, layout, rows, speed, inputs_BF, seed)
    return tensors


def _encoder_parts(
    config: TrainingConfig, layout: Layout, rows: Rows, speed: Speed, inputs_BF: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    mean_F, scale_F = inputs_BF.mean(0), np.maximum(inputs_BF.std(0), LEAST_SCALE)
    if not config.surface:
        scale_F[-len(SURFACE_NAMES) :] = UNREAD_SCALE
    standard_BF = standardised(inputs_BF, mean_F, scale_F).astype(np.float32)
    task_FT, task_bias_T = fit_tasks(standard_BF, rows, layout.tasks, config.task_l2)
    within_BT = layout.within_pools(softmax(standard_BF @ task_FT + task_bias_T))
    offset_BR = logit(within_BT @ layout.table_TR)
    residual_FR, residual_bias_R = fit_residuals(config, layout, rows, standard_BF, offset_BR)
    tokens_FR, tokens_bias_R = fit_lengths(config, layout, rows, standard_BF, within_BT @ layout.log_tokens_TR)
    embedding_BD = inputs_BF[:, : -len(SURFACE_NAMES)]
    return {
        f"{speed}.mean_F": mean_F.astype(np.float32),
        f"{speed}.scale_F": scale_F.astype(np.float32),
        f"{speed}.weight_FO": np.concatenate([task_FT, residual_FR, tokens_FR], axis=1).astype(np.float32),
        f"{speed}.bias_O": np.concatenate([task_bias_T, residual_bias_R, tokens_bias_R]).astype(np.float32),
        f"{speed}.center_KD": kmeans(embedding_BD, config.clusters, seed)[0].astype(np.float32),
    }


def fit_tasks(standard_BF: np.ndarray, rows: Rows, tasks: int, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression of the task [F, T] and [T], by L-BFGS."""
    inputs, task = torch.from_numpy(standard_BF), torch.from_numpy(rows.task)
    weight_B = torch.from_numpy((rows.weight / rows.weight.sum()).astype(np.float32))
    weight_FT = torch.zeros(standard_BF.shape[1], tasks, requires_grad=True)
    bias_T = torch.zeros(tasks, requires_grad=True)

    def loss() -> torch.Tensor:
        each_B = nn.functional.cross_entropy(inputs @ weight_FT + bias_T, task, reduction="none")
        return (weight_B * each_B).sum() + 0.5 * l2 * weight_FT.square().sum()

    _minimise([weight_FT, bias_T], loss)
    return weight_FT.detach().numpy(), bias_T.detach().numpy()


def fit_residuals(
    config: TrainingConfig, layout: Layout, rows: Rows, standard_BF: np.ndarray, offset_BR: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What inputs add to the logit of the soft task table [F, R] and [R], pool by pool.

    A part is common to all rules of a pool (how hard the prompt is) and hardly regularised; what remains says who is
    better than usual here, and is regularised strongly: most of what it finds on few prompts is chance.
    """
    weight_FR = np.zeros((standard_BF.shape[1], layout.rules), np.float32)
    bias_R = np.zeros(layout.rules, np.float32)
    for pool in range(layout.pools):
        rules, own = np.flatnonzero(layout.pool_R == pool), rows.pool == pool
        if own.any():
            fitted = _fit_pool(config, rows.take(own), rules, standard_BF[own], offset_BR[own][:, rules])
            weight_FR[:, rules], bias_R[rules] = fitted
    return weight_FR, bias_R


def _fit_pool(
    config: TrainingConfig, rows: Rows, rules: np.ndarray, standard_BF: np.ndarray, offset_BR: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    inputs, score_BR, known_BR = _tensors(standard_BF, rows.score[:, rules], rows.weight)
    share_BR = known_BR / known_BR.sum(0).clamp(min=1e-9)
    offset = torch.from_numpy(offset_BR.astype(np.float32))
    weight_FR = torch.zeros(standard_BF.shape[1], len(rules), requires_grad=True)
    common_F1 = torch.zeros(standard_BF.shape[1], 1, requires_grad=True)
    bias_R = torch.zeros(len(rules), requires_grad=True)
    # A rule's loss is the mean over its own outcomes, so that the same prior weighs less where it has more of them.
    residual_l2_R = config.residual_prior / known_BR.sum(0).clamp(min=1)

    def loss() -> torch.Tensor:
        value_BR = offset + inputs @ (weight_FR + common_F1) + bias_R
        each_BR = nn.functional.binary_cross_entropy_with_logits(value_BR, score_BR, reduction="none")
        penalty = (residual_l2_R * weight_FR.square()).sum()
        penalty = penalty + config.common_l2 * len(rules) * common_F1.square().sum()
        return (share_BR * each_BR).sum() + 0.5 * penalty

    _minimise([weight_FR, common_F1, bias_R], loss)
    return (weight_FR + common_F1).detach().numpy(), bias_R.detach().numpy()


def _minimise(parameters: Sequence[torch.Tensor], loss: object) -> None:
    optimiser = torch.optim.LBFGS(list(parameters), max_iter=LBFGS_STEPS, history_size=8, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value: torch.Tensor = loss()  # type: ignore[operator]
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]


def fit_lengths(
    config: TrainingConfig, layout: Layout, rows: Rows, standard_BF: np.ndarray, table_BR: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regressions of what the soft task table misses of log tokens [F, R] and [R]."""
    weight_FR, bias_R = np.zeros((standard_BF.shape[1], layout.rules)), np.zeros(layout.rules)
    missed_BR = log_lengths(rows) - table_BR
    grams: dict[bytes, np.ndarray] = {}
    for rule in range(layout.rules):
        known_B = np.isfinite(missed_BR[:, rule])
        if known_B.sum() < LEAST_LENGTHS:
            continue
        inputs, target = standard_BF[known_B], missed_BR[known_B, rule]
        key = known_B.tobytes()
        if key not in grams:
            grams[key] = inputs.T @ inputs + config.tokens_l2 * len(inputs) * np.eye(inputs.shape[1])
        mean_F, bias = inputs.mean(0), target.mean()
        weight_FR[:, rule] = np.linalg.solve(grams[key], inputs.T @ (target - bias))
        bias_R[rule] = bias - mean_F @ weight_FR[:, rule]
    return weight_FR, bias_R


def kmeans(embedding_BD: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of length 1 [K, D] and the cluster of each row [B], by cosine; an emptied cluster keeps its centre."""
    rng = np.random.default_rng(seed)
    center_KD = embedding_BD[rng.choice(len(embedding_BD), size=min(count, len(embedding_BD)), replace=False)].copy()
    for _ in range(KMEANS_ROUNDS):
        cluster_B = (embedding_BD @ center_KD.T).argmax(1)
        for cluster in np.unique(cluster_B):
            total_D = embedding_BD[cluster_B == cluster].sum(0)
            center_KD[cluster] = total_D / max(float(np.linalg.norm(total_D)), 1e-9)
    return center_KD, (embedding_BD @ center_KD.T).argmax(1)


def _tensors(
    inputs_BF: np.ndarray, score_BR: np.ndarray, weight_B: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, scores with 0 where missing, and how much each counts."""
    known_BR = np.isfinite(score_BR) * weight_B[:, None]
    return (
        torch.from_numpy(np.ascontiguousarray(inputs_BF, np.float32)),
        torch.from_numpy(np.nan_to_num(score_BR).astype(np.float32)),
        torch.from_numpy(known_BR.astype(np.float32)),
    )


def subset(inputs: Inputs, rows_B: np.ndarray) -> Mapping[Speed, np.ndarray]:
    """The inputs of some rows."""
    return {speed: inputs_BF[rows_B] for speed, inputs_BF in inputs.items()}
