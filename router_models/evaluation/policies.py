"""The policies a router model is compared with, and how a policy's values become choices.

How it works: a policy sees the training rows (prompts, tasks, outcomes) and the prompts to be measured, never their
outcomes. It gives a value per prompt and model; the largest is chosen. A model without an outcome on a prompt is no
candidate there, for any policy.

Legend of array suffixes: B prompts to measure, N training prompts, M models, D embedding, W settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router_models.evaluation.metrics import TIE, Truth
from router_models.reading.conversation import Parts

RANDOM, CHEAPEST, BEST_SINGLE, ORACLE = "random", "cheapest", "best single", "oracle"
TASK_TABLE, PROMPT_LENGTH, ZERO = "task-name table", "prompt length", "Zero router"
# Outcomes that a model's overall mean counts as, in a table's cell.
SHRINK_OUTCOMES = 5.0
LENGTH_BINS = 10
# More than any request costs: a model of unknown cost comes after all others.
UNKNOWN_COST_USD = 1e9
# Below any predicted quality: a model that nothing is predicted for comes last.
NO_VALUE = -1e9


@dataclass(frozen=True)
class Known:
    """What policies may look at."""

    score: np.ndarray
    """Of the training prompts [N, M]."""
    tasks: Sequence[str]
    new_tasks: Sequence[str]
    texts: Sequence[Parts]
    new_texts: Sequence[Parts]
    """What the router model reads: the question, cut in its middle, and its context."""
    embedding: np.ndarray
    """[N, D]"""
    new_embedding: np.ndarray
    """[B, D]"""


def chosen_column(value_BM: np.ndarray, available_BM: np.ndarray) -> np.ndarray:
    """The candidate with the largest value [B]; the first one of equals."""
    column_B: np.ndarray = np.where(available_BM, np.nan_to_num(value_BM, nan=NO_VALUE), -np.inf).argmax(1)
    return column_B


def take(value_BM: np.ndarray, column_WB: np.ndarray) -> np.ndarray:
    """The values of chosen columns, for one choice [B] or for several [W, B]."""
    taken: np.ndarray = value_BM[np.arange(len(value_BM)), column_WB]
    return taken


def chosen(value_BM: np.ndarray, truth: Truth) -> np.ndarray:
    """All probability on the candidate with the largest value [B, M]."""
    return shares(chosen_column(value_BM, truth.available), truth.score.shape[1])


def shares(column_B: np.ndarray, models: int) -> np.ndarray:
    """Choices as probabilities [B, M]."""
    share_BM: np.ndarray = np.eye(models)[column_B]
    return share_BM


def at_random(truth: Truth) -> np.ndarray:
    """The same probability for every candidate [B, M]."""
    share_BM: np.ndarray = truth.available / truth.available.sum(1, keepdims=True)
    return share_BM


def oracle(truth: Truth) -> np.ndarray:
    """All probability on the cheapest of the best [B, M]: the bound no policy passes."""
    best_B = np.where(truth.available, truth.score, -np.inf).max(1, keepdims=True)
    is_best_BM = truth.available & (truth.score >= best_B - TIE)
    cost_BM = np.where(is_best_BM, np.nan_to_num(truth.cost_usd, nan=UNKNOWN_COST_USD), np.inf)
    return chosen(-cost_BM, Truth(np.where(is_best_BM, truth.score, np.nan), truth.cost_usd))


def column_means(value_NM: np.ndarray, empty: float) -> np.ndarray:
    """Mean of each column over what is known [M]; `empty` where nothing is."""
    known_NM = np.isfinite(value_NM)
    total_M = np.where(known_NM, value_NM, 0).sum(0)
    means_M: np.ndarray = np.where(known_NM.any(0), total_M / np.maximum(known_NM.sum(0), 1), empty)
    return means_M


def task_table(known: Known) -> np.ndarray:
    """Mean score per task, pulled towards the model's mean; a task never seen gets that mean."""
    return _table(known.score, known.tasks, known.new_tasks)


def prompt_length(known: Known) -> np.ndarray:
    """Mean score per tenth of the question's length."""
    lengths = np.array([len(text.question) for text in known.texts])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1]))
    edges = edges[edges > lengths.min()]
    new_lengths = [len(text.question) for text in known.new_texts]
    bins, new_bins = (np.searchsorted(edges, each, side="right").astype(str) for each in (lengths, new_lengths))
    return _table(known.score, list(bins), list(new_bins))


def _table(score_NM: np.ndarray, cells: Sequence[str], new_cells: Sequence[str]) -> np.ndarray:
    mean_M, cell_N = column_means(score_NM, empty=0.0), np.array(cells, dtype=str)
    rows = {str(cell): cell_means(score_NM[cell_N == cell], mean_M) for cell in np.unique(cell_N)}
    return np.stack([rows.get(cell, mean_M) for cell in new_cells])


def cell_means(score_NM: np.ndarray, mean_M: np.ndarray) -> np.ndarray:
    """Mean scores of some prompts, pulled towards the models' means [M]."""
    known_NM = np.isfinite(score_NM)
    total_M = np.where(known_NM, score_NM, 0).sum(0) + SHRINK_OUTCOMES * mean_M
    pulled_M: np.ndarray = total_M / (known_NM.sum(0) + SHRINK_OUTCOMES)
    return pulled_M


TABLES: Mapping[str, Callable[[Known], np.ndarray]] = {TASK_TABLE: task_table, PROMPT_LENGTH: prompt_length}
"""Value per prompt and model [B, M]."""
