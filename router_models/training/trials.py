"""Predictions on rows that were not fitted on: on held-out questions, and on held-out tasks.

How it works: questions are dealt into folds; each fold is read by heads fitted on the others, so every row gets a
reading by heads that never saw its question. That is what maps, intervals and the operating curve are calibrated on;
the heads of the artifact are then fitted on all rows. Tasks are dealt into folds too: their readings, by heads that
never saw anything of the kind, teach the alarm and how far to trust the residual there.

Legend of array suffixes: B rows, F inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from router_models.heads.layout import Layout
from router_models.heads.tryage import EncoderHead, Reading, Speed
from router_models.training.config import TrainingConfig
from router_models.training.parts import fit_parts, subset
from router_models.training.rows import Inputs, Library, Rows, folds_of

Readings = Mapping[Speed, Reading]
Advance = Callable[[], object]


@dataclass(frozen=True)
class Trial:
    """Rows [B] and what heads that had not seen them made of them."""

    rows: np.ndarray
    """Indices into the rows of the training run."""
    readings: Readings

    def take(self, kept: np.ndarray) -> Trial:
        """Some of the rows, by index or mask."""
        kept = np.arange(len(self.rows))[kept]
        taken = {
            speed: Reading(**{each.name: getattr(reading, each.name).take(kept, axis=-2) for each in fields(Reading)})
            for speed, reading in self.readings.items()
        }
        return Trial(self.rows[kept], taken)


@dataclass(frozen=True)
class Fold:
    """Parts that were fitted without some rows, and their reading of those."""

    parts: Mapping[str, np.ndarray]
    trial: Trial


def held_out_questions(
    config: TrainingConfig, library: Library, rows: Rows, inputs: Inputs, advance: Advance
) -> list[Fold]:
    """Folds that together read every first row once, by heads fitted without its question."""
    fold_B = folds_of(rows.group, config.folds, config.seed)
    folds = []
    for fold in range(config.folds):
        parts = _fitted(config, library, rows, inputs, fold_B != fold)
        folds.append(_read_by(parts, library, inputs, np.flatnonzero((fold_B == fold) & ~rows.is_second)))
        advance()
    return folds


def held_out_tasks(
    config: TrainingConfig, library: Library, rows: Rows, inputs: Inputs, advance: Advance
) -> list[Fold]:
    """Folds that together read every first row whose task has company in its pool, by heads that never saw the task."""
    folds = []
    for held_T in task_folds(library, config.task_folds):
        left_out_B = held_T[rows.task]
        # The same question under another task would give it away.
        known_B = ~left_out_B & ~np.isin(rows.group, rows.group[left_out_B])
        judged = np.flatnonzero(left_out_B & ~rows.is_second)
        if len(judged) and known_B.any():
            parts = _fitted(config, library, rows, inputs, known_B)
            folds.append(_read_by(parts, library, inputs, judged))
        advance()
    return folds


def _read_by(parts: Mapping[str, np.ndarray], library: Library, inputs: Inputs, judged: np.ndarray) -> Fold:
    return Fold(parts, Trial(judged, read(parts, library, subset(inputs, judged))))


def task_folds(library: Library, count: int) -> Iterator[np.ndarray]:
    """Which tasks are held out together [T]; a pool never loses all of its tasks at once."""
    fold_T = np.full(len(library.tasks), -1)
    for pool in range(len(library.pools)):
        own = np.flatnonzero(library.pool_T == pool)
        if len(own) > 1:
            # Pools begin at different folds: a set of two tasks must not lose one of them here and, because a set that
            # holds the same questions is held out too, the other one as well.
            fold_T[own] = (np.arange(len(own)) + 2 * pool) % count
    for fold in range(count):
        yield fold_T == fold


def _fitted(
    config: TrainingConfig, library: Library, rows: Rows, inputs: Inputs, kept_B: np.ndarray
) -> dict[str, np.ndarray]:
    return fit_parts(config, library, rows.take(kept_B), subset(inputs, kept_B), config.seed)


def read(tensors: Mapping[str, np.ndarray], library: Library, inputs: Inputs) -> Readings:
    """What each encoder's parts make of the inputs."""
    layout = Layout(tensors, len(library.models))
    return {speed: EncoderHead(tensors, speed, layout).read(inputs_BF) for speed, inputs_BF in inputs.items()}


def joined(folds: Sequence[Fold]) -> Trial:
    """The trials of all folds, in the order of their rows."""
    trials = [fold.trial for fold in folds]
    if not trials:
        return Trial(np.zeros(0, dtype=int), {})
    rows = np.concatenate([trial.rows for trial in trials])
    order = rows.argsort()
    readings = {
        speed: Reading(
            **{
                each.name: _stacked([getattr(t.readings[speed], each.name) for t in trials], order)
                for each in fields(Reading)
            }
        )
        for speed in trials[0].readings
    }
    return Trial(rows[order], readings)


def _stacked(arrays: Sequence[np.ndarray], order: np.ndarray) -> np.ndarray:
    """Along the axis of the rows: the last but one."""
    joined: np.ndarray = np.concatenate(arrays, axis=-2).take(order, axis=-2)
    return joined
