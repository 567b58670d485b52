"""The study of pairs, on numbers small enough to work out by hand, and on a dataset that has a right answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from router_models.outcomes.dataset import OutcomesDataset, write_outcomes
from router_models.storage.artifact import write_artifact
from router_models.studies.pair_router import pair_features
from router_models.studies.pairs import (
    SHARES,
    STRONG,
    WEAK,
    Scores,
    apgr,
    artifact_features,
    benchmark,
    call_share,
    main,
    recovered,
    study,
)
from tests.fakes.artifacts import SIZE_D, tiny_artifact

# The strong model is right on all four, the weak one on two.
FOUR = Scores(np.ones(4), np.array([1.0, 0.0, 1.0, 0.0]))


def test_the_gap_is_recovered_where_the_strong_model_is_asked() -> None:
    curve = recovered(np.array([0.1, 0.9, 0.2, 0.8]), FOUR)

    assert [curve[0], curve[25], curve[50], curve[100]] == [0.0, 0.5, 1.0, 1.0]


def test_asking_the_strong_model_in_vain_recovers_nothing() -> None:
    curve = recovered(np.array([0.9, 0.1, 0.8, 0.2]), FOUR)

    assert [curve[50], curve[75], curve[100]] == [0.0, 0.5, 1.0]


def test_an_order_without_any_difference_recovers_half_on_average() -> None:
    many = Scores(np.ones(4000), np.tile([1.0, 0.0], 2000))

    assert apgr(recovered(np.zeros(4000), many)) == pytest.approx(0.5, abs=0.02)


def test_the_share_for_a_part_of_the_gap_is_the_least_that_reaches_it() -> None:
    dips = np.where(SHARES < 0.3, 0.0, np.where(SHARES < 0.4, 0.6, np.where(SHARES < 0.7, 0.4, 1.0)))

    assert call_share(dips, 50) == pytest.approx(0.3)
    assert call_share(dips, 80) == pytest.approx(0.7)


def test_two_equal_models_have_no_gap() -> None:
    with pytest.raises(ValueError, match="no gap"):
        recovered(np.arange(4.0), Scores(FOUR.weak, FOUR.weak))


def dataset(count: int) -> OutcomesDataset:
    """Questions that begin with r are beyond the weak model; all of the same length. The last one is contaminated."""
    hard = [row % 2 == 0 for row in range(count)]
    prompts = {
        "prompt_id": [f"p{row}" for row in range(count)],
        "dataset": ["mmlu"] * count,
        "prompt": [f"{'r' if is_hard else 'a'}abc" for is_hard in hard],
        "split": ["eval"] * (count - 1) + ["contaminated"],
    }
    outcomes = {
        "prompt_id": prompts["prompt_id"] * 2,
        "model": [STRONG] * count + [WEAK] * count,
        "score": [1.0] * count + [0.0 if is_hard else 1.0 for is_hard in hard],
    }
    return OutcomesDataset(pa.table(prompts), pa.table(outcomes))


def written(parent: Path, *models: str) -> Path:
    write_artifact(parent / "tiny-v1", tiny_artifact(models or ("small", "large")))
    return parent / "tiny-v1"


def test_what_only_the_embedding_shows_is_found_with_an_artifact_alone(tmp_path: Path) -> None:
    folder = written(tmp_path)
    outcomes = dataset(201)

    blind = {row.policy: row for row in study(outcomes, pair_features, {"mmlu": 100}, seeds=2)}
    seeing = {row.policy: row for row in study(outcomes, artifact_features(folder), {"mmlu": 100}, seeds=2)}

    assert seeing["pair router"].apgr == pytest.approx(seeing["oracle"].apgr)
    assert blind["pair router"].apgr == pytest.approx(0.5, abs=0.15)
    assert seeing["pair router"].tested == 100
    assert "embedding and figures" not in blind


def test_what_an_artifact_says_of_a_prompt_are_its_embedding_and_a_logit_per_model(tmp_path: Path) -> None:
    folder = written(tmp_path, "a", "b", "c")

    found = artifact_features(folder)([(("user", "apples"),), (("user", "rain"),)])

    assert (found.embedding.shape, found.items.shape) == ((2, SIZE_D), (2, 3))


def test_the_oracle_bounds_every_policy_and_rows_carry_every_draw() -> None:
    rng = np.random.default_rng(5)
    prompts = pair_features([(("user", "word " * int(count)),) for count in rng.integers(1, 60, 300)])
    answers = Scores((rng.random(300) < 0.8).astype(float), (rng.random(300) < 0.5).astype(float))

    rows = {row.policy: row for row in benchmark("made up", prompts, answers, labels=100, seeds=3)}

    assert max(row.apgr for row in rows.values()) == rows["oracle"].apgr
    assert all(len(row.apgr_draws) == 3 for row in rows.values())
    assert rows["random"].apgr_sd > 0


def test_the_command_prints_figures_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_outcomes(tmp_path / "routellm_pair", dataset(121))

    main(["--data", str(tmp_path), "--json"], labels={"mmlu": 60})

    rows = json.loads(capsys.readouterr().out)
    assert {row["policy"] for row in rows} == {
        "random",
        "prompt length (no labels)",
        "figures of the text",
        "pair router",
        "oracle",
    }
    assert all(row["labels"] == 60 and row["tested"] == 60 for row in rows)
