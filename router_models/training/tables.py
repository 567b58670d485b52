"""Mean scores and mean log lengths per task and rule, whether many outcomes tell them, few or none.

How it works: the mean of a cell is pulled towards what its task and its model let expect (`completion`). Hundreds of
outcomes leave next to nothing of that; where a model was never asked a task, it is all there is. A model's mean over
its other tasks would not do in its place: who was asked easy tasks only would be taken for good at hard ones.

Legend of array suffixes: B rows, T tasks, R rules, M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router_models.heads.odds import logit, sigmoid
from router_models.training.completion import expected_values, with_measured
from router_models.training.rows import Library, Rows

# Outcomes that what is expected of a rule counts as, in a task where it has few.
SHRINK_OUTCOMES = 5.0
# Outcomes that a cell without any counts as: a task that no model was asked lies where its pool's models usually do.
LEAST_OUTCOMES = 1e-3


@dataclass(frozen=True)
class Tables:
    """What is known before a prompt is read; 0 outside of a rule's pool."""

    quality_TR: np.ndarray
    log_tokens_TR: np.ndarray
    complete_TM: np.ndarray
    """Logit of the mean score of every model in every task, in whatever pool."""


def fit_tables(library: Library, rows: Rows) -> Tables:
    """The tables of these rows; lengths of a rule without any mean nothing."""
    score, length = _Cells.of(library, rows, rows.score), _Cells.of(library, rows, log_lengths(rows))
    easy_TM = expected_values(logit(score.pulled(score.means)), score.weights, library)
    long_TM = expected_values(length.pulled(length.means), length.weights, library)
    quality_TR = score.pulled(sigmoid(easy_TM[:, library.model_R]))
    in_pool_TR = library.pool_T[:, None] == library.pool_R[None, :]
    return Tables(
        np.where(in_pool_TR, quality_TR, 0.0).astype(np.float32),
        np.where(in_pool_TR, length.pulled(long_TM[:, library.model_R]), 0.0).astype(np.float32),
        with_measured(easy_TM, logit(quality_TR), library),
    )


def log_lengths(rows: Rows) -> np.ndarray:
    """Of the answers in tokens [B, R]; NaN where there is none."""
    lengths_BR: np.ndarray = np.log(np.maximum(rows.output_tokens, 1))
    return lengths_BR


def never_asked(library: Library, rows: Rows) -> np.ndarray:
    """Which rules have no outcome on a task that others of their pool have outcomes on: bool [T, R]."""
    known_TR = _Cells.of(library, rows, rows.score).known_TR
    in_pool_TR = library.pool_T[:, None] == library.pool_R[None, :]
    missing_TR: np.ndarray = in_pool_TR & (known_TR == 0) & (known_TR.sum(1, keepdims=True) > 0)
    return missing_TR


@dataclass(frozen=True)
class _Cells:
    """Sums over the outcomes of each task and rule."""

    total_TR: np.ndarray
    known_TR: np.ndarray
    """Outcomes, as much as their rows count."""

    @classmethod
    def of(cls, library: Library, rows: Rows, value_BR: np.ndarray) -> _Cells:
        member_TB = np.eye(len(library.pool_T), dtype=np.float32)[rows.task].T
        known_BR = np.isfinite(value_BR) * rows.weight[:, None]
        return cls(member_TB @ (np.nan_to_num(value_BR) * rows.weight[:, None]), member_TB @ known_BR)

    @property
    def means(self) -> np.ndarray:
        """Of each rule's outcomes on all tasks [R]; 0 without any."""
        mean_R: np.ndarray = self.total_TR.sum(0) / np.maximum(self.known_TR.sum(0), 1e-9)
        return mean_R

    @property
    def weights(self) -> np.ndarray:
        """How much a cell says for itself, from 0 to 1 [T, R]."""
        weight_TR: np.ndarray = (self.known_TR + LEAST_OUTCOMES) / (self.known_TR + SHRINK_OUTCOMES)
        return weight_TR

    def pulled(self, towards: np.ndarray) -> np.ndarray:
        """The means, pulled towards a number per rule [R] or per cell [T, R]."""
        pulled_TR: np.ndarray = (self.total_TR + SHRINK_OUTCOMES * towards) / (self.known_TR + SHRINK_OUTCOMES)
        return pulled_TR
