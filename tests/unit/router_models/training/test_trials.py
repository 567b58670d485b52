"""Trials: everything is judged once, by heads that knew neither its question nor, where that is the trial, its task.

Legend of array suffixes: B rows, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.training.rows import Library, Rows
from router_models.training.trials import Fold, held_out_questions, held_out_tasks, joined, read, task_folds
from tests.unit.router_models.training.tiny import LIBRARY, Planted, planted, tiny_config

CONFIG = tiny_config()
Hold = Callable[..., list[Fold]]


def library_of(pool_T: list[int]) -> Library:
    names = tuple(str(task) for task in range(len(pool_T)))
    pools = tuple(str(pool) for pool in range(max(pool_T) + 1))
    return replace(LIBRARY, tasks=names, pools=pools, pool_T=np.array(pool_T))


POOLS = st.lists(st.integers(1, 12), min_size=1, max_size=5).map(
    lambda sizes: [pool for pool, size in enumerate(sizes) for _ in range(size)]
)


@given(POOLS, st.integers(2, 8))
def test_no_pool_loses_all_of_its_tasks_at_once(pool_T: list[int], count: int) -> None:
    for held_T in task_folds(library_of(pool_T), count):
        assert set(np.array(pool_T)[~held_T]) == set(pool_T)


@given(POOLS, st.integers(2, 8))
def test_every_task_with_company_in_its_pool_is_held_out_once(pool_T: list[int], count: int) -> None:
    folds = list(task_folds(library_of(pool_T), count))

    assert len(folds) == count
    assert np.sum(folds, axis=0).tolist() == [int(pool_T.count(pool) > 1) for pool in pool_T]


def with_templates(learned: Planted) -> Planted:
    """The same with a second row behind every fifth, and each third row asking what its neighbour asks."""
    extra = np.arange(0, len(learned.rows), 5)
    index = np.concatenate([np.arange(len(learned.rows)), extra])
    rows = learned.rows.take(index)
    group_B = np.where(index % 3 == 1, index - 1, index)
    is_second = np.arange(len(index)) >= len(learned.rows)
    inputs = {speed: inputs_BF[index] for speed, inputs_BF in learned.inputs.items()}
    return replace(learned, rows=replace(rows, group=group_B, is_second=is_second), inputs=inputs)


def held(hold: Hold, learned: Planted) -> list[Fold]:
    return hold(CONFIG, LIBRARY, learned.rows, learned.inputs, lambda: None)


def test_every_first_row_is_judged_exactly_once_by_question() -> None:
    learned = with_templates(planted(20))

    folds = held(held_out_questions, learned)

    assert sorted(np.concatenate([fold.trial.rows for fold in folds])) == list(range(100))
    assert len(folds) == CONFIG.folds
    np.testing.assert_array_equal(joined(folds).rows, np.arange(100))


def test_every_first_row_of_a_task_with_company_is_judged_exactly_once_by_task() -> None:
    """Here the second pool keeps one task only, which is never held out."""
    learned = with_templates(planted(20))
    alone = learned.rows.task != 4
    learned = replace(
        learned,
        library=replace(LIBRARY, tasks=LIBRARY.tasks[:4], pool_T=LIBRARY.pool_T[:4]),
        rows=learned.rows.take(alone),
        inputs={"static": learned.inputs["static"][alone]},
    )

    folds = held_out_tasks(CONFIG, learned.library, learned.rows, learned.inputs, lambda: None)

    first_of_first_pool = np.flatnonzero((learned.rows.pool == 0) & ~learned.rows.is_second)
    np.testing.assert_array_equal(joined(folds).rows, first_of_first_pool)


def without_outcomes(rows: Rows, forgotten_B: np.ndarray) -> Rows:
    """Other scores and lengths on some rows."""
    score_BR, lengths_BR = rows.score.copy(), rows.output_tokens.copy()
    score_BR[forgotten_B] = 1 - score_BR[forgotten_B]
    lengths_BR[forgotten_B] *= 50
    return replace(rows, score=score_BR, output_tokens=lengths_BR)


@pytest.mark.parametrize("hold", [held_out_questions, held_out_tasks])
def test_what_is_judged_was_not_learned_from_nor_was_the_same_question_elsewhere(hold: Hold) -> None:
    """Whatever had happened on the judged questions, the fold's parts would be the same to the last bit."""
    learned = with_templates(planted(20))
    first = held(hold, learned)[0]
    judged_B = np.isin(learned.rows.group, learned.rows.group[first.trial.rows])

    again = held(hold, replace(learned, rows=without_outcomes(learned.rows, judged_B)))[0]

    assert judged_B.sum() > len(first.trial.rows), "some questions are there more than once"
    assert_same(first.parts, again.parts)


def test_what_was_learned_from_does_count() -> None:
    learned = planted(20)
    first = held(held_out_questions, learned)[0]
    other_B = ~np.isin(np.arange(len(learned.rows)), first.trial.rows)

    again = held(held_out_questions, replace(learned, rows=without_outcomes(learned.rows, other_B)))[0]

    assert not np.allclose(first.parts["table.quality_TR"], again.parts["table.quality_TR"])


def assert_same(some: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    assert some.keys() == other.keys()
    for name, tensor in some.items():
        np.testing.assert_array_equal(tensor, other[name], err_msg=name)


def test_of_a_held_out_task_no_more_is_known_than_the_usual_score_of_each_rule() -> None:
    learned = planted(20)

    for fold in held(held_out_tasks, learned):
        held_T = np.unique(learned.rows.task[fold.trial.rows])
        known = learned.rows.take(~np.isin(learned.rows.task, held_T))
        for task in held_T:
            own_R = LIBRARY.pool_R == LIBRARY.pool_T[task]
            usual_R = np.nanmean(known.score[:, own_R], axis=0)
            np.testing.assert_allclose(fold.parts["table.quality_TR"][task, own_R], usual_R, atol=0.05)


def test_a_joined_reading_is_in_the_order_of_the_rows_with_each_row_from_its_own_fold() -> None:
    learned = planted(20)
    folds = held(held_out_questions, learned)

    trial = joined(folds)

    for fold in folds:
        expected = read(fold.parts, LIBRARY, {"static": learned.inputs["static"][fold.trial.rows]})["static"]
        got = trial.take(fold.trial.rows).readings["static"]
        np.testing.assert_allclose(got.logit_BR, expected.logit_BR, rtol=1e-5)
        np.testing.assert_allclose(got.task_BT, expected.task_BT, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(got.log_tokens_BR, expected.log_tokens_BR, rtol=1e-5)
        np.testing.assert_allclose(got.alarm_BA, expected.alarm_BA, rtol=1e-4)


def test_nothing_joined_is_an_empty_trial() -> None:
    trial = joined([])

    assert (len(trial.rows), trial.readings) == (0, {})


def test_rows_of_a_trial_are_taken_by_mask_too() -> None:
    trial = joined(held(held_out_questions, planted(20)))
    mask = np.arange(100) % 4 == 0

    taken = trial.take(mask)

    np.testing.assert_array_equal(taken.rows, np.flatnonzero(mask))
    np.testing.assert_array_equal(taken.readings["static"].logit_BR, trial.readings["static"].logit_BR[mask])


@pytest.mark.parametrize(("hold", "steps"), [(held_out_questions, CONFIG.folds), (held_out_tasks, CONFIG.task_folds)])
def test_progress_is_reported_for_every_fold(hold: Hold, steps: int) -> None:
    seen: list[int] = []
    learned = planted(20)

    hold(CONFIG, LIBRARY, learned.rows, learned.inputs, lambda: seen.append(1))

    assert len(seen) == steps
