"""The study of tasks that a model was never asked, on planted outcomes.

Legend of array suffixes: T tasks, R rules.
"""

from __future__ import annotations

import numpy as np

from router_models.studies.hidden_tasks import LEAST_OUTCOMES, errors, hidden_cells, without
from tests.unit.router_models.training.test_tables import STAIRS, stairs


def test_cells_are_hidden_at_random_and_no_model_loses_all() -> None:
    rows = stairs()

    some_TR, all_TR = (hidden_cells(STAIRS, rows, share, seed=0) for share in (0.3, 1.0))

    assert 0 < some_TR.sum() < some_TR.size
    assert (all_TR.sum(0) == 3).all()
    assert not hidden_cells(STAIRS, stairs(asked=LEAST_OUTCOMES - 1), 1.0, seed=0)[3, 0]


def test_what_is_hidden_has_no_outcome_and_the_rest_stays() -> None:
    rows, hidden_TR = stairs(), np.eye(4, 5, dtype=bool)

    left = without(rows, hidden_TR)

    for values, kept in ((left.score, rows.score), (left.output_tokens, rows.output_tokens)):
        assert np.isnan(values[hidden_TR[rows.task]]).all()
        np.testing.assert_array_equal(values[~hidden_TR[rows.task]], kept[~hidden_TR[rows.task]])


def test_so_many_questions_may_be_left() -> None:
    rows, hidden_TR = stairs(), np.eye(4, 5, dtype=bool)

    left = without(rows, hidden_TR, left=3)

    for task, rule in np.argwhere(hidden_TR):
        assert np.isfinite(left.score[rows.task == task, rule]).sum() == 3


def test_what_is_expected_is_nearer_than_a_mean_of_other_tasks() -> None:
    hidden_TR = np.zeros((4, 5), bool)
    hidden_TR[3, 0] = hidden_TR[0, 4] = True

    rows = stairs()

    found = list(errors(STAIRS, rows, without(rows, hidden_TR), hidden_TR))

    assert [name for name, *_ in found] == ["score"] * 2 + ["log length"] * 2 + ["standing"] * 2
    for name, _, expected, usual in found:
        assert expected < 0.5 * usual, name
