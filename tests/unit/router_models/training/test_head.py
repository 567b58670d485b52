"""From parts and trials to a finished head: what stays, what is trusted, and what is called unfamiliar.

Legend of array suffixes: B rows, P pools, R rules, M models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from router_models.reading.surface import NAMES as SURFACE_NAMES
from router_models.storage.head_check import misfit
from router_models.training.config import TrainingConfig
from router_models.training.head import Evidence, Finished, evidence, finish
from router_models.training.parts import fit_parts
from router_models.training.rows import Inputs
from router_models.training.trials import Trial, held_out_questions, held_out_tasks, joined
from tests.unit.router_models.training.tiny import LIBRARY, planted, tiny_config

CONFIG = tiny_config()
LEARNED = planted()
NOTHING = Evidence(LEARNED.rows.take(np.zeros(0, int)), joined([]))


@cache
def fitted(config: TrainingConfig) -> tuple[Mapping[str, np.ndarray], Evidence, Evidence]:
    """Parts, and what trials on questions and on tasks found."""
    parts = fit_parts(config, LIBRARY, LEARNED.rows, LEARNED.inputs, seed=1)
    questions, tasks = (
        evidence(LEARNED.rows, joined(hold(config, LIBRARY, LEARNED.rows, LEARNED.inputs, lambda: None)))
        for hold in (held_out_questions, held_out_tasks)
    )
    return parts, questions, tasks


@cache
def finished(config: TrainingConfig = CONFIG) -> Finished:
    """What another configuration makes of the same trials."""
    return finish(config, LIBRARY, fitted(CONFIG)[0], *fitted(CONFIG)[1:])


def test_a_finished_head_is_whole_and_predicts() -> None:
    assert misfit(finished().tensors, ("static",), 3) is None

    prediction = finished().head(3).predict(planted(seed=1).inputs)

    assert np.isfinite(prediction.quality).all()
    assert np.isfinite(prediction.output_tokens[:, :2]).all()
    assert np.isnan(prediction.output_tokens[:, 2]).all()


def test_parts_are_not_changed_by_finishing_them() -> None:
    before = {name: tensor.copy() for name, tensor in fitted(CONFIG)[0].items()}

    finish(CONFIG, LIBRARY, fitted(CONFIG)[0], *fitted(CONFIG)[1:])

    assert fitted(CONFIG)[0].keys() == before.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(fitted(CONFIG)[0][name], tensor)


def saying(each: Evidence, logit_BR: np.ndarray) -> Evidence:
    """As if the encoder's head had said this."""
    reading = replace(each.trial.readings["static"], logit_BR=logit_BR.astype(np.float32))
    return replace(each, trial=Trial(each.trial.rows, {"static": reading}))


def far_out(each: Evidence) -> Evidence:
    """The same with figures that any alarm tells from those of familiar prompts."""
    reading = each.trial.readings["static"]
    return replace(each, trial=Trial(each.trial.rows, {"static": replace(reading, alarm_BA=reading.alarm_BA + 10)}))


@pytest.mark.parametrize("share", [0.04, 0.2])
def test_so_many_familiar_prompts_are_called_unfamiliar_as_was_said(share: float) -> None:
    done = finished(tiny_config(false_alarms=share))

    called_B = done.head(3).conclude([done.familiar.trial.readings["static"]]).unfamiliar

    assert called_B.mean() == pytest.approx(share, abs=0.02)


def test_held_out_tasks_are_called_unfamiliar_more_often() -> None:
    done, tasks = finished(), fitted(CONFIG)[2]

    called_B = done.head(3).conclude([tasks.trial.readings["static"]]).unfamiliar

    assert called_B.mean() > 3 * CONFIG.false_alarms


def test_without_tasks_to_hold_out_nothing_is_unfamiliar() -> None:
    done = finish(CONFIG, LIBRARY, fitted(CONFIG)[0], fitted(CONFIG)[1], NOTHING)

    assert not done.head(3).predict({"static": 100 * LEARNED.inputs["static"]}).unfamiliar.any()
    assert done.settings.variance_unfamiliar == 0


# Of ten prompts of a pool its usual best model alone answers six, and its other model four. The head is sure of itself
# on half of either, and puts the two next to each other on the rest.
USUAL_WINS = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0], bool)
SURE = np.array([0, 1] * 5, bool)
# The usual best models are a and c; b is the other one of both pools.
SIDE_R = np.array([1, -1, -1, 1])
ALWAYS_RIGHT = {"sure": 1, "unsure": 1}


def made(each: Evidence, *side_by_pool: Mapping[str, int]) -> Evidence:
    """Outcomes as above, read rightly (1) or the wrong way around (-1), where the head is sure and where it is not."""
    rows, place_B = each.rows, np.zeros(len(each), int)
    for pool in (0, 1):
        own = np.flatnonzero(rows.pool == pool)
        place_B[own] = np.arange(len(own)) % 10
    winner_B, sure_B = np.where(USUAL_WINS, 1, -1)[place_B], SURE[place_B]
    side_B = [side_by_pool[pool]["sure" if sure else "unsure"] for pool, sure in zip(rows.pool, sure_B, strict=True)]
    score_BR = np.where(np.isfinite(rows.score), winner_B[:, None] == SIDE_R, np.nan)
    logit_BR = (winner_B * side_B * np.where(sure_B, 2, 0.01))[:, None] * SIDE_R
    reading = replace(
        each.trial.readings["static"],
        task_BT=np.eye(5, dtype=np.float32)[rows.task],
        logit_BR=logit_BR.astype(np.float32),
        alarm_BA=np.zeros((len(rows), 4), np.float32),
    )
    return Evidence(replace(rows, score=score_BR), Trial(each.trial.rows, {"static": reading}))


TURNED = {"sure": -1, "unsure": -1}
CHOICES = tiny_config(residual_weights=(0.0, 0.5, 1.0))


def told(tasks: Evidence, config: TrainingConfig = CHOICES) -> dict[str, dict[str, float | None]]:
    """What was decided for each pool, whose questions were read rightly, as the figures say it."""
    parts, questions, _ = fitted(CONFIG)
    done = finish(config, LIBRARY, parts, made(questions, ALWAYS_RIGHT, ALWAYS_RIGHT), tasks)
    shown: dict[str, dict[str, float | None]] = done.figures["trusted"]["full"]
    assert done.tensors["full.trust_P"].tolist() == [each["weight"] for each in shown.values()]
    return shown


def decided(weight: float, gain: float, on_tasks: float | None) -> dict[str, float | None]:
    return {"weight": weight, "gain": gain, "gain_on_held_out_tasks": on_tasks}


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (ALWAYS_RIGHT, decided(1.0, 0.4, 0.4)),
        # With full trust the unsure ones lose 0.3 and the sure ones win 0.2: 0.1 too much. Half of it leaves the unsure
        # ones to the usual best model.
        ({"sure": 1, "unsure": -1}, decided(0.5, 0.2, 0.2)),
        (TURNED, decided(0.0, 0.0, 0.0)),
        # What the sure ones lose only no trust at all prevents.
        ({"sure": -1, "unsure": 1}, decided(0.0, 0.0, 0.0)),
    ],
)
def test_a_pool_whose_held_out_tasks_lose_is_trusted_less_than_one_whose_tasks_do_not(
    first: Mapping[str, int], expected: dict[str, float | None]
) -> None:
    shown = told(made(fitted(CONFIG)[2], first, ALWAYS_RIGHT))

    assert shown == {"first": expected, "second": decided(1.0, 0.4, 0.4)}


def test_where_every_weight_loses_the_one_that_loses_least_is_taken() -> None:
    """Full trust gains twice as much on familiar prompts, and loses twice as much on held-out tasks."""
    config = CHOICES.model_copy(update={"residual_weights": (0.5, 1.0)})

    shown = told(made(fitted(CONFIG)[2], TURNED, TURNED), config)

    assert shown["first"] == shown["second"] == decided(0.5, 0.2, -0.3)


@pytest.mark.parametrize(("size", "expected"), [(0.006, decided(1.0, 0.4, -0.0036)), (0.007, decided(0.0, 0.0, 0.0))])
def test_a_loss_of_next_to_nothing_on_held_out_tasks_is_borne(size: float, expected: dict[str, float | None]) -> None:
    """The wrong model is answered with scores that are lower by so much."""
    tasks = made(fitted(CONFIG)[2], TURNED, TURNED)
    close = replace(tasks, rows=replace(tasks.rows, score=size * tasks.rows.score))

    shown = told(close, CHOICES.model_copy(update={"residual_weights": (0.0, 1.0)}))

    assert shown["first"] == shown["second"] == expected


def test_held_out_tasks_that_the_alarm_flags_forbid_no_trust() -> None:
    """They are answered by the usual best model, whatever is made of them."""
    shown = told(far_out(made(fitted(CONFIG)[2], TURNED, TURNED)))

    assert shown["first"] == shown["second"] == decided(1.0, 0.4, 0.0)


UNSORTED = tiny_config(residual_weights=(1.0, 0.5, 0.75))


def test_without_tasks_to_hold_out_the_smallest_weight_is_taken_in_whatever_order_they_are_written() -> None:
    shown = told(NOTHING, UNSORTED)

    assert shown["first"] == shown["second"] == decided(0.5, 0.2, None)


def test_so_it_is_for_a_pool_of_which_no_task_was_held_out() -> None:
    tasks = made(fitted(CONFIG)[2], ALWAYS_RIGHT, ALWAYS_RIGHT)
    own_B = tasks.rows.pool == 0

    shown = told(Evidence(tasks.rows.take(own_B), tasks.trial.take(own_B)), UNSORTED)

    assert shown == {"first": decided(1.0, 0.4, 0.4), "second": decided(0.5, 0.2, None)}


@pytest.mark.parametrize("read", [False, True])
def test_figures_of_the_surface_change_predictions_only_where_they_are_read(read: bool) -> None:
    config = tiny_config(surface=read)
    inputs_BF = LEARNED.inputs["static"]
    other_BF = inputs_BF.copy()
    other_BF[:, -len(SURFACE_NAMES) :] = 10 - 2 * inputs_BF[:, -len(SURFACE_NAMES) :]

    head = finish(config, LIBRARY, fitted(config)[0], *fitted(config)[1:]).head(3)
    one, other = head.predict({"static": inputs_BF}), head.predict({"static": other_BF})

    for name in ("quality", "quality_interval", "output_tokens", "output_tokens_interval", "unfamiliar"):
        same = np.allclose(getattr(one, name), getattr(other, name), rtol=1e-3, atol=1e-3, equal_nan=True)
        assert same != read, name


def test_readings_of_tasks_that_were_wrong_widen_the_interval_of_unfamiliar_prompts() -> None:
    parts, questions, tasks = fitted(CONFIG)
    wrong = far_out(saying(tasks, np.full(tasks.rows.score.shape, 9.0)))

    settings = finish(CONFIG, LIBRARY, parts, questions, wrong).settings

    assert settings.variance_unfamiliar > finished().settings.variance_unfamiliar
    assert settings.variance_unfamiliar > 0.02


def test_with_two_encoders_both_stages_are_calibrated_and_their_difference_is_measured() -> None:
    """The slow encoder reads noise here, so it changes what the fast one says."""
    rng = np.random.default_rng(3)
    slow_BF = LEARNED.inputs["static"] + rng.normal(scale=0.1, size=LEARNED.inputs["static"].shape).astype(np.float32)
    inputs: Inputs = {"static": LEARNED.inputs["static"], "transformer": slow_BF}
    parts = fit_parts(CONFIG, LIBRARY, LEARNED.rows, inputs, seed=1)
    questions, tasks = (
        evidence(LEARNED.rows, joined(hold(CONFIG, LIBRARY, LEARNED.rows, inputs, lambda: None)))
        for hold in (held_out_questions, held_out_tasks)
    )

    done = finish(CONFIG, LIBRARY, parts, questions, tasks)

    assert misfit(done.tensors, ("static", "transformer"), 3) is None
    assert 0.001 < done.settings.static_error < 0.5
    for stage, pools in done.figures["trusted"].items():
        assert done.tensors[f"{stage}.trust_P"].tolist() == [pool["weight"] for pool in pools.values()]
    assert set(done.figures["trusted"]) == {"static", "full"}
    assert 0 < done.settings.alarm_static < 1
    assert 0 < done.settings.alarm_full < 1
    np.testing.assert_array_equal(done.tensors["static.standing_M"], done.tensors["full.standing_M"])
    assert not np.array_equal(done.tensors["static.alarm_A"], done.tensors["full.alarm_A"][:5])


def test_one_encoder_differs_from_nothing() -> None:
    assert finished().settings.static_error == 0
