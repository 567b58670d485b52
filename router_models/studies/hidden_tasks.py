"""How wrong a table is about tasks that a model was never asked: measured ones are hidden from it.

    python -m router_models.studies.hidden_tasks CONFIG --data DIR --data DIR --aliases FILE [--left 0] [--draws 20]

How it works: of the tasks on which a model has enough outcomes, some are drawn and their outcomes taken away, but for a
few of each if `--left` says so, and never all of a model's in one set. What the table then holds is compared with the
mean of all outcomes there, beside what it would hold if it were pulled towards the model's mean over all tasks. So is a
model's standing in its set, once by least squares of prompt and model, once as the mean of what is left.

Legend of array suffixes: B rows, T tasks, R rules.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from router_models.outcomes.standing import standing
from router_models.training.config import load_config
from router_models.training.rows import Library, Rows, training_pools
from router_models.training.tables import SHRINK_OUTCOMES, fit_tables, log_lengths

SHARE, DRAWS = 0.1, 20
# With fewer outcomes the mean that a table is held against would be off by more than .09 itself.
LEAST_OUTCOMES = 30


def hidden_cells(library: Library, rows: Rows, share: float, seed: int) -> np.ndarray:
    """Cells drawn at random of those with enough outcomes: bool [T, R]."""
    rng = np.random.default_rng(seed)
    member_TB = np.eye(len(library.tasks), dtype=np.float32)[rows.task].T
    enough_TR = member_TB @ np.isfinite(rows.score) >= LEAST_OUTCOMES
    hidden_TR: np.ndarray = enough_TR & (rng.random(enough_TR.shape) < share)
    for rule in np.flatnonzero((enough_TR == hidden_TR).all(0) & enough_TR.any(0)):
        hidden_TR[rng.choice(np.flatnonzero(enough_TR[:, rule])), rule] = False
    return hidden_TR


def without(rows: Rows, hidden_TR: np.ndarray, left: int = 0) -> Rows:
    """The rows as if these had never been asked, or only so many questions each."""
    gone_BR = hidden_TR[rows.task]
    for task, rule in np.argwhere(hidden_TR) if left else ():
        own_B = (rows.task == task) & np.isfinite(rows.score[:, rule])
        gone_BR[own_B & np.isin(rows.group, np.unique(rows.group[own_B])[:left]), rule] = False
    score_BR, tokens_BR = (np.where(gone_BR, np.nan, each) for each in (rows.score, rows.output_tokens))
    return replace(rows, score=score_BR, output_tokens=tokens_BR)


def errors(library: Library, rows: Rows, left: Rows, hidden_TR: np.ndarray) -> Iterator[tuple[str, int, float, float]]:
    """What is judged, pool, absolute error of what the rows left let expect, and of what the model's mean would say."""
    tables = fit_tables(library, left)
    judged = {
        "score": (tables.quality_TR, rows.score, left.score),
        "log length": (tables.log_tokens_TR, log_lengths(rows), log_lengths(left)),
    }
    for name, (table_TR, value_BR, left_BR) in judged.items():
        for task, rule in np.argwhere(hidden_TR):
            told = value_BR[rows.task == task, rule]
            if np.isfinite(told).any():
                true, usual = np.nanmean(told), _pulled(left_BR[rows.task == task, rule], left_BR[:, rule])
                yield name, int(library.pool_R[rule]), float(abs(table_TR[task, rule] - true)), float(abs(usual - true))
    for pool in range(len(library.pools)):
        own_B, own_R = (rows.pool == pool) & ~rows.is_second, np.flatnonzero(library.pool_R == pool)
        true_R = standing(rows.score[own_B][:, own_R])
        left_BR = left.score[own_B][:, own_R]
        expected_R, usual_R = np.abs(standing(left_BR) - true_R), np.abs(np.nanmean(left_BR, axis=0) - true_R)
        for rule in np.flatnonzero(hidden_TR[:, own_R].any(0)):
            yield "standing", pool, float(expected_R[rule]), float(usual_R[rule])


def _pulled(value_B: np.ndarray, all_B: np.ndarray) -> float:
    """The mean of some outcomes, pulled towards that of all."""
    known = value_B[np.isfinite(value_B)]
    return float((known.sum() + SHRINK_OUTCOMES * np.nanmean(all_B)) / (len(known) + SHRINK_OUTCOMES))


def main() -> None:
    """Print a line of JSON for what is judged, set by set and over all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--aliases", type=Path)
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--left", type=int, default=0)
    parser.add_argument("--draws", type=int, default=DRAWS, help="seeds 0, 1, ...")
    given = parser.parse_args()
    config = load_config(given.config).model_copy(update={"data": tuple(given.data), "aliases": given.aliases})
    pools = training_pools(config)
    library, rows = pools.library, pools.rows
    found: list[tuple[str, int, float, float]] = []
    for seed in range(given.draws):
        hidden_TR = hidden_cells(library, rows, given.share, seed)
        found += errors(library, rows, without(rows, hidden_TR, given.left), hidden_TR)
    for name in dict.fromkeys(each[0] for each in found):
        for pool in (None, *range(len(library.pools))):
            own = np.array([each[2:] for each in found if each[0] == name and pool in (None, each[1])])
            if len(own):
                expected, usual = (round(float(each), 4) for each in own.mean(0))
                said = {"of": name, "set": "all" if pool is None else library.pools[pool], "cells": len(own)}
                print(json.dumps({**said, "expected": expected, "by_the_mean": usual}), flush=True)


if __name__ == "__main__":
    main()
