"""Dollars: recorded, from list prices, and expected."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from router_models.evaluation.costs import (
    Prices,
    charges_input_only,
    expected_usd,
    paid_usd,
    prices_behind,
    prompt_tokens,
    read_prices,
)
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError
from tests.fakes.artifacts import tiny_dataset

MODELS = ("adder", "poet")
NO_PRICES = Prices.of({}, MODELS)


def without(*columns: str) -> OutcomesDataset:
    dataset = tiny_dataset()
    return OutcomesDataset(dataset.prompts, dataset.outcomes.drop_columns(list(columns)))


def test_prices_are_found_behind_recorded_costs() -> None:
    prices = prices_behind(tiny_dataset(), MODELS, Prices.of({"adder": (9.0, 9.0)}, MODELS))

    np.testing.assert_allclose(prices.input_usd_per_m, 1.0, rtol=1e-6)
    np.testing.assert_allclose(prices.output_usd_per_m, 2.0, rtol=1e-6)


def test_listed_prices_stand_in_where_no_costs_are_recorded() -> None:
    prices = prices_behind(without("cost_usd"), MODELS, Prices.of({"adder": (3.0, 6.0)}, MODELS))

    np.testing.assert_array_equal(prices.input_usd_per_m, [3.0, np.nan])
    np.testing.assert_array_equal(prices.output_usd_per_m, [6.0, np.nan])


def test_without_output_tokens_input_tokens_alone_are_charged(tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text(json.dumps({"adder": [3.0, 5.0, "list"], "poet": [None, None, ""]}))
    dataset = without("cost_usd", "output_tokens")

    paid = paid_usd(dataset, MODELS, Prices.of(read_prices(tmp_path, {}), MODELS))

    assert charges_input_only(dataset)
    np.testing.assert_allclose(paid[:, 0], 8 * 3e-6)
    assert np.isnan(paid[:, 1]).all()


def test_recorded_costs_come_before_listed_prices() -> None:
    paid = paid_usd(tiny_dataset(), MODELS, Prices.of({"adder": (3e6, 3e6)}, MODELS))

    assert np.nanmax(paid) < 1e-3
    assert not charges_input_only(tiny_dataset())


def test_a_cost_that_is_missing_among_recorded_ones_is_unknown_whatever_is_listed() -> None:
    """Of a model that thinks unseen, what its visible tokens cost is a fraction of what it costs."""
    dataset = tiny_dataset()
    costs = [None if row["model"] == "poet" else row["cost_usd"] for row in dataset.outcomes.to_pylist()]
    place = dataset.outcomes.column_names.index("cost_usd")
    partly = OutcomesDataset(dataset.prompts, dataset.outcomes.set_column(place, "cost_usd", pa.array(costs)))

    paid = paid_usd(partly, MODELS, Prices.of({"poet": (1.0, 2.0)}, MODELS))

    assert np.isfinite(paid[:, 0]).all()
    assert np.isnan(paid[:, 1]).all()


def test_the_prices_of_one_models_several_names_are_averaged(tmp_path: Path) -> None:
    listed = {"adder-a": [1.0, 2.0, ""], "adder-b": [3.0, 4.0, ""], "poet": [5.0, 6.0, ""], "bard": None}
    (tmp_path / "prices.json").write_text(json.dumps(listed))

    found = read_prices(tmp_path, {"adder-a": "adder", "adder-b": "adder"})

    assert found == {"adder": (2.0, 3.0), "poet": (5.0, 6.0)}
    assert read_prices(tmp_path / "elsewhere", {}) == {}


@pytest.mark.parametrize("content", ["[]", '{"adder": 3}', '{"adder": ["x", "y"]}', "nonsense"])
def test_a_price_list_of_another_form_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "prices.json").write_text(content)

    with pytest.raises(OutcomesError, match=r"prices\.json is not \{model: \[USD per 1M input tokens"):
        read_prices(tmp_path, {})


def test_an_answer_is_expected_to_cost_its_predicted_length_or_else_the_mean() -> None:
    prices = Prices(np.array([1.0, 2.0, np.nan]), np.array([10.0, 20.0, np.nan]))

    expected = expected_usd(prices, np.full((1, 3), 100.0), np.array([[50.0, np.nan, 50.0]]), np.array([0.1, 0.2, 0.3]))

    np.testing.assert_allclose(expected, [[600e-6, 0.2, 0.3]])


def test_missing_input_tokens_are_a_quarter_of_the_characters() -> None:
    found = prompt_tokens(np.array([[7.0, np.nan], [np.nan, np.nan]]), np.array([40, 0]))

    np.testing.assert_array_equal(found, [[7, 10], [0.25, 0.25]])
