"""Which splits, which models, which costs: how a dataset becomes what is measured."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from router_models.evaluation.roster import roster
from router_models.evaluation.sets import Source, Trial, pool_of, prepare, splits_to_measure
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError
from router_models.storage.calibration import Calibration
from tests.fakes.artifacts import tiny_dataset
from tests.fakes.reader import FakeReader

NAN = np.nan


def renamed_split(old: str, new: str) -> OutcomesDataset:
    dataset = tiny_dataset()
    splits = [new if split == old else split for split in dataset.prompts["split"].to_pylist()]
    place = dataset.prompts.column_names.index("split")
    return OutcomesDataset(dataset.prompts.set_column(place, "split", pa.array(splits)), dataset.outcomes)


def test_the_default_split_is_dev_and_otherwise_test() -> None:
    assert splits_to_measure(renamed_split("unseen", "dev"), ()) == ("dev",)
    assert splits_to_measure(tiny_dataset(), ()) == ("test",)
    assert splits_to_measure(tiny_dataset(), ("unseen", "test")) == ("unseen", "test")
    assert splits_to_measure(tiny_dataset(), ("test", "unseen", "test")) == ("test", "unseen")


def test_a_split_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(OutcomesError, match="no prompt has split dev; there are test, train, unseen"):
        splits_to_measure(tiny_dataset(), ("dev",))
    with pytest.raises(OutcomesError, match="there is neither dev nor test; name one of eval, train, unseen"):
        splits_to_measure(renamed_split("test", "eval"), ())


def test_the_pool_has_the_models_with_nearly_all_outcomes_and_costs() -> None:
    score, cost = np.ones((200, 4)), np.ones((200, 4))
    score[:3, 1], cost[:3, 2], score[0, 3] = NAN, NAN, NAN

    np.testing.assert_array_equal(pool_of(score, cost), [0, 3])


def test_costs_are_not_asked_for_where_they_leave_no_pool() -> None:
    score, cost = np.ones((200, 3)), np.full((200, 3), NAN)
    score[:3, 1] = NAN

    np.testing.assert_array_equal(pool_of(score, cost), [0, 2])


def test_where_nothing_is_complete_all_models_with_an_outcome_are_the_pool() -> None:
    score = np.full((10, 3), NAN)
    score[:5, 0] = score[5:, 1] = 1.0

    np.testing.assert_array_equal(pool_of(score, score), [0, 1])


def trial(dataset: OutcomesDataset, split: str = "test", calibration: Calibration | None = None) -> Trial:
    return prepare(
        Source("tiny", dataset, (split,)), split, roster(dataset.models, dataset.models, {}), "train", calibration
    )


def test_prompts_without_an_outcome_in_the_pool_are_not_measured() -> None:
    dataset = tiny_dataset()
    first = dataset.split("test").prompts["prompt_id"][0].as_py()
    kept = [row for row in dataset.outcomes.to_pylist() if row["prompt_id"] != first]

    found = trial(OutcomesDataset(dataset.prompts, pa.Table.from_pylist(kept)))

    assert found.models == ("adder", "poet")
    assert len(found.truth.score) == dataset.split("test").prompts.num_rows - 1


def test_a_split_without_any_outcome_says_so() -> None:
    dataset = tiny_dataset()
    train = set(dataset.split("train").prompts["prompt_id"].to_pylist())
    kept = [row for row in dataset.outcomes.to_pylist() if row["prompt_id"] in train]

    with pytest.raises(OutcomesError, match="tiny: split test has no outcome of the models adder, poet"):
        trial(OutcomesDataset(dataset.prompts, pa.Table.from_pylist(kept)))


def test_a_set_with_one_split_has_its_folders_name_and_with_several_the_splits_too() -> None:
    dataset = tiny_dataset()
    source = Source("tiny", dataset, ("test", "unseen"))

    names = [
        prepare(source, split, roster(dataset.models, dataset.models, {}), "train", None).name
        for split in source.splits
    ]

    assert names == ["tiny/test", "tiny/unseen"]
    assert trial(dataset).name == "tiny"


def test_the_training_split_teaches_nothing_about_itself() -> None:
    assert trial(tiny_dataset(), "train").train is None
    assert trial(tiny_dataset()).train is not None


def test_a_training_split_without_outcomes_of_the_pool_is_none() -> None:
    dataset = tiny_dataset()
    measured = set(dataset.split("test").prompts["prompt_id"].to_pylist())
    kept = [row for row in dataset.outcomes.to_pylist() if row["prompt_id"] in measured]

    assert trial(OutcomesDataset(dataset.prompts, pa.Table.from_pylist(kept))).train is None


def test_questions_that_the_training_split_asks_too_are_counted() -> None:
    dataset = tiny_dataset()
    texts, splits = (dataset.prompts[name].to_pylist() for name in ("prompt", "split"))
    first = splits.index("train")
    for place in [place for place, split in enumerate(splits) if split == "test"][:3]:
        texts[place] = f"  {texts[first].upper()}"
    place = dataset.prompts.column_names.index("prompt")
    prompts = dataset.prompts.set_column(place, "prompt", pa.array(texts))

    assert trial(OutcomesDataset(prompts, dataset.outcomes)).asked_before == 3
    assert trial(dataset).asked_before == 0
    assert trial(dataset, "train").asked_before == 0


def test_the_best_single_model_is_chosen_on_the_training_rows() -> None:
    dataset = tiny_dataset()
    better = [row | {"score": 1.0} if row["model"] == "poet" else row for row in dataset.outcomes.to_pylist()]

    found = trial(OutcomesDataset(dataset.prompts, pa.Table.from_pylist(better)))

    np.testing.assert_array_equal(found.default_column, 1)


def test_a_model_that_sat_only_easy_training_prompts_is_not_the_best_single_model_for_it() -> None:
    """The adder is better wherever both answered, and of all it answered half were hard."""
    scores = {"easy": {"adder": 0.9, "poet": 0.8}, "hard": {"adder": 0.3}}
    prompts = [
        {"prompt_id": f"{kind}{number}", "prompt": "x", "split": "train" if number < 30 else "test"}
        for kind in scores
        for number in range(40)
    ]
    outcomes = [
        {"prompt_id": row["prompt_id"], "model": model, "score": score}
        for row in prompts
        for model, score in scores[row["prompt_id"][:4]].items()
    ]

    found = trial(OutcomesDataset(pa.Table.from_pylist(prompts), pa.Table.from_pylist(outcomes)))

    assert found.models == ("adder", "poet")
    assert found.standing[0] > found.standing[1]
    np.testing.assert_array_equal(found.default_column, 0)


def test_without_a_training_split_the_calibration_rows_choose_it() -> None:
    rows = np.ones((6, 2))
    calibration = Calibration(
        rows, rows * [0.2, 0.7], rows, rows, rows, np.zeros(6, np.int32), ("tiny",), np.ones((6, 1))
    )

    found = trial(renamed_split("train", "dev"), calibration=calibration)

    assert found.train is None
    np.testing.assert_array_equal(found.default_column, 1)


def test_an_expected_cost_is_prices_times_the_prompts_tokens_and_the_predicted_length() -> None:
    found = trial(tiny_dataset())

    expected = found.expected_usd(FakeReader({"adder": {}, "poet": {}}, {"poet": 100.0}).predict(found.conversations))

    # 8 input tokens at 1 USD per million, 30 and 100 output tokens at 2.
    np.testing.assert_allclose(expected, np.tile([68e-6, 208e-6], (len(expected), 1)), rtol=1e-5)


def test_lengths_cost_nothing_where_the_dataset_charges_none() -> None:
    dataset = tiny_dataset()
    unpriced = OutcomesDataset(dataset.prompts, dataset.outcomes.drop_columns(["cost_usd", "output_tokens"]))
    source = Source("tiny", unpriced, ("test",), {"adder": (1.0, 50.0), "poet": (2.0, 50.0)})

    found = prepare(source, "test", roster(dataset.models, dataset.models, {}), "train", None)

    expected = found.expected_usd(FakeReader({"adder": {}, "poet": {}}).predict(found.conversations))
    np.testing.assert_allclose(expected, np.tile([8e-6, 16e-6], (len(expected), 1)))
    np.testing.assert_allclose(found.truth.cost_usd, expected)
