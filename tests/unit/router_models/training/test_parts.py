"""The parts of a head: each finds what was planted, on rows it has not seen, and nothing that is missing counts.

Legend of array suffixes: B rows, F inputs, T tasks, R rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from router_models.heads.layout import Layout
from router_models.heads.odds import sigmoid
from router_models.heads.tryage import EncoderHead, Reading
from router_models.reading.surface import NAMES as SURFACE_NAMES
from router_models.storage.head_check import misfit
from router_models.training import parts as fitting
from router_models.training.rows import Rows
from tests.unit.router_models.training.tiny import LIBRARY, Planted, planted, tiny_config

CONFIG = tiny_config()


@cache
def fitted() -> dict[str, np.ndarray]:
    """Parts of one encoder."""
    learned = planted()
    return fitting.fit_parts(CONFIG, LIBRARY, learned.rows, learned.inputs, seed=1)


def reading_of(tensors: Mapping[str, np.ndarray], judged: Planted) -> Reading:
    return EncoderHead(tensors, "static", Layout(tensors, 3)).read(judged.inputs["static"])


def brier(quality_BR: np.ndarray, judged: Planted) -> float:
    return float(np.nanmean((quality_BR - judged.rows.score) ** 2))


def test_parts_lack_only_what_calibration_adds() -> None:
    added = {
        "full.platt_2P": np.ones((2, 2), np.float32),
        "full.trust_P": np.ones(2, np.float32),
        "full.standing_M": np.zeros(3, np.float32),
        "full.alarm_A": np.zeros(5, np.float32),
        "tokens.spread_M3": np.zeros((3, 3), np.float32),
    }

    assert misfit({**fitted(), **added}, ("static",), 3) is None


def with_second_rows(rows: Rows) -> Rows:
    """Every row twice, each half as heavy."""
    twice = rows.take(np.tile(np.arange(len(rows)), 2))
    return replace(twice, weight=np.full(len(twice), 0.5))


def test_two_rows_of_half_the_weight_are_one_row() -> None:
    learned = planted()
    twice_BF = np.tile(learned.inputs["static"], (2, 1))

    parts = fitting.fit_parts(CONFIG, LIBRARY, with_second_rows(learned.rows), {"static": twice_BF}, seed=1)

    # Clusters are drawn from the rows; the rest is the same, as near as L-BFGS comes.
    for name in set(parts) - {"static.center_KD"}:
        np.testing.assert_allclose(parts[name], fitted()[name], atol=0.02, err_msg=name)


def test_a_missing_score_is_not_a_bad_one() -> None:
    """Half the outcomes of a rule are taken away; were they 0, its rate would be halved."""
    learned = planted()
    score_BR = learned.rows.score.copy()
    score_BR[::2, 0] = np.nan
    thinned = replace(learned.rows, score=score_BR)

    parts = fitting.fit_parts(CONFIG, LIBRARY, thinned, learned.inputs, seed=1)

    known_B = np.isfinite(score_BR[:, 0])
    quality_BR = sigmoid(reading_of(parts, learned).logit_BR)
    assert quality_BR[known_B, 0].mean() == pytest.approx(score_BR[known_B, 0].mean(), abs=0.02)
    assert quality_BR[learned.rows.pool == 0, 0].mean() == pytest.approx(np.nanmean(score_BR[:, 0]), abs=0.05)


def test_tasks_are_recognised_on_other_prompts() -> None:
    judged = planted(seed=1)

    task_BT = reading_of(fitted(), judged).task_BT

    assert (task_BT.argmax(1) == judged.rows.task).mean() > 0.9


def test_task_means_beat_one_mean_and_residuals_beat_task_means_on_rows_they_have_not_seen() -> None:
    judged, tensors = planted(seed=1), fitted()
    reading, layout = reading_of(tensors, judged), Layout(fitted(), 3)
    means_BR = np.broadcast_to(np.nanmean(planted().rows.score, axis=0), judged.rows.score.shape)

    by_mean = brier(means_BR, judged)
    by_task = brier(layout.within_pools(reading.task_BT) @ layout.table_TR, judged)
    by_residual = brier(sigmoid(reading.logit_BR), judged)

    assert by_task < 0.95 * by_mean
    assert by_residual < 0.95 * by_task


def test_what_is_hard_for_all_is_found_and_who_is_better_only_by_chance_is_not() -> None:
    """Nothing was planted that makes one model better than another within a task."""
    weight_FR = fitted()["static.weight_FO"][:, 5:9]
    common_F1 = np.stack([weight_FR[:, :2].mean(1), weight_FR[:, 2:].mean(1)], axis=1).repeat(2, axis=1)

    assert np.abs(common_F1[0]).min() > 3 * np.abs(weight_FR - common_F1).max()


def test_a_residual_is_held_by_the_prior_as_the_rules_own_outcomes_are_few() -> None:
    """The last input decides the answers of rule 0; of four outcomes that there are, one is left."""
    learned = planted(per_task=200)
    score_BR = learned.rows.score.copy()
    own_B = np.isfinite(score_BR[:, 0])
    score_BR[own_B, 0] = learned.inputs["static"][own_B, -1] > 0
    thinned_BR = score_BR.copy()
    thinned_BR[np.arange(len(score_BR)) % 4 > 0, 0] = np.nan
    config = tiny_config(residual_prior=1_000.0)

    def said(score_BR: np.ndarray) -> float:
        """More than of the other rule of its pool."""
        rows = replace(learned.rows, score=score_BR)
        weight_FO = fitting.fit_parts(config, LIBRARY, rows, learned.inputs, seed=1)["static.weight_FO"]
        return float(weight_FO[-1, 5] - weight_FO[-1, 6])

    assert 0 < said(thinned_BR) < 0.6 * said(score_BR)


def test_soft_scores_are_targets_as_they_are() -> None:
    learned = planted()
    soft = replace(learned.rows, score=np.where(np.isfinite(learned.rows.score), np.float32(0.25), np.nan))

    parts = fitting.fit_parts(CONFIG, LIBRARY, soft, learned.inputs, seed=1)

    quality_BR = sigmoid(reading_of(parts, learned).logit_BR)
    np.testing.assert_allclose(quality_BR[np.isfinite(soft.score)], 0.25, atol=0.01)


def test_lengths_follow_task_and_model() -> None:
    judged = planted(seed=1)

    predicted_BR = np.exp(reading_of(fitted(), judged).log_tokens_BR)

    ratio_BR = predicted_BR / judged.rows.output_tokens
    assert np.nanquantile(ratio_BR, 0.1) > 0.7
    assert np.nanquantile(ratio_BR, 0.9) < 1.4


def test_a_rule_with_few_lengths_is_said_to_have_none() -> None:
    learned = planted()
    lengths_BR = learned.rows.output_tokens.copy()
    lengths_BR[np.flatnonzero(np.isfinite(lengths_BR[:, 0]))[fitting.LEAST_LENGTHS - 1 :], 0] = np.nan

    parts = fitting.fit_parts(CONFIG, LIBRARY, replace(learned.rows, output_tokens=lengths_BR), learned.inputs, seed=1)

    assert fitted()["tokens.known_R"].tolist() == [1, 1, 1, 0]
    assert parts["tokens.known_R"].tolist() == [0, 1, 1, 0]
    assert np.isfinite(parts["static.weight_FO"]).all()


def test_an_input_that_never_moves_does_no_harm() -> None:
    learned = planted()
    still_BF = learned.inputs["static"].copy()
    still_BF[:, 3] = 0.25
    parts = fitting.fit_parts(CONFIG, LIBRARY, learned.rows, {"static": still_BF}, seed=1)

    assert parts["static.scale_F"][3] == pytest.approx(fitting.LEAST_SCALE)
    assert np.isfinite(parts["static.weight_FO"]).all()


@pytest.mark.parametrize("read", [False, True])
def test_no_part_says_anything_else_for_another_surface_unless_the_surface_is_read(read: bool) -> None:
    learned, config = planted(), tiny_config(surface=read)
    parts = fitting.fit_parts(config, LIBRARY, learned.rows, learned.inputs, seed=1)
    other_BF = learned.inputs["static"].copy()
    other_BF[:, -len(SURFACE_NAMES) :] = 10 - 2 * other_BF[:, -len(SURFACE_NAMES) :]

    one, other = reading_of(parts, learned), reading_of(parts, replace(learned, inputs={"static": other_BF}))

    for name in ("task_BT", "logit_BR", "own_BP", "log_tokens_BR", "alarm_BA"):
        assert np.allclose(getattr(one, name), getattr(other, name), atol=1e-4) != read, name


def test_clusters_find_what_is_alike() -> None:
    near_BD = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)

    center_KD, cluster_B = fitting.kmeans(near_BD, 4, seed=3)

    assert all(len(set(cluster_B[start : start + 10])) == 1 for start in range(0, 40, 10))
    np.testing.assert_allclose(np.linalg.norm(center_KD, axis=1), 1, rtol=1e-5)


def test_there_are_no_more_clusters_than_rows() -> None:
    assert fitting.kmeans(np.eye(3, dtype=np.float32), 64, seed=1)[0].shape == (3, 3)
