"""Training, on outcomes that a tiny encoder can tell apart: it learns, it is repeatable, it refuses nonsense."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from router_models.outcomes.dataset import OutcomesDataset, OutcomesError, write_outcomes
from router_models.predictor import ArtifactPredictor
from router_models.reading.spelling import LEAST_WORDS
from router_models.storage.artifact import Artifact, load_artifact, write_artifact
from router_models.training.rows import training_pools
from router_models.training.train import train
from tests.fakes.artifacts import made_up_words, tiny_dataset, tiny_encoder, tiny_pools, write_tiny_pools
from tests.unit.router_models.training.tiny import no_bar, place_pieces, tiny_config

QUICK: dict[str, Any] = {"folds": 2, "static": None}
# Two of three are of the training split, 100 of each pool.
PROMPTS = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both pools, their aliases, and a cache with the vectors of the tiny encoder."""
    folder = tmp_path_factory.mktemp("data")
    write_tiny_pools(folder, PROMPTS)
    place_pieces(folder / "cache")
    return folder


def trained(folder: Path, **changed: Any) -> Artifact:
    """From both pools, unless other data are named."""
    data = {"data": (folder / "first", folder / "second"), "aliases": folder / "aliases.json"}
    config = tiny_config(**{**data, **changed})
    return train(config, training_pools(config), tiny_encoder(), folder / "cache", no_bar)


def trained_on(dataset: OutcomesDataset, folder: Path, **changed: Any) -> Artifact:
    write_outcomes(folder / "outcomes", dataset)
    return trained(folder, **{**QUICK, "data": (folder / "outcomes",), "aliases": None, **changed})


@pytest.fixture(scope="module")
def whole(folder: Path) -> Artifact:
    """Two pools, both encoders, anchors."""
    return trained(folder, anchors=True)


@pytest.fixture(scope="module")
def quick(folder: Path) -> Artifact:
    """Two pools, the transformer alone."""
    return trained(folder, **QUICK)


def test_training_learns_who_is_good_at_what_and_what_it_writes_predicts_the_same(
    whole: Artifact, tmp_path: Path
) -> None:
    """On words that it has not seen; of the singer nothing is known in the first pool but what was completed."""
    write_artifact(tmp_path / "tiny-v1", whole)
    unseen = tiny_dataset().split("unseen")

    predictor = ArtifactPredictor(load_artifact(tmp_path / "tiny-v1"))
    prediction = predictor.predict(unseen.conversations())

    score = unseen.matrix("score", ("adder", "poet"))
    assert whole.models == ("adder", "poet", "singer")
    for quality in (prediction.quality, predictor.glance(unseen.conversations()).quality):
        chosen = np.take_along_axis(score, quality[:, :2].argmax(1)[:, None], 1).mean()
        assert chosen > score.mean(0).max() + 0.2
    singer, adder = prediction.quality[:, 2], prediction.quality[:, 0]
    assert ((singer > adder) == (score[:, 1] > score[:, 0])).mean() > 0.8
    again = ArtifactPredictor(whole).predict(unseen.conversations())
    np.testing.assert_allclose(prediction.quality, again.quality, rtol=1e-5)
    np.testing.assert_allclose(prediction.output_tokens, again.output_tokens, rtol=1e-5)


def test_an_artifact_knows_its_pools_tasks_and_other_names(whole: Artifact) -> None:
    assert whole.pools == whole.calibration.datasets == ("first", "second")
    assert whole.tasks == ("first/rhymes", "first/sums", "second/rhymes", "second/sums")
    assert whole.aliases == {"adder-large": "adder", "adder-latest": "adder"}
    assert whole.settings.speeds == ("static", "transformer")
    assert whole.name == "tiny-v1"


def test_slips_of_words_that_its_prompts_have_in_common_change_nothing(whole: Artifact, tmp_path: Path) -> None:
    """Of many words, that is: the others know so few that they tell slips from other words too badly."""
    place_pieces(tmp_path / "cache")
    dataset, words = tiny_dataset(PROMPTS), made_up_words(LEAST_WORDS)
    shares = [" ".join(words[first : first + 140]) for first in range(0, LEAST_WORDS, 140)]
    texts = dataset.prompts["prompt"].to_pylist()
    longer = pa.array([f"{text} {shares[number // 6 % len(shares)]}" for number, text in enumerate(texts)])
    place = dataset.prompts.column_names.index("prompt")
    artifact = trained_on(
        OutcomesDataset(dataset.prompts.set_column(place, "prompt", longer), dataset.outcomes), tmp_path
    )
    right, wrong = (ArtifactPredictor(artifact).predict([(("user", text),)]) for text in ("river rhyme", "rivre ryhme"))

    assert {"amount", "apples", "rhyme", "river", *words} <= set(artifact.words)
    assert whole.words == ()
    np.testing.assert_array_equal(wrong.quality, right.quality)


def test_calibration_rows_are_held_out_questions_of_all_pools_with_what_happened(whole: Artifact) -> None:
    rows, train_rows = whole.calibration, {name: pool.split("train") for name, pool in tiny_pools(PROMPTS).items()}

    assert np.bincount(rows.dataset).tolist() == [100, 100]
    renamed = train_rows["second"].renamed({"adder-large": "adder", "adder-latest": "adder"})
    for pool, dataset in enumerate((train_rows["first"], renamed)):
        own = rows.dataset == pool
        for name, values in (("score", rows.score), ("output_tokens", rows.real_output_tokens)):
            expected = dataset.matrix(name, whole.models)
            np.testing.assert_array_equal(values[own], expected.astype(np.float32), err_msg=name)
    assert np.isfinite(rows.quality).all()


def test_calibration_rows_were_predicted_by_heads_that_had_not_seen_them(quick: Artifact, folder: Path) -> None:
    """The finished heads have, so they say something else."""
    first = tiny_pools(PROMPTS)["first"].split("train")

    seen = ArtifactPredictor(quick).predict(first.conversations()).quality

    own = quick.calibration.dataset == 0
    assert np.abs(seen - quick.calibration.quality[own]).max() > 0.02
    assert np.corrcoef(seen.ravel(), quick.calibration.quality[own].ravel())[0, 1] > 0.9


def test_a_question_that_is_asked_often_is_one_calibration_row(tmp_path: Path, folder: Path) -> None:
    dataset = tiny_dataset(120)
    pairs = pa.array([f"question {number // 2}" for number in range(dataset.prompts.num_rows)])
    asked = OutcomesDataset(dataset.prompts.append_column("core_hash", pairs), dataset.outcomes)
    write_outcomes(tmp_path / "outcomes", asked)

    rows = trained(folder, **QUICK, data=(tmp_path / "outcomes",), aliases=None).calibration

    score_NM = asked.split("train").matrix("score", ("adder", "poet"))
    assert len(rows.score) == len(score_NM) // 2
    np.testing.assert_allclose(rows.score, (score_NM[::2] + score_NM[1::2]) / 2)


@pytest.mark.parametrize("most", [1, 25])
def test_no_more_calibration_rows_travel_than_were_asked_for(most: int, folder: Path) -> None:
    rows = trained(folder, **QUICK, calibration_rows=most).calibration

    assert len(rows.score) <= most
    assert len(rows.score) == len(rows.quality) == len(rows.dataset) == len(rows.output_tokens)
    assert np.ptp(np.bincount(rows.dataset, minlength=2)) <= 1, "drawn evenly"


def test_lengths_follow_the_model_and_are_not_invented(whole: Artifact) -> None:
    prediction = ArtifactPredictor(whole).predict([(("user", "add apples"),)])

    adder, poet, singer = prediction.output_tokens[0]
    assert 10 <= adder <= 20
    assert 30 <= poet <= 60
    assert np.isnan(singer)
    assert (prediction.output_tokens_interval[0, :2, 0] < prediction.output_tokens_interval[0, :2, 1]).all()


def assert_same(some: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    assert some.keys() == other.keys()
    for name, tensor in some.items():
        np.testing.assert_array_equal(tensor, other[name], err_msg=name)


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(folder: Path) -> None:
    changed = {**QUICK, "data": (folder / "first",)}
    first, again, other = (trained(folder, **changed, seed=seed) for seed in (1, 1, 2))

    assert first.settings == again.settings
    assert_same(first.heads, again.heads)
    np.testing.assert_array_equal(first.calibration.quality, again.calibration.quality)
    assert first.about == again.about
    assert not np.array_equal(first.calibration.quality, other.calibration.quality)


def test_a_missing_outcome_is_not_a_bad_one(tmp_path: Path) -> None:
    """Of the adder only what was right is kept."""
    dataset = tiny_dataset()
    good = pc.and_(pc.equal(dataset.outcomes["model"], "adder"), pc.equal(dataset.outcomes["score"], 1.0))
    thinned = dataset.outcomes.filter(pc.or_(good, pc.not_equal(dataset.outcomes["model"], "adder")))

    artifact = trained_on(OutcomesDataset(dataset.prompts, thinned), tmp_path)

    quality = ArtifactPredictor(artifact).predict(dataset.split("test").conversations()).quality
    assert quality[:, artifact.models.index("adder")].mean() > 0.85


WORDINGS = [" ".join([letter + "o"] * 5) for letter in "abcdefgh"]


def worded(number: int, times: int) -> str:
    """The wording of a row of a question that is asked `times` times, never twice in the same one."""
    question, again = divmod(number, times)
    return WORDINGS[(question + again * (1 + question // len(WORDINGS))) % len(WORDINGS)]


def held_out_lengths(folder: Path, times: int, longer: Sequence[int] = ()) -> np.ndarray:
    """What heads that had not seen a question say of its length, where rows `longer` had answers 100 times as long.

    Less what all rows of a model have in common. There are 96 rows; each question is asked `times` times, and read in
    the first wording.
    """
    dataset, long_ids = tiny_dataset(96), {f"p{number}" for number in longer}
    prompts = [
        row | {"prompt": worded(number, times), "core_hash": str(number // times), "task": "one", "split": "train"}
        for number, row in enumerate(dataset.prompts.to_pylist())
    ]
    outcomes = [
        outcome | {"output_tokens": outcome["output_tokens"] * (100 if outcome["prompt_id"] in long_ids else 1)}
        for outcome in dataset.outcomes.to_pylist()
    ]
    tables = OutcomesDataset(pa.Table.from_pylist(prompts), pa.Table.from_pylist(outcomes))
    artifact = trained_on(tables, folder, folds=4, wording_groups=96)
    spread_M = artifact.heads["tokens.spread_M3"][:, 0]
    lengths_BM: np.ndarray = np.log(artifact.calibration.output_tokens) - spread_M
    return lengths_BM


@pytest.mark.parametrize("question", range(3))
def test_rows_of_one_question_are_never_divided_by_their_wordings(question: int, tmp_path: Path) -> None:
    """Or else what was learned from the one would show in what is said of the other."""
    own = [2 * question, 2 * question + 1]

    before_BM, after_BM = (held_out_lengths(tmp_path, 2, longer) for longer in ([], own))

    moved_B = np.abs(after_BM - before_BM).max(1)
    assert worded(own[0], 2) != worded(own[1], 2)
    assert len(moved_B) == 96 // 2
    assert moved_B[question] == pytest.approx(0, abs=1e-4)
    assert (moved_B > 1e-4).sum() > len(moved_B) // 3, "others are read by heads that learned from it"


def test_questions_that_are_worded_alike_are_held_out_together(tmp_path: Path) -> None:
    alike = [number for number in range(96) if worded(number, 1) == WORDINGS[0]]

    before_BM, after_BM = (held_out_lengths(tmp_path, 1, longer) for longer in ([], alike[:1]))

    moved_B = np.abs(after_BM - before_BM).max(1)
    assert len(alike) == 12
    np.testing.assert_allclose(moved_B[alike], 0, atol=1e-4)
    assert moved_B.max() > 0.01


def test_columns_are_those_asked_for_in_that_order(folder: Path) -> None:
    artifact = trained(folder, **QUICK, models=("singer", "adder"))

    assert artifact.models == ("singer", "adder")
    assert artifact.calibration.quality.shape[1] == 2


@pytest.mark.parametrize(
    ("changed", "speeds"),
    [({"transformer": False}, ("static",)), ({"static": None}, ("transformer",))],
)
def test_one_encoder_is_enough(changed: dict[str, Any], speeds: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    data = {"data": (folder / "first",), "static": tiny_config().static}
    artifact = trained(folder, **{**QUICK, **data, **changed})
    write_artifact(tmp_path / "a", artifact)

    assert artifact.settings.speeds == speeds
    assert (artifact.static is None, artifact.encoder is None) == (speeds[0] != "static", speeds[0] == "static")
    assert ArtifactPredictor(load_artifact(tmp_path / "a")).speeds == set(speeds)


def test_a_dataset_without_tasks_cannot_say_what_is_unfamiliar_and_trains(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    artifact = trained_on(OutcomesDataset(dataset.prompts.drop_columns(["task"]), dataset.outcomes), tmp_path)

    assert artifact.tasks == ("outcomes/",)
    assert not ArtifactPredictor(artifact).predict([(("user", "zzz 999 ???"),)]).unfamiliar.any()


def test_what_it_says_about_itself_is_json_where_no_task_could_be_held_out(tmp_path: Path) -> None:
    dataset = tiny_dataset(60)
    artifact = trained_on(OutcomesDataset(dataset.prompts.drop_columns(["task"]), dataset.outcomes), tmp_path)

    json.dumps(artifact.about, allow_nan=False)


def test_words_of_no_task_are_unfamiliar(whole: Artifact) -> None:
    predictor = ArtifactPredictor(whole)
    strange = [(("user", "zebra zoo zone zero zip"),), (("user", "wolf wind water word wise"),)]

    familiar = predictor.predict(tiny_dataset().split("test").conversations()).unfamiliar

    assert predictor.predict(strange).unfamiliar.all()
    assert familiar.mean() < 0.2


def test_anchors_travel_with_what_it_takes_to_grade_an_answer(whole: Artifact, quick: Artifact) -> None:
    first = tiny_pools(PROMPTS)["first"].split("train")
    marked = {row["prompt_id"]: row for row in first.prompts.to_pylist() if row["anchor"]}
    scores = first.matrix("score", ("adder", "poet"))[first.prompts["anchor"].to_numpy(zero_copy_only=False)]

    assert {anchor["prompt_id"] for anchor in whole.anchors} == set(marked)
    for anchor, (adder, poet) in zip(whole.anchors, scores, strict=True):
        row = marked[anchor["prompt_id"]]
        assert anchor == {
            "pool": "first",
            "prompt_id": row["prompt_id"],
            "task": "rhymes",
            "prompt": row["prompt"],
            "messages": None,
            "reference": None,
            "grader": "exact",
            "scores": {"adder": adder, "poet": poet},
        }
    assert quick.anchors == (), "only where they are asked for"


@pytest.mark.parametrize("grader", [None, ""])
def test_an_anchor_that_nobody_can_grade_is_refused(grader: str | None, tmp_path: Path) -> None:
    dataset = tiny_dataset(24)
    rows = [row | {"anchor": row["prompt_id"] == "p8", "grader": grader} for row in dataset.prompts.to_pylist()]

    with pytest.raises(OutcomesError, match="outcomes: prompt p8 is marked `anchor` and has no grader"):
        trained_on(OutcomesDataset(pa.Table.from_pylist(rows), dataset.outcomes), tmp_path, anchors=True)


@pytest.mark.parametrize(
    ("grader", "reference", "words"),
    [
        ("judge", None, "an exam cannot grade it: unknown grader 'judge'"),
        ("command", None, "unknown grader 'command'"),
        ("number", "many", "not a number"),
        ("choice", None, "not JSON"),
    ],
)
def test_an_anchor_that_an_exam_could_not_grade_is_refused(
    grader: str, reference: str | None, words: str, tmp_path: Path
) -> None:
    marks = {"grader": grader, "reference": reference}
    dataset = tiny_dataset(24)
    rows = [row | {"anchor": row["prompt_id"] == "p8", **marks} for row in dataset.prompts.to_pylist()]

    with pytest.raises(OutcomesError, match=f"prompt p8 is marked `anchor`.*{words}.*take the mark away") as refused:
        trained_on(OutcomesDataset(pa.Table.from_pylist(rows), dataset.outcomes), tmp_path, anchors=True)
    assert "\n" not in str(refused.value)


def test_one_model_alone_is_learned_of_too(folder: Path, tmp_path: Path) -> None:
    """Others may join it later."""
    alone = trained(folder, models=("adder",), data=(folder / "first",), aliases=None)
    write_artifact(tmp_path / "alone-v1", alone)

    prediction = ArtifactPredictor(load_artifact(tmp_path / "alone-v1")).predict(tiny_dataset().conversations())

    assert alone.settings.static_error == 0
    assert prediction.quality.shape[1] == 1
    assert np.isfinite(prediction.quality).all()


def test_what_the_card_says_is_counted_without_second_rows(whole: Artifact) -> None:
    data = whole.about["data"]

    assert data["pools"]["first"] == {"prompts": 100, "outcomes": 200, "models": 2, "tasks": 2}
    assert data["pools"]["second"] == {"prompts": 100, "outcomes": 200, "models": 2, "tasks": 2}
    assert set(whole.about["mean_score"]["second"]) == {"adder", "singer"}
    first = tiny_pools(PROMPTS)["first"].split("train").matrix("score", ("adder", "poet"))
    assert whole.about["mean_score"]["first"]["adder"] == pytest.approx(first[:, 0].mean(), abs=1e-4)
    assert whole.about["licences"] == ["Apache-2.0"]
    assert set(whole.about["tuning"]) == {"trusted"}
    assert {stage: set(pools) for stage, pools in whole.about["tuning"]["trusted"].items()} == {
        "static": {"first", "second"},
        "full": {"first", "second"},
    }
    json.dumps(whole.about, allow_nan=False)


def test_the_card_names_who_was_never_asked_a_task(tmp_path: Path) -> None:
    """Training needs the outcome of nobody in particular."""
    place_pieces(tmp_path / "cache")
    told = tiny_dataset(PROMPTS + 12)  # 50 rhymes of the training split have outcomes of both
    sums = told.prompts.filter(pc.equal(told.prompts["task"], "sums"))["prompt_id"]
    outcomes = told.outcomes
    dropped = pc.and_(pc.is_in(outcomes["prompt_id"], sums), pc.equal(outcomes["model"], "poet"))

    artifact = trained_on(OutcomesDataset(told.prompts, outcomes.filter(pc.invert(dropped))), tmp_path)

    assert artifact.about["data"]["pools"]["outcomes"]["never_asked"] == {"sums": ["poet"]}
    json.dumps(artifact.about, allow_nan=False)


def test_the_fingerprint_of_the_data_changes_with_them(quick: Artifact, whole: Artifact, folder: Path) -> None:
    other = trained(folder, **QUICK, data=(folder / "first",))

    fingerprints = [artifact.about["data"]["sha256"] for artifact in (quick, whole, other)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def relabelled(table: pa.Table, column: str, values: list[Any]) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, pa.array(values))


def test_the_fingerprint_is_of_all_that_is_learned_from(tmp_path: Path) -> None:
    dataset = tiny_dataset(60)
    prompts, outcomes = dataset.prompts, dataset.outcomes
    names = [{"adder": "sums"}.get(name, name) for name in outcomes["model"].to_pylist()]
    lengths = [tokens + 1 for tokens in outcomes["output_tokens"].to_pylist()]
    # What is nearly right is not what is right, though their logits are cut alike.
    scores = [0.9999 if score == 1 else score for score in outcomes["score"].to_pylist()]
    changed = [
        (prompts, outcomes),
        (prompts, relabelled(outcomes, "model", names)),
        (prompts, relabelled(outcomes, "output_tokens", lengths)),
        (prompts, relabelled(outcomes, "score", scores)),
        (relabelled(prompts, "task", [task + "s" for task in prompts["task"].to_pylist()]), outcomes),
        (relabelled(prompts, "task", ["sums"] * prompts.num_rows), outcomes),
    ]

    found = [trained_on(OutcomesDataset(*tables), tmp_path).about["data"]["sha256"] for tables in changed]

    assert len(set(found)) == len(changed)


def test_a_model_without_outcomes_is_refused(folder: Path) -> None:
    with pytest.raises(OutcomesError, match="model nobody has no outcome in the training split"):
        trained(folder, models=("adder", "nobody"))


def test_a_handful_of_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutcomesError, match="4 prompts are too few; at least 6 are needed"):
        trained_on(tiny_dataset(prompts=6), tmp_path, folds=3)


def test_prompts_that_are_all_one_question_are_refused(tmp_path: Path) -> None:
    dataset = tiny_dataset(60)
    same = [row | {"core_hash": "x"} for row in dataset.prompts.to_pylist()]

    with pytest.raises(OutcomesError, match="all 40 prompts are one question; at least two are needed"):
        trained_on(OutcomesDataset(pa.Table.from_pylist(same), dataset.outcomes), tmp_path)


def test_two_questions_are_held_back_in_turn(tmp_path: Path) -> None:
    dataset = tiny_dataset(60)
    two = [row | {"core_hash": str(number % 2)} for number, row in enumerate(dataset.prompts.to_pylist())]

    for seed in range(1, 5):
        artifact = trained_on(OutcomesDataset(pa.Table.from_pylist(two), dataset.outcomes), tmp_path, seed=seed)

        assert len(artifact.calibration.quality) == 2
        assert np.isfinite(artifact.calibration.quality).all()


def test_no_data_at_all_is_refused_and_the_way_out_named(tmp_path: Path) -> None:
    with pytest.raises(OutcomesError, match="give its folder with --data"):
        trained(tmp_path, data=())


def test_a_split_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(OutcomesError, match="no prompt has split dev"):
        trained(folder, split="dev")


def test_every_step_that_takes_long_has_a_bar(folder: Path) -> None:
    steps: dict[str, list[int]] = {}

    def bar(name: str, total: int) -> Callable[[], object]:
        steps[name] = [total, 0]

        def advance() -> None:
            steps[name][1] += 1

        return advance

    data = {"data": (folder / "first",), "static": tiny_config().static}
    train(
        tiny_config(**data),
        training_pools(tiny_config(**data)),
        tiny_encoder(),
        place_pieces(folder / "another-cache"),
        bar,
    )

    assert steps == {
        "reading prompts, static": [100, 100],
        "reading prompts, transformer": [100, 100],
        "trials on held-out questions": [3, 3],
        "trials on held-out tasks": [2, 2],
    }
