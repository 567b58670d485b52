"""Probabilities and logits: the way there and back, and what is done with them on the logit scale.

Legend of array suffixes: B prompts, M models, T tasks.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from router_models.heads.odds import LEAST_PROBABILITY, logit, shrunk_logit, sigmoid, softmax

QUALITIES = hnp.arrays(float, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(0.01, 0.99))
SIX_STANDINGS = hnp.arrays(float, 6, elements=st.floats(-3, 3))


@pytest.mark.parametrize(("probability", "value"), [(0.5, 0.0), (0.75, np.log(3)), (0.1, -np.log(9))])
def test_a_logit_is_the_logarithm_of_the_odds(probability: float, value: float) -> None:
    assert float(logit(np.array(probability))) == pytest.approx(value)
    assert float(sigmoid(np.array(value))) == pytest.approx(probability)


def test_a_certain_member_cannot_overrule_the_others() -> None:
    sure = np.log((1 - LEAST_PROBABILITY) / LEAST_PROBABILITY)

    np.testing.assert_allclose(logit(np.array([-1.0, 0.0, 1.0, 2.0])), [-sure, -sure, sure, sure])


def test_no_value_is_too_large_for_a_probability() -> None:
    np.testing.assert_array_equal(sigmoid(np.array([-1e6, 1e6], np.float32)), [0, 1])
    np.testing.assert_array_equal(softmax(np.array([[1e6, 0.0, -1e6]])), [[1, 0, 0]])


def test_shares_are_as_the_exponentials() -> None:
    np.testing.assert_allclose(
        softmax(np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]])), [[1 / 8, 1 / 4, 5 / 8], [1 / 3] * 3]
    )


def test_half_the_weight_takes_half_of_what_is_unusual() -> None:
    quality_BM = sigmoid(np.array([[2.0, 0.0]]))

    shrunk_BM = shrunk_logit(quality_BM, np.array([-0.5, 0.5]), 0.5)

    # The common part is 1; the models stand at 0.5 and 1.5, and lie 1.5 above and below that.
    np.testing.assert_allclose(shrunk_BM, [[0.5 + 0.75, 1.5 - 0.75]])


def test_every_prompt_may_have_a_weight_of_its_own() -> None:
    quality_BM = sigmoid(np.array([[2.0, 0.0], [2.0, 0.0]]))

    shrunk_BM = shrunk_logit(quality_BM, np.array([0.0, 0.0]), np.array([[1.0], [0.0]]))

    np.testing.assert_allclose(shrunk_BM, [[2, 0], [1, 1]])


@given(QUALITIES, SIX_STANDINGS)
def test_full_trust_changes_nothing(quality_BM: np.ndarray, standing_6: np.ndarray) -> None:
    standing_M = standing_6[: quality_BM.shape[1]]

    np.testing.assert_allclose(shrunk_logit(quality_BM, standing_M, 1.0), logit(quality_BM), atol=1e-9)


@given(QUALITIES, SIX_STANDINGS)
def test_no_trust_leaves_every_prompt_the_usual_order_and_its_own_difficulty(
    quality_BM: np.ndarray, standing_6: np.ndarray
) -> None:
    standing_M = standing_6[: quality_BM.shape[1]]
    standing_M = standing_M - standing_M.mean()

    shrunk_BM = shrunk_logit(quality_BM, standing_M, 0.0)

    gaps_BM = shrunk_BM - shrunk_BM.mean(1, keepdims=True)
    np.testing.assert_allclose(gaps_BM, np.broadcast_to(standing_M, gaps_BM.shape), atol=1e-9)
    np.testing.assert_allclose(shrunk_BM.mean(1), logit(quality_BM).mean(1), atol=1e-9)
