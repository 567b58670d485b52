"""Fitting the members of the Tryage head: each turns embeddings and scores into the tensors that `tryage` reads.

A missing score is masked, never 0. Scores between 0 and 1 are targets of the cross-entropy as they are.

Legend of array suffixes: B prompts, D embedding, M models, H hidden units, K clusters, S networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from router_models.training.config import ClustersConfig, MlpConfig, NeighboursConfig

# Three of MiniLM's 384 outputs are dead; without this floor, noise of 1e-9 would be blown up to deviation 1.
LEAST_SCALE = 1e-2
# Outcomes that a model's mean counts as, where a cluster has few.
SHRINK_OUTCOMES = 5.0
KMEANS_ROUNDS = 25


@dataclass(frozen=True)
class Rows:
    """What members learn from: embeddings [B, D], standardised ones, and scores [B, M] with NaN where missing."""

    embedding: np.ndarray
    inputs: np.ndarray
    score: np.ndarray

    def take(self, rows_B: np.ndarray) -> Rows:
        """The rows with these indices or this mask."""
        return Rows(self.embedding[rows_B], self.inputs[rows_B], self.score[rows_B])


def input_scale(embedding_BD: np.ndarray) -> dict[str, np.ndarray]:
    """Mean and deviation of the training embeddings."""
    return {
        "input.mean_D": embedding_BD.mean(0).astype(np.float32),
        "input.scale_D": np.maximum(embedding_BD.std(0), LEAST_SCALE).astype(np.float32),
    }


def mean_score(score_BM: np.ndarray) -> np.ndarray:
    """Each model's mean over its outcomes [M]; 0.5 for a model without any."""
    known_BM = np.isfinite(score_BM)
    total_M = np.where(known_BM, score_BM, 0).sum(0)
    return np.where(known_BM.any(0), total_M / np.maximum(known_BM.sum(0), 1), 0.5)


def fit_logistic(rows: Rows, l2: float) -> dict[str, np.ndarray]:
    """Regularised logistic regressions of all models at once, by L-BFGS."""
    inputs_BD, score_BM, known_BM = _tensors(rows)
    weight_DM = torch.zeros(inputs_BD.shape[1], score_BM.shape[1], requires_grad=True)
    bias_M = torch.zeros(score_BM.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weight_DM, bias_M], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = _cross_entropy(inputs_BD @ weight_DM + bias_M, score_BM, known_BM)
        loss = loss + 0.5 * l2 * weight_DM.square().sum() / score_BM.shape[1]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return {"logistic.weight_DM": weight_DM.detach().numpy(), "logistic.bias_M": bias_M.detach().numpy()}


class Network(nn.Module):
    """Dropout, one hidden layer with ReLU, dropout, one logit per model."""

    def __init__(self, size_D: int, size_M: int, config: MlpConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(config.input_dropout),
            nn.Linear(size_D, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.hidden_dropout),
            nn.Linear(config.hidden, size_M),
        )

    def forward(self, inputs_BD: torch.Tensor) -> torch.Tensor:
        logit_BM: torch.Tensor = self.layers(inputs_BD)
        return logit_BM


def fit_network(rows: Rows, config: MlpConfig, seed: int) -> Network:
    """One network, stopped where the loss on a tenth of the rows was least."""
    torch.manual_seed(seed)
    watch_B = np.random.default_rng(seed).random(len(rows.score)) < config.watched_share
    watched = _tensors(rows.take(watch_B))
    inputs_BD, score_BM, known_BM = _tensors(rows.take(~watch_B))
    network = Network(inputs_BD.shape[1], score_BM.shape[1], config)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    least, best, waited = math.inf, network.state_dict(), 0
    for _ in range(config.epochs):
        network.train()
        for batch in torch.split(torch.randperm(len(inputs_BD)), config.batch):
            optimiser.zero_grad()
            _cross_entropy(network(inputs_BD[batch]), score_BM[batch], known_BM[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        network.eval()
        with torch.no_grad():
            loss = float(_cross_entropy(network(watched[0]), *watched[1:]))
        waited += 1
        if loss < least:
            least, waited = loss, 0
            best = {name: value.clone() for name, value in network.state_dict().items()}
        if waited >= config.patience:
            break
    network.load_state_dict(best)
    return network.eval()


def stacked(networks: Sequence[Network]) -> dict[str, np.ndarray]:
    """The networks' weights in the form that `tryage.mlp` reads: hidden layers side by side."""
    states = [network.state_dict() for network in networks]
    first, last = "layers.1", "layers.4"
    return {
        "mlp.hidden_weight_DH": np.concatenate([state[f"{first}.weight"].numpy().T for state in states], axis=1),
        "mlp.hidden_bias_H": np.concatenate([state[f"{first}.bias"].numpy() for state in states]),
        "mlp.weight_SHM": np.stack([state[f"{last}.weight"].numpy().T for state in states]),
        "mlp.bias_SM": np.stack([state[f"{last}.bias"].numpy() for state in states]),
    }


def fit_mlp(rows: Rows, config: MlpConfig, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Several networks that differ in their seed."""
    return stacked([fit_network(rows, config, seed) for seed in seeds])


def fit_clusters(rows: Rows, config: ClustersConfig, seed: int) -> dict[str, np.ndarray]:
    """K-means on the embeddings, and each cluster's mean score, pulled towards the model's mean where it is small."""
    count = min(config.count, max(2, len(rows.score) // config.least_prompts))
    center_KD, cluster_B = kmeans(rows.embedding, count, seed)
    mean_M, known_BM = mean_score(rows.score), np.isfinite(rows.score)
    member_BK = np.eye(len(center_KD))[cluster_B]
    total_KM = member_BK.T @ np.where(known_BM, rows.score, 0)
    outcomes_KM = member_BK.T @ known_BM
    quality_KM = (total_KM + SHRINK_OUTCOMES * mean_M) / (outcomes_KM + SHRINK_OUTCOMES)
    return {
        "clusters.center_KD": center_KD.astype(np.float32),
        "clusters.quality_KM": quality_KM.astype(np.float32),
    }


def fit_neighbours(rows: Rows, config: NeighboursConfig) -> dict[str, np.ndarray]:
    """The training prompts themselves; a missing score becomes the model's mean."""
    score_NM = np.where(np.isfinite(rows.score), rows.score, mean_score(rows.score))
    count = min(config.count, max(10, len(score_NM) // 10))
    return {
        "neighbours.embedding_ND": rows.embedding.astype(np.float16),
        "neighbours.score_NM": score_NM.astype(np.float32),
        "neighbours.count": np.array([count], np.int32),
    }


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


def _tensors(rows: Rows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    known_BM = np.isfinite(rows.score)
    score_BM = np.where(known_BM, rows.score, 0)
    return (
        torch.from_numpy(rows.inputs.astype(np.float32)),
        torch.from_numpy(score_BM.astype(np.float32)),
        torch.from_numpy(known_BM.astype(np.float32)),
    )


def _cross_entropy(logit_BM: torch.Tensor, score_BM: torch.Tensor, known_BM: torch.Tensor) -> torch.Tensor:
    """Mean over the outcomes that exist."""
    loss_BM = nn.functional.binary_cross_entropy_with_logits(logit_BM, score_BM, reduction="none")
    return (loss_BM * known_BM).sum() / known_BM.sum().clamp(min=1)
