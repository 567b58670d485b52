"""What the tests of training share: a configuration for seconds, and outcomes whose causes are known.

Legend of array suffixes: B rows, F inputs, D embedding, T tasks, R rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router_models.heads.odds import logit, sigmoid
from router_models.heads.tryage import Speed
from router_models.training.config import StaticConfig, TrainingConfig
from router_models.training.encoder import WEIGHTS_SHA256
from router_models.training.rows import Library, Rows
from tests.fakes.artifacts import SIZE_D, SIZE_F, tiny_pieces


def no_bar(_: str, __: int) -> Callable[[], object]:
    return lambda: None


def tiny_config(**changed: Any) -> TrainingConfig:
    """Few folds."""
    values: dict[str, Any] = {
        "name": "tiny-v1",
        "output": Path("nowhere"),
        "about": "Tiny.",
        "licences": ("Apache-2.0",),
        "folds": 3,
        "task_folds": 2,
        "clusters": 8,
        # Nearly equal weights: the tiny vocabulary has letters for words, and the frequent ones say most.
        "static": StaticConfig(smoothing=1.0),
    }
    return TrainingConfig(**(values | changed))


def place_pieces(cache: Path) -> Path:
    """Put the vectors of the tiny encoder where those of the real one would be kept."""
    cache.mkdir(parents=True, exist_ok=True)
    np.save(cache / f"all-minilm-l6-v2-pieces-{WEIGHTS_SHA256[:12]}.npy", tiny_pieces())
    return cache


@dataclass(frozen=True)
class Planted:
    """Rows of two pools, and what was planted in them."""

    library: Library
    rows: Rows
    inputs: Mapping[Speed, np.ndarray]
    rate_BR: np.ndarray
    """True probability of an acceptable answer."""


LIBRARY = Library(
    models=("a", "b", "c"),
    pools=("first", "second"),
    tasks=("first/x", "first/y", "first/z", "second/x", "second/y"),
    pool_T=np.array([0, 0, 0, 1, 1]),
    pool_R=np.array([0, 0, 1, 1]),
    model_R=np.array([0, 1, 1, 2]),
    aliases={},
)
"""Model b links the pools."""


def planted(per_task: int = 60, seed: int = 0) -> Planted:
    """Each task has a place of its own, each rule a rate on each task; the first input makes a prompt hard for all.

    Lengths are 20, 40, 60 ... tokens by task, twice as many from rule 1, and not known of rule 3.
    """
    # What is planted stays the same; the seed draws prompts and outcomes.
    made, rng = np.random.default_rng(42), np.random.default_rng(seed)
    center_TD = made.normal(size=(5, SIZE_D))
    rate_TR = made.choice([0.15, 0.35, 0.65, 0.85], size=(5, 4))
    task_B = rng.permutation(np.repeat(np.arange(5), per_task))
    ease_B = rng.normal(size=len(task_B))
    embedding_BD = center_TD[task_B] + 0.5 * rng.normal(size=(len(task_B), SIZE_D))
    embedding_BD[:, 0] = 3 * ease_B
    embedding_BD /= np.linalg.norm(embedding_BD, axis=1, keepdims=True)
    rate_BR = sigmoid(logit(rate_TR[task_B]) + 1.5 * ease_B[:, None])
    in_pool_BR = LIBRARY.pool_T[task_B][:, None] == LIBRARY.pool_R
    length_BR = 20.0 * (1 + task_B[:, None]) * np.array([1, 2, 1, np.nan]) * rng.uniform(0.9, 1.1, in_pool_BR.shape)
    rows = Rows(
        pool=LIBRARY.pool_T[task_B],
        task=task_B,
        group=np.arange(len(task_B)),
        weight=np.ones(len(task_B)),
        is_second=np.zeros(len(task_B), bool),
        score=np.where(in_pool_BR, rng.random(rate_BR.shape) < rate_BR, np.nan).astype(np.float32),
        output_tokens=np.where(in_pool_BR, length_BR, np.nan).astype(np.float32),
        input_tokens=np.where(in_pool_BR, 10, np.nan).astype(np.float32),
    )
    surface_BF = rng.normal(size=(len(task_B), SIZE_F - SIZE_D))
    inputs_BF = np.concatenate([embedding_BD, surface_BF], axis=1).astype(np.float32)
    return Planted(LIBRARY, rows, {"static": inputs_BF}, rate_BR)
