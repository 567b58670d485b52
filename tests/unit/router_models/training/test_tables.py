"""Tables of tasks and rules: measured cells keep their means, cells that nobody measured get what is to be expected.

Legend of array suffixes: B rows, T tasks, R rules.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from router_models.heads.odds import logit
from router_models.training.rows import Library, Rows
from router_models.training.tables import SHRINK_OUTCOMES, Tables, fit_tables, never_asked
from tests.unit.router_models.training.tiny import LIBRARY, planted

IN_POOL_TR = LIBRARY.pool_T[:, None] == LIBRARY.pool_R

# One pool of four tasks, each harder than the one before, and five models, each weaker than the one before.
RULES, TASKS, PROMPTS = 5, 4, 400
STAIRS = Library(
    models=tuple("abcde"),
    pools=("stairs",),
    tasks=tuple(f"stairs/{step}" for step in range(TASKS)),
    pool_T=np.zeros(TASKS, int),
    pool_R=np.zeros(RULES, int),
    model_R=np.arange(RULES),
    aliases={},
)
RATE_TR = 1 / (1 + np.exp(np.arange(TASKS)[:, None] + 0.5 * np.arange(RULES) - 2.5))


def stairs(asked: int = PROMPTS, task: int = 3, rule: int = 0) -> Rows:
    """Of one task a model was asked so few prompts; the harder the task and the later the model, the longer answers."""
    rng = np.random.default_rng(0)
    task_B = np.repeat(np.arange(TASKS), PROMPTS)
    score_BR = (rng.random((len(task_B), RULES)) < RATE_TR[task_B]).astype(np.float32)
    tokens_BR = np.exp(3.0 + task_B[:, None] + 0.2 * np.arange(RULES) + np.zeros(score_BR.shape))
    unasked = np.flatnonzero(task_B == task)[asked:]
    score_BR[unasked, rule], tokens_BR[unasked, rule] = np.nan, np.nan
    whole = np.arange(len(task_B))
    return Rows(task_B * 0, task_B, whole, whole * 0 + 1.0, whole < 0, score_BR, tokens_BR, tokens_BR)


@cache
def fitted() -> Tables:
    return fit_tables(LIBRARY, planted().rows)


def test_a_table_holds_the_mean_of_each_rule_on_each_task_but_for_a_few_imagined_outcomes() -> None:
    rows = planted().rows

    for task, rule in np.argwhere(IN_POOL_TR):
        own = rows.score[rows.task == task, rule]
        imagined = fitted().quality_TR[task, rule] * (len(own) + SHRINK_OUTCOMES) - own.sum()
        assert 0 < imagined < SHRINK_OUTCOMES
    assert (fitted().quality_TR[~IN_POOL_TR] == 0).all()
    assert (fitted().log_tokens_TR[~IN_POOL_TR] == 0).all()


def test_whoever_was_not_asked_a_hard_task_is_expected_to_find_it_hard() -> None:
    rows = stairs(asked=0)

    quality_TR = fit_tables(STAIRS, rows).quality_TR

    assert np.nanmean(rows.score[:, 0]) > RATE_TR[3, 0] + 0.3, "the mean over its other tasks would mislead"
    assert quality_TR[3, 0] == pytest.approx(RATE_TR[3, 0], abs=0.06)
    assert quality_TR[3, 0] > quality_TR[3, 1], "it is the most able model"


def test_whoever_was_not_asked_an_easy_task_is_expected_to_find_it_easy() -> None:
    quality_TR = fit_tables(STAIRS, stairs(asked=0, task=0, rule=4)).quality_TR

    assert quality_TR[0, 4] == pytest.approx(RATE_TR[0, 4], abs=0.1)


def test_a_first_outcome_moves_what_was_expected_only_a_little() -> None:
    none, one = (fit_tables(STAIRS, stairs(asked=asked)).quality_TR[3, 0] for asked in (0, 1))

    assert 0 < abs(one - none) < 1 / SHRINK_OUTCOMES


def test_answers_are_expected_to_be_as_long_as_the_task_and_the_model_make_them() -> None:
    log_tokens_TR = fit_tables(STAIRS, stairs(asked=0)).log_tokens_TR

    assert log_tokens_TR[3, 0] == pytest.approx(6.0, abs=0.1)


def test_a_task_that_nobody_was_asked_lies_where_its_pool_does() -> None:
    rows = stairs()
    known = rows.take(rows.task < 3)

    tables = fit_tables(STAIRS, known)

    np.testing.assert_allclose(tables.quality_TR[3], known.score.mean(0), atol=0.06)
    assert np.isfinite(tables.complete_TM).all()


def test_what_is_known_of_every_model_in_every_task_agrees_with_the_table_in_its_own_pool() -> None:
    for task, rule in np.argwhere(IN_POOL_TR):
        model = LIBRARY.model_R[rule]
        assert fitted().complete_TM[task, model] == pytest.approx(logit(fitted().quality_TR[task, rule]), abs=1e-4)


def test_never_asked_is_who_has_no_outcome_on_a_task_that_others_have() -> None:
    rows = stairs(asked=0)

    assert np.argwhere(never_asked(STAIRS, rows)).tolist() == [[3, 0]]
    assert not never_asked(STAIRS, stairs(asked=1)).any()
    nobody = replace(rows, score=np.where(rows.task[:, None] == 3, np.nan, rows.score))
    assert not never_asked(STAIRS, nobody).any()
    assert not never_asked(LIBRARY, planted().rows).any()
