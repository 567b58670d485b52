"""Which model of a dataset is which column of an artifact."""

from __future__ import annotations

import pytest

from router_models.evaluation.roster import roster
from router_models.outcomes.dataset import OutcomesError


def test_a_model_is_known_by_its_column_or_by_another_name_of_it() -> None:
    found = roster(["adder", "adder-latest", "poet-7b", "stranger"], ["poet", "adder"], {"poet-7b": "poet"})

    assert found.models == ("adder", "poet-7b")
    assert found.columns == (1, 0)
    assert found.unknown == ("adder-latest", "stranger")


def test_two_names_of_one_column_are_two_models() -> None:
    found = roster(["adder", "adder-latest"], ["adder"], {"adder-latest": "adder"})

    assert found.models == ("adder", "adder-latest")
    assert found.columns == (0, 0)


def test_a_name_is_its_own_column_before_it_is_an_alias_of_another() -> None:
    assert roster(["adder"], ["adder", "poet"], {"adder": "poet"}).columns == (0,)


def test_an_alias_of_a_column_that_is_not_there_is_unknown() -> None:
    assert roster(["adder", "bard"], ["adder"], {"bard": "poet"}).unknown == ("bard",)


def test_an_artifact_that_knows_none_of_the_models_says_which_there_are() -> None:
    with pytest.raises(OutcomesError, match=r"^the artifact knows none of the models a, b; it knows adder$"):
        roster(["a", "b"], ["adder"], {})
