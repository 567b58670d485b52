"""Models that joined stand behind the old ones, as they were stored, and change nothing about those."""

from __future__ import annotations

import numpy as np
import pytest

from router_models.heads.joined import LEAST_ANSWERS, Joined, Lengths, joined_count, usual_log_lengths
from router_models.heads.newcomer import fit_newcomer, population
from router_models.heads.odds import logit
from router_models.heads.population import Rows
from router_models.prediction import Prediction

OLD, TASKS, PROMPTS = 6, 3, 240


def old_models(seed: int = 0) -> tuple[Rows, Prediction, np.ndarray]:
    rng = np.random.default_rng(seed)
    task_BT = np.eye(TASKS)[rng.integers(TASKS, size=PROMPTS)]
    quality_BM = np.clip(
        0.5 + 0.3 * task_BT @ rng.normal(size=(TASKS, OLD)) + 0.1 * rng.normal(size=(PROMPTS, 1)), 0.05, 0.95
    )
    score_BM = (rng.random(quality_BM.shape) < quality_BM).astype(float)
    flat = np.full((PROMPTS, OLD), 100.0)
    interval, tokens_interval = np.stack([quality_BM] * 2, 2), np.stack([flat] * 2, 2)
    prediction = Prediction(quality_BM, interval, flat, tokens_interval, np.zeros(PROMPTS, bool))
    return Rows.of(logit(quality_BM), score_BM, task_BT), prediction, task_BT


def two_joined() -> Joined:
    rows, _, _ = old_models()
    old, exam = population(rows), rows.take(np.arange(60))
    newcomers = [fit_newcomer(exam, np.full(60, mean), old) for mean in (0.2, 0.9)]
    return Joined(newcomers, [Lengths(0.7, 0.5), Lengths(np.nan, 0.7)])


def test_what_is_stored_predicts_as_before() -> None:
    joined = two_joined()
    _, prediction, task_BT = old_models(seed=1)

    tensors = joined.tensors()
    restored = Joined.of(tensors)

    assert restored is not None
    assert joined_count(tensors) == len(restored) == 2
    assert all(tensor.dtype in (np.float32, np.uint8) and np.isfinite(tensor).all() for tensor in tensors.values())
    for one, other in zip(
        _parts(joined.extend(prediction, task_BT)), _parts(restored.extend(prediction, task_BT)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_old_columns_stay_and_new_ones_follow() -> None:
    _, prediction, task_BT = old_models(seed=1)

    extended = two_joined().extend(prediction, task_BT)

    assert extended.quality.shape == (PROMPTS, OLD + 2)
    for before, after in zip(_parts(prediction), _parts(extended), strict=True):
        np.testing.assert_allclose(after[:, :OLD], before, rtol=1e-6)
    weak, strong = extended.quality[:, -2:].T
    assert weak.mean() < 0.35
    assert strong.mean() > 0.7
    low, high = extended.quality_interval[:, -1].T
    assert (low < strong).all()
    assert (strong < high).all()
    assert (high <= 1).all()


def test_a_model_that_writes_twice_as_much_is_expected_to() -> None:
    usual_log_B = usual_log_lengths(np.full((2000, 3), 100.0))
    tokens_K = 200 * np.exp(np.random.default_rng(0).normal(0, 0.8, 2000))

    joined = Joined((), [Lengths.of(tokens_K, usual_log_B)])
    mean_BJ, ends_BJ2 = joined.tokens(usual_log_B)

    assert mean_BJ[0, 0] == pytest.approx(tokens_K.mean(), rel=0.05)
    assert np.mean((ends_BJ2[0, 0, 0] < tokens_K) & (tokens_K < ends_BJ2[0, 0, 1])) == pytest.approx(0.9, abs=0.05)


def test_few_answers_leave_the_length_wide_open() -> None:
    few, many = (Lengths.of(np.full(count, 50.0), np.full(count, 4.0)) for count in (6, 600))

    assert few.deviation > 3 * many.deviation
    assert few.deviation == pytest.approx(np.sqrt(5 * 0.49 / 10 * (1 + 1 / 6)))


def test_no_answer_is_believed_to_be_longer_than_any() -> None:
    mean_BJ, ends_BJ2 = Joined((), [Lengths(np.log(30), 0.5)]).tokens(np.log([20_000.0]))

    assert mean_BJ.max() == pytest.approx(100_000)
    assert ends_BJ2.max() == pytest.approx(100_000)


@pytest.mark.parametrize("tokens_K", [np.full(LEAST_ANSWERS - 1, 50.0), np.full(40, np.nan)])
def test_without_lengths_the_length_is_unknown(tokens_K: np.ndarray) -> None:
    lengths = Lengths.of(tokens_K, np.full(len(tokens_K), 4.0))

    assert np.isnan(Joined((), [lengths]).tokens(np.full(3, 4.0))[0]).all()


def test_models_without_predicted_lengths_do_not_count_for_the_usual_one() -> None:
    tokens_BM = np.array([[100.0, np.nan], [np.nan, np.nan]])

    assert usual_log_lengths(tokens_BM) == pytest.approx([np.log(100), np.nan], nan_ok=True)


def test_an_artifact_of_trained_models_alone_has_none() -> None:
    assert Joined.of({}) is None


def _parts(prediction: Prediction) -> tuple[np.ndarray, ...]:
    return (
        prediction.quality,
        prediction.quality_interval,
        prediction.output_tokens,
        prediction.output_tokens_interval,
    )


def test_side_by_side_each_is_predicted_as_by_itself() -> None:
    rows, _, _ = old_models()
    old, exam = population(rows), rows.take(np.arange(60))
    newcomers = [fit_newcomer(exam, np.full(60, mean), old) for mean in (0.2, 0.6, 0.9)]
    joined = Joined(newcomers, [Lengths(0.0, 0.5)] * 3)

    quality_BJ, deviation_BJ = joined.quality(rows.logit_BR, rows.kind_BG)

    for place, newcomer in enumerate(newcomers):
        quality_B, deviation_B = newcomer.predict(rows.logit_BR, rows.kind_BG)
        np.testing.assert_allclose(quality_BJ[:, place], quality_B, rtol=1e-9)
        np.testing.assert_allclose(deviation_BJ[:, place], deviation_B, rtol=1e-9)
