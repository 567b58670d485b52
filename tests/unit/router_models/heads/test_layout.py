"""Pools, tasks and rules: whose figure is whose, and how several pools become one number per model.

Legend of array suffixes: B prompts, T tasks, P pools, R rules, M models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from router_models.heads.layout import COMPLETED_WEIGHT, Layout
from router_models.heads.odds import logit, sigmoid

# What counts so that nothing is divided by 0 may show in the sixth digit.
CLOSE = 1e-5


def layout(
    pool_T: Sequence[int],
    rules: Sequence[tuple[int, int]],
    table_TR: Sequence[Sequence[float]],
    complete_TM: Sequence[Sequence[float]],
) -> Layout:
    """Rules are (pool, model); what is completed is given as a probability."""
    quality_TR = np.array(table_TR, np.float32)
    tensors = {
        "layout.pool_T": np.array(pool_T, np.int32),
        "layout.pool_R": np.array([pool for pool, _ in rules], np.int32),
        "layout.model_R": np.array([model for _, model in rules], np.int32),
        "table.quality_TR": quality_TR,
        "table.log_tokens_TR": np.zeros_like(quality_TR),
        "complete.logit_TM": logit(np.array(complete_TM, np.float32)),
    }
    return Layout(tensors, len(complete_TM[0]))


ONE_POOL = layout([0, 0], [(0, 1), (0, 0)], [[0.2, 0.6], [0.4, 0.8]], [[0.6, 0.2], [0.8, 0.4]])
"""Two models, their rules in the other order."""

TWO_POOLS = layout(
    pool_T=[0, 0, 1],
    rules=[(0, 0), (0, 1), (1, 1), (1, 2)],
    table_TR=[[0.2, 0.6, 0, 0], [0.4, 0.8, 0, 0], [0, 0, 0.5, 0.7]],
    complete_TM=[[0.2, 0.6, 0.65], [0.4, 0.8, 0.85], [0.3, 0.5, 0.7]],
)
"""The first pool measured models 0 and 1, the second 1 and 2; model 1 links them."""


def mixed(whole: Layout, logit_BR: np.ndarray, task_BT: Sequence[Sequence[float]], own_BP: object = 0.0) -> np.ndarray:
    """Quality of every model, for prompts that add `own_BP` to their tasks in each pool."""
    tasks_BT = np.array(task_BT, np.float32)
    adds_BP = np.broadcast_to(np.array(own_BP, np.float32), (len(tasks_BT), whole.pools))
    return whole.mix(logit_BR.astype(np.float32), adds_BP, tasks_BT, whole.within_pools(tasks_BT))


def test_in_one_pool_the_rules_are_the_models_and_the_task_says_nothing_more() -> None:
    quality_BM = mixed(ONE_POOL, np.array([[-1.0, 2.0]]), [[0.5, 0.5]])

    np.testing.assert_allclose(quality_BM, sigmoid(np.array([[2.0, -1.0]])), rtol=CLOSE)


def test_within_a_pool_its_tasks_share_all_of_the_probability() -> None:
    within_BT = TWO_POOLS.within_pools(np.array([[0.1, 0.3, 0.6], [0.0, 0.0, 1.0]], np.float32))

    np.testing.assert_allclose(within_BT, [[0.25, 0.75, 1.0], [0.0, 0.0, 1.0]], rtol=CLOSE)


def test_a_model_of_both_pools_gets_their_mean_as_much_as_the_prompt_looks_like_each() -> None:
    logit_BR = np.array([[0.3, -1.0, 2.0, 0.1]], np.float32)

    quality_BM = mixed(TWO_POOLS, logit_BR, [[0.1, 0.2, 0.7]])

    assert quality_BM[0, 1] == pytest.approx(0.3 * sigmoid(np.array(-1.0)) + 0.7 * sigmoid(np.array(2.0)), rel=CLOSE)


def test_where_a_model_was_not_measured_its_completed_mean_stands_in_and_counts_little() -> None:
    """The prompt is surely of the second task and adds nothing to it: logits are those of the table."""
    logit_BR = logit(np.array([[0.4, 0.8, 0.5, 0.7]], np.float32))

    quality_BM = mixed(TWO_POOLS, logit_BR, [[0.0, 0.5, 0.5]])

    weight = np.array([1, COMPLETED_WEIGHT]) / (1 + COMPLETED_WEIGHT)
    assert COMPLETED_WEIGHT < 0.5
    assert quality_BM[0, 0] == pytest.approx(weight @ [0.4, 0.3], rel=CLOSE)
    assert quality_BM[0, 2] == pytest.approx(weight @ [0.7, 0.85], rel=CLOSE)


def test_a_completed_mean_alone_decides_where_the_prompt_looks_like_no_other_pool() -> None:
    logit_BR = logit(np.array([[0.4, 0.8, 0.5, 0.7]], np.float32))

    quality_BM = mixed(TWO_POOLS, logit_BR, [[0.0, 1.0, 0.0]])

    assert quality_BM[0, 2] == pytest.approx(0.85, abs=1e-4)


def test_what_a_prompt_adds_to_its_task_for_the_measured_models_is_added_to_what_is_completed() -> None:
    logit_BR = logit(np.array([[0.4, 0.8, 0.5, 0.7]], np.float32))

    quality_BM = mixed(TWO_POOLS, logit_BR, [[0.0, 1.0, 0.0]], own_BP=[[0.8, 5.0]])

    assert quality_BM[0, 2] == pytest.approx(float(sigmoid(logit(np.array(0.85)) + 0.8)), abs=1e-4)
    np.testing.assert_allclose(quality_BM[0, :2], [0.4, 0.8], atol=1e-4)


def test_one_pool_that_lacks_a_model_completes_it() -> None:
    lacking = layout([0], [(0, 1)], [[0.5]], [[0.9, 0.5]])

    quality_BM = mixed(lacking, np.zeros((1, 1)), [[1.0]])

    np.testing.assert_allclose(quality_BM, [[0.9, 0.5]], rtol=CLOSE)


def test_prompts_do_not_influence_each_other() -> None:
    rng = np.random.default_rng(0)
    logit_BR, task_BT, own_BP = (
        rng.normal(size=(5, 4)),
        rng.dirichlet(np.ones(3), size=5).tolist(),
        rng.normal(size=(5, 2)),
    )

    quality_BM = mixed(TWO_POOLS, logit_BR, task_BT, own_BP)

    for row in range(5):
        alone_BM = mixed(TWO_POOLS, logit_BR[row : row + 1], task_BT[row : row + 1], own_BP[row : row + 1])
        np.testing.assert_allclose(alone_BM[0], quality_BM[row], rtol=CLOSE)


@pytest.mark.parametrize(
    ("known_R", "expected_M"),
    [((1, 1, 1, 1), (1.0, 0.25 * 2 + 0.75 * 3, 4.0)), ((1, 1, 0, 1), (1.0, 2.0, 4.0)), ((1, 0, 1, 1), (1.0, 3.0, 4.0))],
)
def test_lengths_are_the_mean_over_the_pools_in_which_they_are_known(
    known_R: tuple[int, ...], expected_M: tuple[float, ...]
) -> None:
    value_BR = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)

    value_BM = TWO_POOLS.mix_known(
        value_BR, np.array([[0.25, 0.0, 0.75]], np.float32), TWO_POOLS.counts(np.array(known_R, np.uint8))
    )

    np.testing.assert_allclose(value_BM[0], expected_M, rtol=CLOSE)


@pytest.mark.parametrize(
    ("task_T", "expected_M"),
    [((0.25, 0.25, 0.5), (0.2, 0.5, 0.8)), ((0.5, 0.5, 0.0), (0.2, 0.2, 0.8)), ((0.0, 0.0, 1.0), (0.2, 0.8, 0.8))],
)
def test_a_number_per_pool_counts_for_a_model_only_where_it_was_measured(
    task_T: tuple[float, ...], expected_M: tuple[float, ...]
) -> None:
    """The outer models know one pool each, however little the prompt looks like it."""
    value_BM = TWO_POOLS.over_own_pools(np.array([0.2, 0.8], np.float32), np.array([task_T], np.float32))

    np.testing.assert_allclose(value_BM[0], expected_M, atol=1e-5)


def test_the_one_rule_of_a_model_speaks_for_it_in_any_pool() -> None:
    value_BR = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)

    value_BM = TWO_POOLS.mix_known(value_BR, np.array([[0.0, 1.0, 0.0]], np.float32), TWO_POOLS.counts(np.ones(4)))

    np.testing.assert_allclose(value_BM[0], [1, 2, 4], rtol=0.01)
