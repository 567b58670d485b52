"""A new model joins from a few graded answers: what it learns, what it admits not to know."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from router_models.heads.newcomer import Newcomer, fit_newcomer, is_admissible, population
from router_models.heads.odds import logit, sigmoid
from router_models.heads.population import LEAST_VARIANCE, Population, Rows

KINDS = 10


@dataclass(frozen=True)
class World:
    """Models whose logits are linear in two properties of a prompt; questions are harder or easier than they look."""

    rows: Rows
    truth_BM: np.ndarray
    score_BM: np.ndarray


def world(prompts: int = 600, models: int = 12, seed: int = 0, hidden: float = 1.2, departure: float = 0.0) -> World:
    rng = np.random.default_rng(seed)
    property_B2 = rng.normal(size=(prompts, 2))
    ability_M, taste_M2 = rng.normal(0, 1, models), np.column_stack([np.full(models, 1.0), rng.normal(0, 0.6, models)])
    kind_BG = np.eye(KINDS)[rng.integers(KINDS, size=prompts)]
    logit_BM = ability_M + property_B2 @ taste_M2.T + kind_BG @ rng.normal(0, departure, (KINDS, models))
    surprise_B1 = rng.normal(0, hidden, (prompts, 1))
    truth_BM = sigmoid(logit_BM / np.sqrt(1 + np.pi / 8 * hidden**2))
    score_BM = (rng.random(logit_BM.shape) < sigmoid(logit_BM + surprise_B1)).astype(float)
    return World(Rows.of(logit(truth_BM), score_BM, kind_BG), truth_BM, score_BM)


def left_out(made: World, model: int = 0, kinds: bool = False) -> tuple[Rows, np.ndarray, np.ndarray]:
    """The others' rows, the true quality of a model and its scores."""
    rows = made.rows.without(model)
    if not kinds:
        rows = Rows.of(rows.logit_BR, rows.score_BR)
    return rows, made.truth_BM[:, model], made.score_BM[:, model]


def joined(rows: Rows, score_B: np.ndarray, old: Population, shots: int, seed: int = 0) -> Newcomer:
    exam = np.random.default_rng(seed).permutation(len(score_B))[:shots]
    return fit_newcomer(rows.take(exam), score_B[exam], old)


def error(newcomer: Newcomer, rows: Rows, truth_B: np.ndarray) -> float:
    quality_B, _ = newcomer.predict(rows.logit_BR, rows.kind_BG)
    return float(np.sqrt(np.mean((quality_B - truth_B) ** 2)))


def errors_of_exams(made: World, exams: Sequence[int], old_scores: bool = True) -> list[float]:
    """Mean error per exam size, over models left out and draws."""
    found: list[list[float]] = []
    for model in range(0, 12, 2):
        rows, truth_B, score_B = left_out(made, model)
        old, seen = population(rows), rows if old_scores else Rows.of(rows.logit_BR)
        found += [
            [error(joined(seen, score_B, old, shots, seed), rows, truth_B) for shots in exams] for seed in range(6)
        ]
    return [float(mean) for mean in np.mean(found, axis=0)]


def test_more_graded_prompts_bring_the_prediction_closer_to_the_truth() -> None:
    errors = errors_of_exams(world(), (0, 20, 100, 500))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 < errors[0]


def test_what_old_models_scored_on_the_same_questions_makes_an_exam_say_more() -> None:
    made = world(hidden=3.0)
    assert errors_of_exams(made, (30,)) < [0.9 * error for error in errors_of_exams(made, (30,), old_scores=False)]


def test_an_untested_model_is_taken_for_one_of_the_old_ones() -> None:
    rows, _, _ = left_out(world())
    untested = joined(rows, np.empty(0), population(rows), 0)
    quality_B, deviation_B = untested.predict(rows.logit_BR)
    assert quality_B.mean() == pytest.approx(sigmoid(rows.logit_BR).mean(), abs=0.05)
    assert deviation_B.mean() > 0.1


def test_the_deviation_of_the_mean_falls_as_the_exam_goes_on() -> None:
    rows, _, score_B = left_out(world())
    old = population(rows)
    deviations = [joined(rows, score_B, old, shots).mean_quality(rows.logit_BR)[1] for shots in (0, 10, 40, 160, 600)]
    assert all(later < 1.02 * before for before, later in itertools.pairwise(deviations))
    assert deviations[-1] < deviations[0] / 4
    assert deviations[-1] < 0.2 * deviations[0]


def test_the_mean_quality_is_that_of_the_predictions() -> None:
    rows, _, score_B = left_out(world())
    newcomer = joined(rows, score_B, population(rows), 50)
    assert newcomer.mean_quality(rows.logit_BR)[0] == pytest.approx(newcomer.predict(rows.logit_BR)[0].mean())


@pytest.mark.parametrize("shots", [20, 100])
def test_nine_of_ten_intervals_hold_the_true_rate(shots: int) -> None:
    inside = []
    for seed in range(4):
        made = world(seed=seed)
        for model in range(0, 12, 2):
            rows, truth_B, score_B = left_out(made, model)
            quality_B, deviation_B = joined(rows, score_B, population(rows), shots, seed).predict(rows.logit_BR)
            inside.append(np.mean(np.abs(truth_B - quality_B) < 1.645 * deviation_B))
    assert 0.82 < np.mean(inside) < 0.98


def test_an_exam_that_tells_models_apart_does_not_flatter_the_strong() -> None:
    """Where every old model is either always right or always wrong, a newcomer that is right is not perfect."""
    made = world(prompts=1200, hidden=0.0)
    strong = int(made.truth_BM.mean(0).argmax())
    rows, truth_B, score_B = left_out(made, strong)
    old, able_R = population(rows), rows.score_BR.mean(0) > rows.score_BR.mean()
    apart_B = (rows.score_BR[:, able_R].mean(1) - rows.score_BR[:, ~able_R].mean(1)) > 0.6
    exam = np.flatnonzero(apart_B & (score_B == 1))[:60]
    corrected = fit_newcomer(rows.take(exam), score_B[exam], old)
    blind = fit_newcomer(Rows.of(rows.logit_BR[exam]), score_B[exam], old)
    assert abs(corrected.mean_quality(rows.logit_BR)[0] - truth_B.mean()) < abs(
        blind.mean_quality(rows.logit_BR)[0] - truth_B.mean()
    )


def test_kinds_of_prompt_on_which_models_depart_are_learned_one_by_one() -> None:
    made = world(models=8, departure=1.2, hidden=0.0)
    with_kinds, without = [], []
    for model in range(8):
        rows, truth_B, score_B = left_out(made, model, kinds=True)
        plain = Rows.of(rows.logit_BR, rows.score_BR)
        with_kinds.append(error(joined(rows, score_B, population(rows), 200), rows, truth_B))
        without.append(error(joined(plain, score_B, population(plain), 200), plain, truth_B))
    assert np.mean(with_kinds) < 0.9 * np.mean(without)


def test_how_far_models_depart_on_kinds_is_learned_from_the_old_ones() -> None:
    departing, alike = (population(world(models=8, departure=d, hidden=0.0).rows) for d in (1.2, 0.0))
    assert departing.kind_variance_G.min() > 0.3
    assert alike.kind_variance_G.max() < 0.05


def test_a_set_on_which_models_depart_far_leaves_what_is_thought_of_another_alone() -> None:
    made = world(prompts=1200, hidden=0.0)
    wild_BG = made.rows.kind_BG * (np.arange(KINDS) < KINDS // 2)
    logit_BR = made.rows.logit_BR + wild_BG @ np.random.default_rng(1).normal(0, 1.5, (KINDS, 12))
    score_BR = (np.random.default_rng(2).random(logit_BR.shape) < sigmoid(logit_BR)).astype(float)
    set_G = (np.arange(KINDS) < KINDS // 2).astype(int)
    variance_G = population(Rows.of(logit_BR, score_BR, made.rows.kind_BG), set_G).kind_variance_G
    assert variance_G[set_G == 1].min() > 5 * variance_G[set_G == 0].max()


def test_less_is_expected_of_a_newcomer_where_it_was_not_asked_and_models_depart() -> None:
    """By ability alone it is expected to do as on the kind that it was asked; the shortfall is on the others."""
    rows, _, score_B = left_out(world(models=8, departure=1.2, hidden=0.0), kinds=True)
    departing = population(rows)
    even = replace(departing, kind_variance_G=np.full(KINDS, LEAST_VARIANCE))
    exam = np.flatnonzero(rows.kind_BG[:, 0] == 1)
    asked_B = rows.kind_BG[:, 0] == 1
    cautious_B, trusting_B = (
        fit_newcomer(rows.take(exam), score_B[exam], old).predict(rows.logit_BR, rows.kind_BG)[0]
        for old in (departing, even)
    )
    assert abs(cautious_B[asked_B].mean() - score_B[asked_B].mean()) < 0.1
    assert cautious_B[~asked_B].mean() < trusting_B[~asked_B].mean() - 0.03


def test_a_kind_without_graded_prompts_stays_uncertain() -> None:
    rows, _, score_B = left_out(world(departure=1.5, models=8), kinds=True)
    old = population(rows)
    exam = np.flatnonzero(rows.kind_BG[:, 0] == 1)[:100]
    _, deviation_B = fit_newcomer(rows.take(exam), score_B[exam], old).predict(rows.logit_BR, rows.kind_BG)
    unseen_B = rows.kind_BG[:, 0] == 0
    assert deviation_B[unseen_B].mean() > 1.5 * deviation_B[~unseen_B].mean()


def test_old_scores_that_are_missing_in_part_are_no_obstacle() -> None:
    rows, truth_B, score_B = left_out(world())
    holes_BR = np.where(np.random.default_rng(1).random(rows.score_BR.shape) < 0.4, np.nan, rows.score_BR)
    holed = Rows.of(rows.logit_BR, holes_BR)
    newcomer = joined(holed, score_B, population(holed), 200)
    assert error(newcomer, rows, truth_B) < 0.12


@pytest.mark.parametrize("models", [3, 4])
def test_few_old_models_are_enough(models: int) -> None:
    rows, truth_B, score_B = left_out(world(models=models))
    old = population(rows)
    assert error(joined(rows, score_B, old, 300), rows, truth_B) < error(joined(rows, score_B, old, 0), rows, truth_B)


def test_scores_between_0_and_1_count_in_part() -> None:
    rows, _, _ = left_out(world())
    old, half_B = population(rows), np.full(len(rows.logit_BR), 0.5)
    assert joined(rows, half_B, old, 400).mean_quality(rows.logit_BR)[0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_an_exam_failed_or_passed_throughout_gives_finite_numbers(score: float) -> None:
    rows, _, score_B = left_out(world())
    newcomer = joined(rows, np.full(len(score_B), score), population(rows), 400)
    quality_B, deviation_B = newcomer.predict(rows.logit_BR)
    assert np.isfinite(quality_B).all()
    assert np.isfinite(deviation_B).all()
    assert abs(quality_B.mean() - score) < 0.1


def test_a_newcomer_is_admitted_when_the_exam_taught_something() -> None:
    made = world()
    weakest = int(made.truth_BM.mean(0).argmin())
    rows, _, score_B = left_out(made, weakest)
    old = population(rows)
    untested, held_back = joined(rows, score_B, old, 0), np.arange(500, 600)
    exam = np.arange(200)
    newcomer = fit_newcomer(rows.take(exam), score_B[exam], old)
    assert is_admissible(newcomer, untested, rows.take(held_back), score_B[held_back])
    assert not is_admissible(untested, newcomer, rows.take(held_back), score_B[held_back])
    assert not is_admissible(newcomer, untested, rows.take(held_back[:0]), score_B[:0])


def _only_one(logit_BR: np.ndarray) -> np.ndarray:
    return logit_BR[:, :1]


def _with_a_gap(logit_BR: np.ndarray) -> np.ndarray:
    return np.where(logit_BR > 1, np.nan, logit_BR)


@pytest.mark.parametrize("spoil", [_only_one, _with_a_gap])
def test_one_old_model_or_unknown_logits_are_refused(spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(ValueError, match="at least two old models"):
        population(Rows.of(spoil(world().rows.logit_BR)))
