"""Models join an artifact by an exam: a new artifact that loads, knows them, and says of the old ones what it said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from router_models.artifact import Artifact, load_artifact, write_artifact
from router_models.onboarding import Exam, exam_of, onboard
from router_models.outcomes import OutcomesDataset, OutcomesError
from router_models.predictor import ArtifactPredictor
from tests.fakes.artifacts import tiny_artifact, tiny_dataset, tiny_pools_artifact

NEW = ("adder", "poet")


def exam(
    artifact: Artifact, models: tuple[str, ...] = NEW, shots: int | None = 60, dataset: OutcomesDataset | None = None
) -> Exam:
    return exam_of(artifact, models, "graded", dataset or tiny_dataset(), shots, seed=1)


def joined(artifact: Artifact, models: tuple[str, ...] = NEW, shots: int | None = 60) -> Artifact:
    return onboard(artifact, models, exam(artifact, models, shots), "tiny-v2", seed=1)[0]


@pytest.mark.parametrize("old", [tiny_artifact(rows=80), tiny_pools_artifact(rows=80)], ids=["one pool", "two pools"])
def test_the_new_artifact_loads_and_predicts_all_models(old: Artifact, tmp_path: Path) -> None:
    write_artifact(tmp_path / "tiny-v2", joined(old))

    loaded = load_artifact(tmp_path / "tiny-v2")

    assert loaded.models == (*old.models, *NEW)
    assert loaded.trained_models == old.models
    assert [row["model"] for row in loaded.about["joined"]] == list(NEW)
    prompts = tiny_dataset(60, seed=3).conversations()
    before, after = (ArtifactPredictor(each).predict(prompts) for each in (old, loaded))
    np.testing.assert_allclose(after.quality[:, : len(old.models)], before.quality, atol=1e-5)
    np.testing.assert_allclose(after.output_tokens[:, : len(old.models)], before.output_tokens, rtol=1e-5)
    assert np.isfinite(after.quality).all()
    assert np.array_equal(after.unfamiliar, before.unfamiliar)


def test_a_glance_knows_them_too() -> None:
    artifact = joined(tiny_artifact(rows=80))

    assert ArtifactPredictor(artifact).glance([(("user", "add apples"),)]).quality.shape == (1, 4)


def test_each_is_better_where_it_answered_better() -> None:
    """Kinds of prompt are those that the artifact tells apart; adder is good at one of them, poet at the other."""
    predictor = ArtifactPredictor(joined(tiny_artifact(rows=400), shots=200))

    prediction = predictor.predict([(("user", "add all apples"),), (("user", "rhyme rose river"),)])

    adder, poet = prediction.quality[:, -2:].T
    assert adder[0] > poet[0] + 0.2
    assert poet[1] > adder[1] + 0.2
    usual = np.nanmean(tiny_dataset().matrix("output_tokens", NEW), axis=0)
    assert prediction.output_tokens[:, -2:] == pytest.approx(np.tile(usual, (2, 1)), rel=0.2)


def test_more_graded_prompts_narrow_what_is_expected() -> None:
    old = tiny_artifact(rows=200)

    widths = []
    for shots in (20, 200):
        _, (report, _) = onboard(old, NEW, exam(old, shots=shots), "tiny-v2", seed=1)
        low, high = report.expected_quality_interval
        widths.append(high - low)
        assert low < report.expected_quality < high
        assert report.prompts == shots
        assert report.has_lengths

    assert widths[1] < 0.7 * widths[0]


def test_the_exam_becomes_calibration_rows_that_were_not_fitted_on() -> None:
    old = tiny_artifact(rows=80)
    new = exam(old)

    calibration = onboard(old, NEW, new, "tiny-v2", seed=1)[0].calibration

    assert calibration.datasets == ("tiny", "graded")
    assert calibration.quality.shape == (140, 4)
    np.testing.assert_array_equal(calibration.score[80:, 2:], new.score_KJ)
    assert np.isnan(calibration.score[:80, 2:]).all()
    assert np.isnan(calibration.score[80:, :2]).all()
    turned = replace(new, score_KJ=new.score_KJ.copy())
    turned.score_KJ[0] = 1 - turned.score_KJ[0]
    after = onboard(old, NEW, turned, "tiny-v2", seed=1)[0].calibration
    np.testing.assert_allclose(after.quality[80, 2:], calibration.quality[80, 2:], atol=1e-6)
    assert np.abs(after.quality[81:, 2:] - calibration.quality[81:, 2:]).max() > 1e-4


def test_models_may_join_one_after_the_other() -> None:
    first = joined(tiny_artifact(rows=80), ("adder",))

    second = joined(first, ("poet",))

    assert second.models == ("small", "large", "adder", "poet")
    together = ArtifactPredictor(joined(tiny_artifact(rows=80)))
    prompts = [(("user", "rose rain add"),)]
    np.testing.assert_allclose(
        ArtifactPredictor(second).predict(prompts).quality, together.predict(prompts).quality, atol=1e-5
    )


def test_scores_of_old_models_on_the_same_prompts_are_used() -> None:
    """Where small and large failed, a failure of a new model says less."""
    old, dataset = tiny_artifact(rows=80), tiny_dataset()
    outcomes = dataset.outcomes.to_pylist()
    for name, score in (("small", 0.0), ("large", 0.0)):
        outcomes += [
            {**row, "model": name, "score": score} for row in dataset.outcomes.to_pylist() if row["model"] == "adder"
        ]
    hard = OutcomesDataset(dataset.prompts, pa.Table.from_pylist(outcomes))

    easy_report, hard_report = (
        onboard(old, NEW, exam(old, dataset=each), "tiny-v2", seed=1)[1][0] for each in (dataset, hard)
    )

    assert hard_report.expected_quality > easy_report.expected_quality


def test_anchors_bring_the_old_scores_along() -> None:
    anchors = tuple(
        {"prompt_id": f"p{number}", "prompt": "x", "grader": "exact", "scores": {"small": 0.25}}
        for number in range(240)
    )
    old = replace(tiny_artifact(rows=80), anchors=anchors)

    assert exam(old).old_score_KM == pytest.approx(np.tile([0.25, np.nan], (60, 1)), nan_ok=True)


@pytest.mark.parametrize(
    ("models", "shots", "complaint"),
    [
        (("small",), 60, "predicts small already"),
        (("stranger",), 60, "has no outcome of stranger; it has adder, poet"),
        (("adder",), 9, "9 graded prompts are too few; at least 10"),
        (("adder",), 5000, "has 240 prompts on which adder were graded, not 5000"),
    ],
)
def test_an_exam_that_cannot_be_is_refused(models: tuple[str, ...], shots: int, complaint: str) -> None:
    with pytest.raises(OutcomesError, match=complaint):
        exam(tiny_artifact(), models, shots)


def test_a_model_known_under_another_name_is_refused() -> None:
    known = replace(tiny_artifact(), aliases={"adder": "small"})

    with pytest.raises(OutcomesError, match="predicts adder already"):
        exam(known, ("adder",))
