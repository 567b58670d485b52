"""Mean scores that nobody measured: kept where they were, and better than a guess where they were not.

Legend of array suffixes: T tasks, R rules, M models.
"""

from __future__ import annotations

import numpy as np
import pytest

from router_models.heads.odds import logit, sigmoid
from router_models.training.completion import expected_values, with_measured
from router_models.training.rows import Library

# Four pools of three tasks; of eight models, each answered two pools, and each pool shares models with two others.
POOL_T = np.repeat(np.arange(4), 3)
RULES = [(pool, model) for model in range(8) for pool in sorted({model % 4, (model + 1) % 4})]


def library(pool_T: np.ndarray, rules: list[tuple[int, int]]) -> Library:
    models = 1 + max(model for _, model in rules)
    return Library(
        models=tuple(f"m{model}" for model in range(models)),
        pools=tuple(f"p{pool}" for pool in np.unique(pool_T)),
        tasks=tuple(f"t{task}" for task in range(len(pool_T))),
        pool_T=pool_T,
        pool_R=np.array([pool for pool, _ in rules]),
        model_R=np.array([model for _, model in rules]),
        aliases={},
    )


def planted(seed: int) -> np.ndarray:
    """Logits of one ability per model, on tasks that differ in level and a little in how much ability counts [T, M]."""
    rng = np.random.default_rng(seed)
    level_T, slope_T, ability_M = rng.normal(size=12), rng.uniform(0.8, 1.2, 12), rng.normal(size=8)
    return np.asarray(level_T[:, None] + slope_T[:, None] * ability_M)


def measured_by(whole: Library, logit_TM: np.ndarray) -> np.ndarray:
    """The table [T, R] of a library that measured these."""
    in_pool_TR = whole.pool_T[:, None] == whole.pool_R
    return np.asarray(np.where(in_pool_TR, sigmoid(logit_TM)[:, whole.model_R], 0), np.float32)


def completed_logits(table_TR: np.ndarray, whole: Library) -> np.ndarray:
    """Where whole pools were measured."""
    in_pool_TR = whole.pool_T[:, None] == whole.pool_R
    return with_measured(expected_values(logit(table_TR), in_pool_TR.astype(float), whole), logit(table_TR), whole)


def known(whole: Library) -> np.ndarray:
    """Which cells were measured [T, M]."""
    known_TM = np.zeros((len(whole.pool_T), len(whole.models)), bool)
    for pool, model in zip(whole.pool_R, whole.model_R, strict=True):
        known_TM[whole.pool_T == pool, model] = True
    return known_TM


@pytest.mark.parametrize("seed", range(5))
def test_what_was_measured_stays_and_what_was_not_is_closer_than_column_and_row_means(seed: int) -> None:
    whole, true_TM = library(POOL_T, RULES), planted(seed)
    known_TM = known(whole)

    completed_TM = completed_logits(measured_by(whole, true_TM), whole)

    np.testing.assert_allclose(completed_TM[known_TM], true_TM[known_TM], atol=1e-4)
    only_known_TM = np.where(known_TM, true_TM, np.nan)
    missed = np.abs(completed_TM - true_TM)[~known_TM].mean()
    for axis in (0, 1):
        mean_TM = np.broadcast_to(np.nanmean(only_known_TM, axis=axis, keepdims=True), true_TM.shape)
        assert missed < 0.5 * np.abs(mean_TM - true_TM)[~known_TM].mean()


def test_nothing_is_left_to_complete_in_one_pool() -> None:
    whole = library(np.array([0, 0]), [(0, 1), (0, 0)])
    table_TR = np.array([[0.2, 0.9], [0.4, 0.6]], np.float32)

    np.testing.assert_allclose(completed_logits(table_TR, whole), logit(table_TR[:, ::-1]), rtol=1e-5)


def test_pools_without_a_common_model_still_have_a_number_for_everyone() -> None:
    """Nothing links the scales, so a good model of the one pool is taken for a good one of the other."""
    whole = library(np.array([0, 0, 1]), [(0, 0), (0, 1), (1, 2), (1, 3)])
    table_TR = np.array([[0.9, 0.5, 0, 0], [0.8, 0.4, 0, 0], [0, 0, 0.6, 0.2]], np.float32)

    completed_TM = completed_logits(table_TR, whole)

    assert np.isfinite(completed_TM).all()
    assert completed_TM[2, 0] > completed_TM[2, 1]
    assert completed_TM[0, 2] > completed_TM[0, 3]


def test_what_is_hardly_known_hardly_counts() -> None:
    """The first model failed the third task, once; others say that it is an easy one, and that this model is good."""
    whole = library(np.array([0, 0, 0]), [(0, 0), (0, 1), (0, 2)])
    true_TM = np.array([[2.0, 0.0, -1.0], [2.0, 0.0, -1.0], [2.0, 0.0, -1.0]])
    value_TM = true_TM.copy()
    value_TM[2, 0] = -4.0
    weight_TM = np.ones((3, 3))

    trusting_TM = expected_values(value_TM, weight_TM, whole)
    weight_TM[2, 0] = 1e-3
    expected_TM = expected_values(value_TM, weight_TM, whole)

    assert abs(expected_TM[2, 0] - 2.0) < 0.5
    assert trusting_TM[2, 0] < 0.5
