"""An artifact adapted to own prompts: better where they are unlike what it learned, left alone where they are not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from router_models.adapting.adaptation import adapt
from router_models.adapting.verdict import Verdict
from router_models.heads.static_error import static_error
from router_models.joining.exam import exam_of
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError, read_outcomes
from router_models.predictor import ArtifactPredictor
from router_models.storage.artifact import Artifact, load_artifact, write_artifact

ROOT = Path(__file__).parents[4]
PROMPTS = 200


@pytest.fixture(scope="module")
def demo() -> Artifact:
    return load_artifact(ROOT / "router_models/artifacts/demo-v2")


def drawn(split: str) -> tuple[OutcomesDataset, OutcomesDataset]:
    """200 prompts of the demo's outcomes, and 200 others."""
    dataset = read_outcomes(ROOT / "deploy/demo/outcomes").split(split)
    place_B = np.random.default_rng(0).permutation(dataset.prompts.num_rows).argsort()
    return dataset.select(place_B < PROMPTS), dataset.select((place_B >= PROMPTS) & (place_B < 2 * PROMPTS))


class Adapted(NamedTuple):
    """The demo's artifact after it was adapted to its own prompts, and what it did not see."""

    own: OutcomesDataset
    rest: OutcomesDataset
    artifact: Artifact
    verdict: Verdict


@pytest.fixture(scope="module")
def to_unseen(demo: Artifact) -> Adapted:
    """To wordings it never saw."""
    own, rest = drawn("unseen")
    return Adapted(own, rest, *adapt(demo, own, "own", "own-v1", seed=1))


def routed(artifact: Artifact, dataset: OutcomesDataset) -> tuple[float, float]:
    """Mean score of the model predicted best, and the Brier score."""
    score_BM = dataset.matrix("score", artifact.models)
    quality_BM = ArtifactPredictor(artifact).predict(dataset.conversations()).quality
    chosen_B = score_BM[np.arange(len(score_BM)), quality_BM.argmax(1)]
    return float(chosen_B.mean()), float(((quality_BM - score_BM) ** 2).mean())


def test_wordings_it_never_saw_are_routed_better_after_200_of_them(demo: Artifact, to_unseen: Adapted) -> None:
    _, rest, adapted, verdict = to_unseen
    (quality_before, brier_before), (quality_after, brier_after) = routed(demo, rest), routed(adapted, rest)
    assert verdict.helps
    assert verdict.qualities is not None
    assert adapted.about["adapted"]["splits"] == ["unseen"]
    assert verdict.sentence().startswith("it helps: on 200 prompts")
    assert quality_after > quality_before + 0.03
    assert brier_after < 0.8 * brier_before
    # What it says of prompts held back is what comes true on prompts it never saw.
    assert verdict.qualities.quality_after == pytest.approx(quality_after, abs=0.06)
    assert verdict.qualities.brier_after == pytest.approx(brier_after, abs=0.01)


def test_where_it_was_right_already_the_old_heads_stay(demo: Artifact) -> None:
    _, verdict = adapt(demo, drawn("test")[0], "own", "own-v1", seed=1)

    assert not verdict.helps
    assert verdict.sentence().startswith("it does not help, so the old heads stay")


def test_scores_without_any_relation_to_prompts_do_not_help_to_choose(demo: Artifact) -> None:
    own, _ = drawn("test")
    shuffled = np.random.default_rng(0).permutation(own.prompts.num_rows)
    prompts = own.prompts.set_column(
        own.prompts.column_names.index("prompt_id"), "prompt_id", own.prompts["prompt_id"].take(shuffled)
    )
    _, verdict = adapt(demo, OutcomesDataset(prompts, own.outcomes), "own", "own-v1", seed=1)

    assert verdict.qualities is not None
    assert verdict.qualities.best_single is not None
    assert verdict.qualities.quality_after < verdict.qualities.best_single + 0.05


def test_the_best_one_is_told_from_prompts_that_all_models_have_scores_on(demo: Artifact) -> None:
    """One model was only asked what it answers well."""
    own, _ = drawn("unseen")
    score_BM, strong = own.matrix("score", own.models), own.models[0]
    kept = set(np.array(own.prompts["prompt_id"].to_pylist())[score_BM[:, 0] > 0].tolist())
    kept |= set(own.prompts["prompt_id"].to_pylist()[:60])
    rows = [row for row in own.outcomes.to_pylist() if row["model"] != strong or row["prompt_id"] in kept]
    picked = OutcomesDataset(own.prompts, pa.Table.from_pylist(rows, own.outcomes.schema))
    _, verdict = adapt(demo, picked, "own", "own-v1", seed=1)

    shared_B = np.isfinite(picked.matrix("score", own.models)).all(1)
    assert verdict.qualities is not None
    assert verdict.qualities.best_single_prompts == shared_B.sum() < PROMPTS
    assert verdict.qualities.best_single == pytest.approx(score_BM[shared_B].mean(0).max())
    assert f"on the {shared_B.sum()} with scores of all models" in verdict.sentence()


def answered(dataset: OutcomesDataset, asked: Mapping[str, slice]) -> OutcomesDataset:
    """The same with answers of these models alone, each on so many of the prompts."""
    ids = dataset.prompts["prompt_id"].to_pylist()
    pairs = {(prompt_id, model) for model, places in asked.items() for prompt_id in ids[places]}
    rows = [row for row in dataset.outcomes.to_pylist() if (row["prompt_id"], row["model"]) in pairs]
    return OutcomesDataset(dataset.prompts, pa.Table.from_pylist(rows, dataset.outcomes.schema))


def test_without_enough_prompts_that_all_models_have_scores_on_no_best_one_is_told(demo: Artifact) -> None:
    own, _ = drawn("unseen")
    first, second, third = own.models[:3]
    picked = answered(own, {first: slice(0, 200), second: slice(0, 110), third: slice(90, 200)})
    _, verdict = adapt(demo, picked, "own", "own-v1", seed=1)

    assert verdict.qualities is not None
    assert (verdict.qualities.best_single, verdict.qualities.best_single_prompts) == (None, 20)
    assert "always the best one: -, for only 20 have scores of all models" in verdict.sentence()


def as_rated(dataset: OutcomesDataset, kind: str, others: Sequence[str]) -> OutcomesDataset:
    """As in a journal: one model answered each prompt, and callers of one of them are content with everything."""
    models = [kind, *others]
    asked = dict(zip(dataset.prompts["prompt_id"].to_pylist(), itertools.cycle(models), strict=False))
    rows = [
        row | ({"score": 1.0} if row["model"] == kind else {})
        for row in dataset.outcomes.to_pylist()
        if asked[row["prompt_id"]] == row["model"]
    ]
    return OutcomesDataset(dataset.prompts, pa.Table.from_pylist(rows, dataset.outcomes.schema))


def together(one: OutcomesDataset, other: OutcomesDataset) -> OutcomesDataset:
    tables = ((one.prompts, other.prompts), (one.outcomes, other.outcomes))
    return OutcomesDataset(*(pa.concat_tables(pair) for pair in tables))


def test_what_kind_callers_of_one_model_say_is_not_learned_as_a_reason_to_choose_it(demo: Artifact) -> None:
    journal = as_rated(drawn("test")[0], "smollm2-71m", ["smollm2-135m-math", "smollm2-135m-german"])
    adapted, verdict = adapt(demo, journal, "own", "own-v1", seed=1)

    assert (verdict.qualities, verdict.helps, verdict.is_kept, verdict.with_choice) == (None, False, False, 0)
    assert verdict.sentence().startswith(
        "choices were not compared, so the old heads stay: only 0 of 200 prompts held back have outcomes of two models"
    )
    assert verdict.as_json()["helps"] is False
    texts = journal.conversations()[:20]
    before, after = (ArtifactPredictor(one).predict(texts).quality for one in (demo, adapted))
    np.testing.assert_array_equal(before, after)


def test_callers_of_different_models_who_ask_the_same_compare_nothing(demo: Artifact) -> None:
    """Those of one are content with everything."""
    twice, kind, strict = asked_often(drawn("test")[0], 2), "smollm2-71m", "smollm2-135m-math"
    rows = [
        row | ({"score": 1.0} if row["model"] == kind else {})
        for row in twice.outcomes.to_pylist()
        if row["model"] == (kind if row["prompt_id"].endswith("-0") else strict)
    ]
    asked = OutcomesDataset(twice.prompts, pa.Table.from_pylist(rows, twice.outcomes.schema))
    adapted, verdict = adapt(demo, asked, "own", "own-v1", seed=1)

    assert verdict.prompts == PROMPTS
    assert (verdict.qualities, verdict.with_choice) == (None, 0)
    own_N = adapted.calibration.dataset == len(demo.calibration.datasets)
    assert (np.isfinite(adapted.calibration.score[own_N]).sum(1) < 2).all()


def test_lengths_are_learned_from_answers_of_one_model_each(demo: Artifact) -> None:
    own, rest = (with_lengths(part, 8.0) for part in drawn("test"))
    adapted, verdict = adapt(demo, as_rated(own, own.models[0], own.models[1:3]), "own", "own-v1", seed=1)

    assert (verdict.helps, verdict.is_kept) == (False, True)
    assert verdict.sentence().startswith("choices were not compared, so qualities stay as they were: only 0 of 200")
    assert missed(adapted, rest) == pytest.approx(1.0, abs=0.3)


def test_answers_of_one_model_change_nothing_beside_those_that_can_be_compared(
    demo: Artifact, to_unseen: Adapted
) -> None:
    own, rest, alone, verdict = to_unseen
    journal = as_rated(rest, own.models[0], own.models[1:3])

    beside, again = adapt(demo, together(own, journal), "own", "own-v1", seed=1)

    assert verdict.qualities is not None
    assert again.qualities is not None
    assert (again.qualities.prompts, again.prompts) == (PROMPTS, PROMPTS + rest.prompts.num_rows)
    assert again.sentence().startswith("it helps: on 200 prompts of 400, with outcomes of two models, held back")
    assert again.qualities.brier_before == pytest.approx(verdict.qualities.brier_before)
    first, second = (one.heads["adapted.offset_C"] for one in (alone, beside))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_model_that_was_never_beside_another_is_named_and_not_compared(demo: Artifact) -> None:
    own, _ = drawn("unseen")
    first, second, third = own.models[:3]
    picked = answered(own, {first: slice(0, 120), second: slice(0, 120), third: slice(120, 200)})
    _, verdict = adapt(demo, picked, "own", "own-v1", seed=1)

    assert verdict.qualities is not None
    assert set(verdict.models) == {first, second, third}
    assert set(verdict.qualities.models) == {first, second}
    assert (verdict.qualities.prompts, verdict.prompts) == (120, PROMPTS)
    assert f"; too few of them have scores of {third}; " in verdict.sentence()


def test_an_adapted_artifact_is_written_and_read_and_its_rows_are_corrected_too(
    demo: Artifact, to_unseen: Adapted, tmp_path: Path
) -> None:
    own, _, adapted, _ = to_unseen
    write_artifact(tmp_path / "own-v1", adapted)
    again = load_artifact(tmp_path / "own-v1")

    assert again.calibration.datasets == (*demo.calibration.datasets, "own prompts of own")
    assert len(again.calibration.quality) == len(demo.calibration.quality) + PROMPTS
    assert np.abs(again.calibration.quality[0] - demo.calibration.quality[0]).max() > 0.001
    np.testing.assert_allclose(
        ArtifactPredictor(again).predict(own.conversations()[:5]).quality,
        ArtifactPredictor(adapted).predict(own.conversations()[:5]).quality,
        atol=1e-5,
    )


def test_own_prompts_are_no_longer_taken_for_unfamiliar(to_unseen: Adapted) -> None:
    predictor = ArtifactPredictor(to_unseen.artifact)

    assert predictor.predict(to_unseen.own.conversations()).unfamiliar.mean() <= 0.01


def asked_often(dataset: OutcomesDataset, times: int) -> OutcomesDataset:
    """The same with every prompt so many times, answered alike."""
    parts = [
        [
            table.set_column(
                table.column_names.index("prompt_id"),
                "prompt_id",
                pa.array([f"{prompt_id}-{time}" for prompt_id in table["prompt_id"].to_pylist()]),
            )
            for time in range(times)
        ]
        for table in (dataset.prompts, dataset.outcomes)
    ]
    return OutcomesDataset(*(pa.concat_tables(tables) for tables in parts))


def test_ten_prompts_that_were_asked_often_are_ten(demo: Artifact) -> None:
    own, _ = drawn("test")
    ten = own.select(np.arange(PROMPTS) < 10)

    with pytest.raises(OutcomesError, match=f"50 different prompts each; {own.models[0]} has 10"):
        adapt(demo, asked_often(ten, 20), "own", "own-v1", seed=1)


def test_prompts_that_were_asked_twice_say_what_they_say_once(demo: Artifact) -> None:
    own, _ = drawn("unseen")
    sixty = own.select(np.arange(PROMPTS) < 60)

    (once, verdict), (twice, again) = (
        adapt(demo, dataset, "own", "own-v1", seed=1) for dataset in (sixty, asked_often(sixty, 2))
    )

    assert verdict.qualities is not None
    assert again.qualities is not None
    assert again.prompts == again.qualities.prompts == 60
    assert again.qualities.brier_gain_interval == pytest.approx(verdict.qualities.brier_gain_interval)
    assert len(twice.calibration.quality) == len(once.calibration.quality) == len(demo.calibration.quality) + 60


def with_lengths(dataset: OutcomesDataset, factor: float | None) -> OutcomesDataset:
    """The same with answers so much longer, or of unknown lengths."""
    place = dataset.outcomes.column_names.index("output_tokens")
    if factor is None:
        return OutcomesDataset(dataset.prompts, dataset.outcomes.remove_column(place))
    longer = pa.array(dataset.outcomes["output_tokens"].to_numpy() * factor)
    return OutcomesDataset(dataset.prompts, dataset.outcomes.set_column(place, "output_tokens", longer))


def missed(artifact: Artifact, dataset: OutcomesDataset) -> np.ndarray:
    """Predicted lengths as multiples of the real ones, for each model on average."""
    tokens_BM = ArtifactPredictor(artifact).predict(dataset.conversations()).output_tokens
    ratio_M: np.ndarray = tokens_BM.mean(0) / dataset.matrix("output_tokens", artifact.models).mean(0)
    return ratio_M


def test_lengths_are_adapted_also_where_qualities_are_right_already(demo: Artifact, tmp_path: Path) -> None:
    own, rest = (with_lengths(part, 8.0) for part in drawn("test"))
    adapted, verdict = adapt(demo, own, "own", "own-v1", seed=1)

    assert (verdict.helps, verdict.is_kept) == (False, True)
    assert verdict.sentence().startswith("it does not help to choose, so qualities stay as they were: on 200 prompts")
    assert "; lengths are adapted: " in verdict.sentence()
    assert (missed(demo, rest) < 0.2).all()
    assert missed(adapted, rest) == pytest.approx(1.0, abs=0.2)
    before, after = (ArtifactPredictor(one).predict(rest.conversations()[:50]) for one in (demo, adapted))
    np.testing.assert_array_equal(before.quality, after.quality)
    assert (after.output_tokens_interval > 3 * before.output_tokens_interval).all()
    # Cost of the calibration rows is expected as it is of requests.
    rows = adapted.calibration
    own_N = rows.dataset == len(demo.calibration.datasets)
    assert np.nanmean(rows.output_tokens[own_N]) == pytest.approx(np.nanmean(rows.real_output_tokens[own_N]), rel=0.2)
    write_artifact(tmp_path / "own-v1", adapted)
    with pytest.raises(OutcomesError, match="was adapted before"):
        adapt(load_artifact(tmp_path / "own-v1"), own, "own", "own-v2", seed=1)


@pytest.mark.full
def test_lengths_that_are_right_or_not_known_stay(demo: Artifact) -> None:
    own, rest = drawn("test")
    _, right = adapt(demo, own, "own", "own-v1", seed=1)
    adapted, unknown = adapt(demo, with_lengths(drawn("unseen")[0], None), "own", "own-v1", seed=1)

    assert right.lengths is not None
    assert not right.is_kept
    assert "; lengths stay as they were: " in right.sentence()
    assert (unknown.lengths, unknown.helps) == (None, True)
    assert unknown.sentence().endswith("; lengths stay as they were, for too few are known")
    np.testing.assert_allclose(missed(adapted, rest), missed(demo, rest))


def test_what_cannot_be_adapted_is_refused_in_words(demo: Artifact, to_unseen: Adapted) -> None:
    own, rest, adapted, _ = to_unseen

    with pytest.raises(OutcomesError, match="was adapted before; start from demo-v2"):
        adapt(adapted, own, "own", "own-v2", seed=1)
    with pytest.raises(OutcomesError, match="let models join first, and adapt then"):
        exam_of(adapted, ["new"], "own", rest, None, 1)
    few = own.select(np.arange(PROMPTS) < 20).renamed({demo.models[0]: "stranger"})
    with pytest.raises(
        OutcomesError, match=r"need scores on 50 different prompts each; .*has 20.*; it does not know stranger"
    ):
        adapt(demo, few, "own", "own-v1", seed=1)


def test_how_far_a_glance_is_from_a_reading_is_measured_anew() -> None:
    """Else a glance would decide alone where the correction pulled it and the reading apart."""
    public = load_artifact(ROOT / "router_models/artifacts/public-v1")
    own, rest = (part.renamed(dict(zip(part.models, public.models, strict=False))) for part in drawn("unseen"))
    adapted, _ = adapt(public, own, "own", "own-v1", seed=1)

    predictor, conversations = ArtifactPredictor(adapted), rest.conversations()[:PROMPTS]
    glanced_BM, read_BM = (read(conversations).quality for read in (predictor.glance, predictor.predict))
    real = static_error(glanced_BM, read_BM, rest.matrix("score", public.models)[:PROMPTS])
    assert adapted.settings.static_error == pytest.approx(real, rel=0.3)
    assert public.settings.static_error != pytest.approx(real, rel=0.3)
