"""The study of new models: what its figures mean, on data whose answers are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from router_models.heads.odds import logit, sigmoid
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError, write_outcomes
from router_models.studies import new_models as study
from router_models.studies.new_models import ANCHORS, OutOfFold, Pool, new_models, out_of_fold
from router_models.training.rows import folds_of

PROMPTS, MODELS = 400, 9


def outcomes(seed: int = 0) -> OutOfFold:
    """Models of different ability and taste; better ones cost more."""
    rng = np.random.default_rng(seed)
    embedding_BD = rng.normal(size=(PROMPTS, 4))
    ability_M, taste_MD = np.linspace(-1, 1, MODELS), rng.normal(0, 0.7, (MODELS, 4))
    quality_BM = sigmoid(ability_M + embedding_BD @ taste_MD.T)
    return OutOfFold(
        score_BM=(rng.random(quality_BM.shape) < quality_BM).astype(float),
        cost_BM=np.exp(ability_M) * rng.uniform(0.9, 1.1, quality_BM.shape) * 1e-3,
        logit_BM=logit(quality_BM),
        fold_B=np.arange(PROMPTS) % 4,
        task_B=np.where(embedding_BD[:, 0] > 0, "maths", "prose"),
        like_BD=embedding_BD,
        anchor_B=np.arange(PROMPTS) < 100,
    )


def test_larger_exams_recover_more_of_the_gain_and_all_of_it_in_the_end() -> None:
    found = new_models(outcomes(), (10, 300), pools=12, draws=2)
    assert found["10"].recovered < found["300"].recovered
    assert 0.7 < found["300"].recovered < 1.2
    assert found["300"].recovered_low < found["300"].recovered < found["300"].recovered_high
    assert found["300"].brier < found["10"].brier


def test_intervals_hold_in_about_nine_of_ten_groups() -> None:
    assert 0.8 < new_models(outcomes(), (50,), pools=12, draws=2)["50"].coverage <= 1.0


def test_anchors_are_an_exam_of_their_own() -> None:
    found = new_models(outcomes(), (20, ANCHORS), pools=4, draws=1)
    assert found[ANCHORS].shots == 75
    assert found[ANCHORS].recovered != found["20"].recovered


def test_the_gain_of_a_model_known_as_well_as_the_others_is_the_full_gain() -> None:
    data = outcomes()
    pool = Pool(data, np.array([0, 1, 2, 3, 4, 5, 8]))
    assert pool.gain(sigmoid(data.logit_BM[:, 8])) == pytest.approx(pool.full_gain)
    assert pool.full_gain > 0


def test_a_model_that_is_thought_useless_changes_nothing() -> None:
    pool = Pool(outcomes(), np.array([0, 1, 2, 3, 4, 5, 8]))
    assert pool.gain(np.full(PROMPTS, -1.0)) == pytest.approx(0, abs=1e-12)


def test_a_model_is_no_candidate_where_it_has_no_outcome() -> None:
    data = outcomes()
    score_BM = data.score_BM.copy()
    score_BM[:, 8] = np.nan
    pool = Pool(replace(data, score_BM=score_BM), np.array([0, 1, 2, 3, 4, 5, 8]))
    assert pool.gain(np.ones(PROMPTS)) == 0


def test_costs_are_expected_from_other_folds_only() -> None:
    data = outcomes()
    cost_BM = data.cost_BM.copy()
    cost_BM[data.fold_B == 2] *= 1000
    changed = replace(data, cost_BM=cost_BM)
    in_fold_B = data.fold_B == 2
    assert np.array_equal(changed.expected_cost[in_fold_B], data.expected_cost[in_fold_B])
    assert (changed.expected_cost[~in_fold_B] > 10 * data.expected_cost[~in_fold_B]).all()


def test_like_prompts_are_grouped_within_folds() -> None:
    data = outcomes()
    for group in np.unique(data.groups):
        assert len(np.unique(data.fold_B[data.groups == group])) == 1


def write_study(data: OutOfFold, folder: Path) -> tuple[Path, Path]:
    """What a study of generalisation leaves, and the set it is about; the rows of the two are in different orders."""
    ids, models = np.array([f"p{row}" for row in range(PROMPTS)]), [f"m{model}" for model in range(MODELS)]
    stranger = np.full((PROMPTS, 1), np.nan)
    np.savez(
        folder / "questions.npz",
        pools=np.array(["other", "made-up"]),
        pool=np.ones(PROMPTS, int),
        models=np.array(["stranger", *models]),
        prompt_id=ids,
        group=np.arange(PROMPTS),
        task=np.arange(PROMPTS) % 2,
        score=np.concatenate([stranger, data.score_BM], axis=1),
        full_quality=np.concatenate([np.full((PROMPTS, 1), 0.5), sigmoid(data.logit_BM)], axis=1),
        kind=np.eye(2)[np.arange(PROMPTS) % 2],
    )
    marked = [bool(mark) for mark in data.anchor_B] if data.anchor_B is not None else []
    prompts = [{"prompt_id": ids[row], "prompt": "x", "anchor": marked[row]} for row in reversed(range(PROMPTS))]
    outcomes = [
        {
            "prompt_id": ids[row],
            "model": name,
            "score": float(data.score_BM[row, m]),
            "cost_usd": float(data.cost_BM[row, m]),
        }
        for row in range(PROMPTS)
        for m, name in enumerate(models)
    ]
    write_outcomes(folder / "made-up", OutcomesDataset(pa.Table.from_pylist(prompts), pa.Table.from_pylist(outcomes)))
    return folder, folder / "made-up"


def test_a_study_is_read_beside_its_set(tmp_path: Path) -> None:
    data = outcomes()
    made, read = data, out_of_fold(*write_study(data, tmp_path), None)

    np.testing.assert_array_equal(read.score_BM, made.score_BM)
    np.testing.assert_allclose(read.cost_BM, made.cost_BM)
    np.testing.assert_allclose(read.logit_BM, made.logit_BM, atol=0.01)
    assert read.anchor_B is not None
    np.testing.assert_array_equal(read.anchor_B, made.anchor_B)
    np.testing.assert_array_equal(read.fold_B, folds_of(np.arange(PROMPTS), 5, 1))


def test_a_set_that_the_study_is_not_about_is_refused(tmp_path: Path) -> None:
    study_folder, _ = write_study(outcomes(), tmp_path)

    with pytest.raises(OutcomesError, match="is about other, made-up, not about another"):
        out_of_fold(study_folder, tmp_path / "another", None)


def test_the_command_prints_the_figures_of_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study_folder, data = write_study(outcomes(), tmp_path)

    study.main(["--study", str(study_folder), "--data", str(data), "--pools", "2", "--draws", "1", "--json"])

    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["20", "50", "100", "200", "anchors"]
    assert printed["20"]["shots"] == 20
