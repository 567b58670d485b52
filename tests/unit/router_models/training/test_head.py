"""From parts and trials to a finished head: what stays, what is trusted, and what is called unfamiliar.

Legend of array suffixes: B rows, P pools, R rules, M models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from router_models.head_check import misfit
from router_models.odds import logit
from router_models.training.config import TrainingConfig
from router_models.training.head import Evidence, Finished, evidence, finish
from router_models.training.members import fit_parts
from router_models.training.rows import Inputs
from router_models.training.trials import Trial, held_out_questions, held_out_tasks, joined
from router_models.tryage import network_names
from tests.unit.router_models.training.tiny import LIBRARY, planted, tiny_config

LINEAR = tiny_config(network=None)
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
def finished(config: TrainingConfig = LINEAR) -> Finished:
    """What a configuration without networks makes of the same trials."""
    return finish(config, LIBRARY, fitted(LINEAR)[0], ("static",), *fitted(LINEAR)[1:])


def test_a_finished_head_is_whole_and_predicts() -> None:
    assert misfit(finished().tensors, ("static",), 3) is None

    prediction = finished().head(3).predict(planted(seed=1).inputs)

    assert np.isfinite(prediction.quality).all()
    assert np.isfinite(prediction.output_tokens[:, :2]).all()
    assert np.isnan(prediction.output_tokens[:, 2]).all()


def test_parts_are_not_changed_by_finishing_them() -> None:
    before = {name: tensor.copy() for name, tensor in fitted(LINEAR)[0].items()}

    finish(LINEAR, LIBRARY, fitted(LINEAR)[0], ("static",), *fitted(LINEAR)[1:])

    assert fitted(LINEAR)[0].keys() == before.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(fitted(LINEAR)[0][name], tensor)


def with_last_member(each: Evidence, logit_BR: np.ndarray) -> Evidence:
    """As if the networks had said this."""
    reading = each.trial.readings["static"]
    members_SBR = np.stack([reading.member_SBR[0], logit_BR]).astype(np.float32)
    return replace(each, trial=Trial(each.trial.rows, {"static": replace(reading, member_SBR=members_SBR)}))


@pytest.mark.parametrize("useful", [True, False])
def test_networks_stay_only_where_the_average_is_better_with_them(useful: bool) -> None:
    config = tiny_config()
    parts, questions, tasks = fitted(config)
    true_BR = logit(LEARNED.rate_BR[questions.trial.rows])
    questions = with_last_member(questions, true_BR if useful else -true_BR)

    done = finish(config, LIBRARY, parts, ("static",), questions, tasks)

    losses = done.figures["held_out_loss"]
    assert (losses["with networks"] < losses["without"]) == useful
    assert (set(network_names("static")) <= set(done.tensors)) == useful
    assert len(done.familiar.trial.readings["static"].member_SBR) == (2 if useful else 1)
    assert misfit(done.tensors, ("static",), 3) is None


def test_without_networks_there_is_no_loss_to_compare() -> None:
    assert "held_out_loss" not in finished().figures


@pytest.mark.parametrize("share", [0.04, 0.2])
def test_so_many_familiar_prompts_are_called_unfamiliar_as_was_said(share: float) -> None:
    done = finished(tiny_config(network=None, false_alarms=share))

    called_B = done.head(3).conclude([done.familiar.trial.readings["static"]]).unfamiliar

    assert called_B.mean() == pytest.approx(share, abs=0.02)


def test_held_out_tasks_are_called_unfamiliar_more_often() -> None:
    done, tasks = finished(), fitted(LINEAR)[2]

    called_B = done.head(3).conclude([tasks.trial.readings["static"]]).unfamiliar

    assert called_B.mean() > 3 * LINEAR.false_alarms


def test_without_tasks_to_hold_out_nothing_is_unfamiliar() -> None:
    done = finish(LINEAR, LIBRARY, fitted(LINEAR)[0], ("static",), fitted(LINEAR)[1], NOTHING)

    assert not done.head(3).predict({"static": 100 * LEARNED.inputs["static"]}).unfamiliar.any()
    assert done.settings.variance_unfamiliar == 0


WEIGHTS = {"residual_weights": (0.0, 1.0), "unfamiliar_weights": (0.0, 1.0)}


def test_what_tasks_and_prompts_say_is_trusted_where_it_was_right() -> None:
    assert finished(tiny_config(network=None, **WEIGHTS)).settings.residual_weight == 1


def test_what_was_wrong_on_held_out_tasks_is_not_trusted_on_unfamiliar_prompts() -> None:
    """The readings of held-out tasks are turned around: who is called better there is worse."""
    parts, questions, tasks = fitted(LINEAR)
    turned = with_last_member(tasks, -10 * logit(LEARNED.rate_BR[tasks.trial.rows]))
    alarmed = replace(turned, trial=_far_out(turned.trial))

    done = finish(tiny_config(network=None, **WEIGHTS), LIBRARY, parts, ("static",), questions, alarmed)

    assert (done.settings.residual_weight, done.settings.unfamiliar_weight) == (1, 0)
    gains = done.figures["gain_over_usual_best_by_residual_weights"]
    assert gains["1 and 1"]["held-out tasks"] < -0.05 < gains["1 and 0"]["held-out tasks"]
    assert gains["1 and 1"]["familiar"] > 0


def _far_out(trial: Trial) -> Trial:
    """The same with figures that any alarm tells from those of familiar prompts."""
    reading = trial.readings["static"]
    return Trial(trial.rows, {"static": replace(reading, alarm_BA=reading.alarm_BA + 10)})


def test_no_trust_gains_nothing() -> None:
    done = finished(tiny_config(network=None, residual_weights=(0.0,), unfamiliar_weights=(0.0,)))

    assert done.figures["gain_over_usual_best_by_residual_weights"]["0 and 0"] == {"familiar": 0, "held-out tasks": 0}


def test_readings_of_tasks_that_were_wrong_widen_the_interval_of_unfamiliar_prompts() -> None:
    parts, questions, tasks = fitted(LINEAR)
    wrong = replace(tasks, trial=_far_out(with_last_member(tasks, np.full(tasks.rows.score.shape, 9.0)).trial))

    settings = finish(LINEAR, LIBRARY, parts, ("static",), questions, wrong).settings

    assert settings.variance_unfamiliar > finished().settings.variance_unfamiliar
    assert settings.variance_unfamiliar > 0.02


def test_with_two_encoders_both_stages_are_calibrated_and_their_difference_is_measured() -> None:
    """The slow encoder reads noise here, so it changes what the fast one says."""
    rng = np.random.default_rng(3)
    slow_BF = LEARNED.inputs["static"] + rng.normal(scale=0.1, size=LEARNED.inputs["static"].shape).astype(np.float32)
    inputs: Inputs = {"static": LEARNED.inputs["static"], "transformer": slow_BF}
    parts = fit_parts(LINEAR, LIBRARY, LEARNED.rows, inputs, seed=1)
    questions, tasks = (
        evidence(LEARNED.rows, joined(hold(LINEAR, LIBRARY, LEARNED.rows, inputs, lambda: None)))
        for hold in (held_out_questions, held_out_tasks)
    )

    done = finish(LINEAR, LIBRARY, parts, ("static", "transformer"), questions, tasks)

    assert misfit(done.tensors, ("static", "transformer"), 3) is None
    assert 0.001 < done.settings.static_error < 0.5
    assert 0 < done.settings.alarm_static < 1
    assert 0 < done.settings.alarm_full < 1
    np.testing.assert_array_equal(done.tensors["static.standing_M"], done.tensors["full.standing_M"])
    assert not np.array_equal(done.tensors["static.alarm_A"], done.tensors["full.alarm_A"][:5])


def test_one_encoder_differs_from_nothing() -> None:
    assert finished().settings.static_error == 0
