"""Models join an artifact by an exam: a new artifact that loads, knows them, and says of the old ones what it said."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from router_models.joining.exam import Exam, exam_of, sat_exam
from router_models.joining.onboarding import onboard
from router_models.joining.resitting import before_exam, with_scores_of
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError
from router_models.predictor import ArtifactPredictor
from router_models.storage.artifact import Artifact, load_artifact, write_artifact
from router_models.storage.calibration import Calibration
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


def with_old_models(dataset: OutcomesDataset, **names: str) -> OutcomesDataset:
    """The dataset with outcomes of small, which fails everywhere and writes 7 tokens; under another name if given."""
    outcomes = dataset.outcomes.to_pylist()
    name = names.get("small", "small")
    outcomes += [
        {**row, "model": name, "score": 0.0, "output_tokens": 7, "input_tokens": 9}
        for row in dataset.outcomes.to_pylist()
        if row["model"] == "adder"
    ]
    return OutcomesDataset(dataset.prompts, pa.Table.from_pylist(outcomes))


def test_the_exam_becomes_calibration_rows() -> None:
    old, dataset = tiny_artifact(rows=80), with_old_models(tiny_dataset())
    new = exam(old, dataset=dataset)
    asked = ArtifactPredictor(old).predict(new.conversations)

    calibration = onboard(old, NEW, new, "tiny-v2", seed=1)[0].calibration

    assert calibration.datasets == ("tiny", "exam on graded")
    np.testing.assert_array_equal(calibration.dataset, np.repeat([0, 1], [80, 60]))
    np.testing.assert_allclose(calibration.kind[80:].sum(1), 1, rtol=1e-5)
    for name in ("score", "output_tokens", "input_tokens"):
        stored = getattr(calibration, name if name != "output_tokens" else "real_output_tokens")
        np.testing.assert_array_equal(stored[80:, 2:], getattr(new.new, name))
        assert np.isnan(stored[:80, 2:]).all()
        assert np.isnan(stored[80:, 1]).all(), "large was not asked"
    assert (calibration.score[80:, 0] == 0).all()
    assert (calibration.real_output_tokens[80:, 0] == 7).all()
    assert (calibration.input_tokens[80:, 0] == 9).all()
    np.testing.assert_allclose(calibration.quality[80:, :2], asked.quality, rtol=1e-5)
    np.testing.assert_allclose(calibration.output_tokens[80:, :2], asked.output_tokens, rtol=1e-5)
    usual = np.nanmean(new.new.output_tokens, axis=0)
    assert np.median(calibration.output_tokens[:, 2:], axis=0) == pytest.approx(usual, rel=0.3)


def test_what_is_said_of_a_prompt_of_the_exam_was_not_fitted_on_it() -> None:
    old = tiny_artifact(rows=80)
    new = exam(old)
    score_KJ = new.new.score.copy()
    score_KJ[0] = 1 - score_KJ[0]

    before, after = (
        onboard(old, NEW, each, "tiny-v2", seed=1)[0].calibration.quality[80:, 2:]
        for each in (new, replace(new, new=replace(new.new, score=score_KJ)))
    )

    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    assert np.abs(after[1:] - before[1:]).max() > 1e-4


def asked_twice(dataset: OutcomesDataset) -> OutcomesDataset:
    """The dataset, in which every two prompts ask the same."""
    pairs = pa.array([f"question {number // 2}" for number in range(dataset.prompts.num_rows)])
    return OutcomesDataset(dataset.prompts.append_column("core_hash", pairs), dataset.outcomes)


def test_a_question_that_is_asked_often_counts_once() -> None:
    old, dataset = tiny_artifact(rows=80), asked_twice(tiny_dataset())

    new = exam(old, shots=None, dataset=dataset)
    extended, (report, _) = onboard(old, NEW, new, "tiny-v2", seed=1)

    score_BJ = dataset.matrix("score", NEW)
    assert len(new) == report.prompts == len(score_BJ) // 2
    np.testing.assert_allclose(extended.calibration.score[80:, 2:], (score_BJ[::2] + score_BJ[1::2]) / 2)
    assert len(exam(old, shots=10, dataset=dataset)) == 10


def taken_in_turn(dataset: OutcomesDataset, shared: int = 0) -> OutcomesDataset:
    """As in a journal: each prompt was answered by one of the two new models, the first ones by both."""
    places = {prompt_id: place for place, prompt_id in enumerate(dataset.prompts["prompt_id"].to_pylist())}
    rows = [
        row
        for row in dataset.outcomes.to_pylist()
        if (place := places[row["prompt_id"]]) < shared or NEW[place % 2] == row["model"]
    ]
    return OutcomesDataset(dataset.prompts, pa.Table.from_pylist(rows))


def test_models_that_answered_different_prompts_join_at_once_as_each_would_alone() -> None:
    old, dataset = tiny_artifact(rows=80), taken_in_turn(tiny_dataset())

    both, reports = onboard(old, NEW, exam(old, shots=None, dataset=dataset), "tiny-v2", seed=1)

    assert [report.prompts for report in reports] == [120, 120]
    assert np.isfinite(both.calibration.score[80:, 2:]).sum(1).tolist() == [1] * 240
    for number, model in enumerate(NEW):
        alone, _ = onboard(old, (model,), exam(old, (model,), None, dataset), "tiny-v2", seed=1)
        np.testing.assert_allclose(
            both.calibration.quality[:80, 2 + number], alone.calibration.quality[:80, 2], atol=1e-3
        )


def test_ratings_that_different_callers_gave_to_one_question_are_no_comparison() -> None:
    """Of each question one caller was answered by adder, one by poet, and one by small, which is known."""
    old, dataset = tiny_artifact(rows=80), asked_twice(taken_in_turn(tiny_dataset()))
    outcomes = with_old_models(dataset).outcomes
    small = outcomes.filter(pc.equal(outcomes["model"], "small"))
    pairs = ((dataset.prompts, of_others(dataset.prompts)), (dataset.outcomes, of_others(small)))

    new = exam(old, shots=None, dataset=OutcomesDataset(*map(pa.concat_tables, pairs)))
    both, reports = onboard(old, NEW, new, "tiny-v2", seed=1)

    assert [report.prompts for report in reports] == [120, 120]
    assert np.isfinite(both.calibration.score[80:]).sum(1).tolist() == [1] * 240
    assert np.isnan(new.old_score_KM).all()
    assert np.unique(new.question_K, return_counts=True)[1].tolist() == [2] * 120


def of_others(rows: pa.Table) -> pa.Table:
    """The same prompts of other callers."""
    ids = pa.array([f"{prompt_id} again" for prompt_id in rows["prompt_id"].to_pylist()])
    return rows.set_column(rows.column_names.index("prompt_id"), "prompt_id", ids)


@pytest.mark.parametrize(("shared", "fewest", "most"), [(240, 40, 40), (100, 41, 79), (0, 80, 80)])
def test_shots_are_so_many_of_each_model_and_the_same_ones_where_they_can_be(
    shared: int, fewest: int, most: int
) -> None:
    drawn = exam(tiny_artifact(), shots=40, dataset=taken_in_turn(tiny_dataset(), shared))

    assert np.isfinite(drawn.new.score).sum(0).tolist() == [40, 40]
    assert np.isfinite(drawn.new.output_tokens).sum(0).tolist() == [40, 40]
    assert fewest <= len(drawn) <= most


def test_an_exam_is_of_every_split_in_which_its_questions_are_asked() -> None:
    dataset = asked_twice(tiny_dataset())
    splits = pa.array(["train", "test"] * (dataset.prompts.num_rows // 2))
    prompts = dataset.prompts.set_column(dataset.prompts.column_names.index("split"), "split", splits)

    assert exam(tiny_artifact(), dataset=OutcomesDataset(prompts, dataset.outcomes)).splits == ("test", "train")


def test_nor_on_another_prompt_that_asks_the_same() -> None:
    old = tiny_artifact(rows=80)
    new = sat_exam(old, NEW, "graded", asked_twice(tiny_dataset()))
    score_KJ = new.new.score.copy()
    score_KJ[:2] = 1 - score_KJ[:2]

    before, after = (
        onboard(old, NEW, each, "tiny-v2", seed=1)[0].calibration.quality[80:, 2:]
        for each in (new, replace(new, new=replace(new.new, score=score_KJ)))
    )

    np.testing.assert_allclose(after[:2], before[:2], atol=1e-6)
    assert np.abs(after[2:] - before[2:]).max() > 1e-4


@pytest.mark.parametrize("learned", ["the set", "anchors"])
def test_scores_of_old_models_on_what_their_heads_learned_from_calibrate_nothing(learned: str) -> None:
    dataset = with_old_models(tiny_dataset())
    texts = dict(zip(dataset.prompts["prompt_id"].to_pylist(), dataset.prompts["prompt"].to_pylist(), strict=True))
    anchors = tuple({"prompt_id": key, "prompt": text, "grader": "exact"} for key, text in texts.items())
    old = replace(tiny_artifact(rows=80), anchors=anchors if learned == "anchors" else ())
    new = exam_of(old, NEW, "tiny" if learned == "the set" else "graded", dataset, 60, seed=1)

    calibration = onboard(old, NEW, new, "tiny-v2", seed=1)[0].calibration

    assert (new.old_score_KM[:, 0] == 0).all()
    assert np.isnan(calibration.score[80:, :2]).all()
    np.testing.assert_array_equal(calibration.score[80:, 2:], new.new.score)


def test_models_may_join_one_after_the_other_from_different_sets() -> None:
    first = joined(tiny_artifact(rows=80), ("adder",))
    exam_again = exam_of(first, ("poet",), "more", tiny_dataset(), 60, seed=1)

    second, (report,) = onboard(first, ("poet",), exam_again, "tiny-v3", seed=1)

    assert second.models == ("small", "large", "adder", "poet")
    assert [row["model"] for row in second.about["joined"]] == ["adder", "poet"]
    together = ArtifactPredictor(joined(tiny_artifact(rows=80)))
    prompts = [(("user", "rose rain add"),)]
    np.testing.assert_allclose(
        ArtifactPredictor(second).predict(prompts).quality, together.predict(prompts).quality, atol=1e-5
    )
    np.testing.assert_array_equal(second.calibration.score[140:, 2], exam_again.known.score[:, 2])
    assert np.isfinite(second.calibration.score[140:, 2]).all(), "adder is compared with poet on the second exam"
    assert set(report.alike) <= {"small", "large"}


def test_an_exam_is_taken_out_again_and_who_joined_otherwise_stays(tmp_path: Path) -> None:
    old = tiny_artifact(rows=80)
    others = exam_of(old, ("poet",), "more", tiny_dataset(), 60, seed=1)
    direct, _ = onboard(old, ("poet",), others, "tiny-v3", seed=1)
    first = joined(old, ("adder",))
    both, _ = onboard(
        first, ("poet",), exam_of(first, ("poet",), "more", tiny_dataset(), 60, seed=1), "tiny-v3", seed=1
    )

    without = before_exam(both, "graded")

    assert (without.models, without.about) == (direct.models, direct.about)
    assert without.calibration.datasets == direct.calibration.datasets
    for each in fields(Calibration):
        if each.name != "datasets":
            np.testing.assert_array_equal(
                getattr(without.calibration, each.name), getattr(direct.calibration, each.name)
            )
    write_artifact(tmp_path / "tiny-v3", without)
    prompts = [(("user", "rose rain add"),)]
    loaded = load_artifact(tmp_path / "tiny-v3")
    expected = ArtifactPredictor(direct).predict(prompts).quality
    np.testing.assert_allclose(ArtifactPredictor(loaded).predict(prompts).quality, expected, atol=1e-5)


def test_who_joins_anew_keeps_its_scores_on_other_exams() -> None:
    first = joined(tiny_artifact(rows=80), ("adder",))
    both, _ = onboard(
        first, ("poet",), exam_of(first, ("poet",), "more", tiny_dataset(), 60, seed=1), "tiny-v3", seed=1
    )
    without = before_exam(both, "graded")
    anew, _ = onboard(without, ("adder",), exam(without, ("adder",)), "tiny-v4", seed=1)

    kept = with_scores_of(anew, both, "graded", ("adder",))

    assert kept.models == ("small", "large", "poet", "adder")
    of_more = both.calibration.dataset == both.calibration.datasets.index("exam on more")
    assert kept.calibration.datasets[1:] == ("exam on more", "exam on graded")
    for column in ("score", "real_output_tokens", "input_tokens"):
        before, after = getattr(both.calibration, column), getattr(kept.calibration, column)
        np.testing.assert_array_equal(after[80:140, 3], before[of_more, 2])
        np.testing.assert_array_equal(after[140:], getattr(anew.calibration, column)[140:])
    assert np.isnan(anew.calibration.score[80:140, 3]).all()
    assert np.isfinite(kept.calibration.score[80:140, 3]).all()


def test_without_the_only_exam_it_is_as_before_it() -> None:
    old = tiny_artifact(rows=80)

    without = before_exam(joined(old), "graded")

    assert (without.models, without.about, set(without.heads)) == (old.models, old.about, set(old.heads))
    np.testing.assert_array_equal(without.calibration.score, old.calibration.score)


def test_a_second_exam_on_the_same_set_is_refused() -> None:
    with pytest.raises(OutcomesError, match="has an exam on graded already; let all its models join at once"):
        exam(joined(tiny_artifact(rows=80), ("adder",)), ("poet",))


@pytest.mark.parametrize("name", ["small", "small-latest"])
def test_scores_of_old_models_on_the_same_prompts_are_used(name: str) -> None:
    """Where small failed, a failure of a new model says less."""
    old = replace(tiny_artifact(rows=80), aliases={"small-latest": "small"})

    easy, hard = (
        onboard(old, NEW, exam(old, dataset=each), "tiny-v2", seed=1)[1][0]
        for each in (tiny_dataset(), with_old_models(tiny_dataset(), small=name))
    )

    assert hard.expected_quality > easy.expected_quality


def test_anchors_bring_the_old_scores_along_where_the_prompt_is_the_same() -> None:
    """Other sets may number their prompts alike."""
    dataset = tiny_dataset()
    texts = dataset.prompts["prompt"].to_pylist()
    anchors = tuple(
        {
            "prompt_id": f"p{number}",
            "prompt": text if number % 2 else "another",
            "grader": "exact",
            "scores": {"small": 0.25},
        }
        for number, text in enumerate(texts)
    )
    new = exam(replace(tiny_artifact(rows=80), anchors=anchors))

    is_odd_K = np.array([int(prompt_id[1:]) % 2 == 1 for prompt_id in new.prompt_ids])
    assert new.old_score_KM[is_odd_K] == pytest.approx(np.tile([0.25, np.nan], (is_odd_K.sum(), 1)), nan_ok=True)
    assert np.isnan(new.old_score_KM[~is_odd_K]).all()
    np.testing.assert_array_equal(new.is_learned_K, is_odd_K)


def test_the_report_tells_a_strong_model_from_a_weak_one_and_from_a_coin() -> None:
    old, dataset = tiny_artifact(rows=400), tiny_dataset()
    rng = np.random.default_rng(0)
    outcomes = [
        {"prompt_id": prompt_id, "model": model, "score": score}
        for prompt_id in dataset.prompts["prompt_id"].to_pylist()
        for model, score in (("wrong", 0.0), ("right", 1.0), ("coin", float(rng.random() < 0.5)))
    ]
    told = OutcomesDataset(dataset.prompts, pa.Table.from_pylist(outcomes))
    models = ("wrong", "right", "coin")

    _, reports = onboard(old, models, exam_of(old, models, "told", told, 200, seed=1), "tiny-v2", seed=1)

    weak, strong, coin = reports
    by_quality = [old.models[place] for place in old.calibration.quality.mean(0).argsort()]
    assert (weak.alike, strong.alike) == (tuple(by_quality), tuple(reversed(by_quality)))
    assert (weak.mean_score, strong.mean_score) == (0, 1)
    assert weak.expected_quality + 0.2 < coin.expected_quality < strong.expected_quality - 0.2
    assert weak.is_informative
    assert strong.is_informative
    assert not any(each.has_lengths for each in reports)


@pytest.mark.parametrize(
    ("models", "shots", "complaint"),
    [
        (("small",), 60, "predicts small already"),
        (("stranger",), 60, "has no outcome of stranger; it has adder, poet"),
        (("adder",), 9, "9 graded prompts are too few; at least 10 are needed of adder"),
        (("adder",), 5000, "has 240 different prompts on which adder was graded, not 5000"),
        (("adder", "adder"), 60, "adder is named twice"),
    ],
)
def test_an_exam_that_cannot_be_is_refused(models: tuple[str, ...], shots: int, complaint: str) -> None:
    with pytest.raises(OutcomesError, match=complaint):
        exam(tiny_artifact(), models, shots)


def test_a_model_known_under_another_name_is_refused() -> None:
    known = replace(tiny_artifact(), aliases={"adder": "small"})

    with pytest.raises(OutcomesError, match="predicts adder already"):
        exam(known, ("adder",))


@pytest.mark.parametrize(
    "artifact", [tiny_artifact(models=("only",)), tiny_artifact(rows=0)], ids=["one model", "no rows"]
)
def test_an_artifact_that_cannot_describe_another_model_says_so(artifact: Artifact) -> None:
    with pytest.raises(OutcomesError, match="takes 2 models that it was trained on, and calibration rows"):
        exam(artifact)
