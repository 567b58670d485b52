"""The head: from the inputs of one or two encoders to quality, length, their intervals, and whether to trust them.

Legend of array suffixes: B prompts, F inputs, T tasks, R rules, M models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router_models.heads.layout import Layout
from router_models.heads.odds import logit, shrunk_logit, sigmoid, softmax
from router_models.heads.tryage import (
    ALARM_FIGURES,
    MOST_DEVIATIONS,
    Blend,
    EncoderHead,
    Speed,
    TryageHead,
    alarm_figures,
    stages,
    standardised,
)
from router_models.reading.surface import NAMES as SURFACE_NAMES
from router_models.storage.artifact import Artifact
from tests.fakes.artifacts import SIZE_D, SIZE_F, tiny_artifact, tiny_pools_artifact

SURFACE = len(SURFACE_NAMES)


def inputs_of(prompts: int = 6, seed: int = 0) -> np.ndarray:
    """Unit vectors and a surface of zeros."""
    embedding_BD = np.random.default_rng(seed).normal(size=(prompts, SIZE_D))
    embedding_BD /= np.linalg.norm(embedding_BD, axis=1, keepdims=True)
    return np.concatenate([embedding_BD, np.zeros((prompts, SURFACE))], axis=1).astype(np.float32)


def both(prompts: int = 6) -> Mapping[Speed, np.ndarray]:
    return {"static": inputs_of(prompts, 1), "transformer": inputs_of(prompts, 2)}


def head_of(artifact: Artifact, tensors: Mapping[str, Any] | None = None, **settings: Any) -> TryageHead:
    """The head of an artifact with other tensors or settings."""
    heads = dict(artifact.heads)
    for name, tensor in (tensors or {}).items():
        heads[name] = np.asarray(tensor, heads[name].dtype if name in heads else np.float32)
    return TryageHead(heads, replace(artifact.settings, **settings), len(artifact.models))


def test_inputs_are_brought_to_deviation_one_and_bounded() -> None:
    standard_BF = standardised(np.array([[3.0, -50.0, 50.0]]), np.array([1.0, 0.0, 0.0]), np.array([2.0, 1.0, 0.1]))

    np.testing.assert_array_equal(standard_BF, [[1, -MOST_DEVIATIONS, MOST_DEVIATIONS]])


def test_a_reading_is_the_score_of_the_guessed_tasks_and_what_the_prompt_adds() -> None:
    """One prompt whose inputs are 1 and 2, the rest 0; every figure by hand."""
    heads = tiny_artifact(speeds=("static",)).heads
    weight_FO, bias_O = np.zeros((SIZE_F, 6), np.float32), np.zeros(6, np.float32)
    weight_FO[0, :2], bias_O[:2] = (np.log(3), 0), (0, 0)
    weight_FO[1, 2:4], bias_O[2:4] = (0.5, -0.25), (0.1, 0.2)
    weight_FO[1, 4:6] = (0.05, 0)
    made = {
        "static.weight_FO": weight_FO,
        "static.bias_O": bias_O,
        "table.quality_TR": np.array([[0.8, 0.4], [0.4, 0.6]], np.float32),
        "table.log_tokens_TR": np.array([[2.0, 4.0], [6.0, 4.0]], np.float32),
    }
    tensors = {**heads, **made}
    inputs_BF = np.zeros((1, SIZE_F), np.float32)
    inputs_BF[0, :2] = (1, 2)

    reading = EncoderHead(tensors, "static", Layout(tensors, 2)).read(inputs_BF)

    np.testing.assert_allclose(reading.task_BT, [[0.75, 0.25]], rtol=1e-5)
    np.testing.assert_allclose(reading.logit_BR, [[logit(np.array(0.7)) + 1.1, logit(np.array(0.45)) - 0.3]], rtol=1e-4)
    np.testing.assert_allclose(reading.own_BP, [[(1.1 - 0.3) / 2]], rtol=1e-4)
    np.testing.assert_allclose(reading.log_tokens_BR, [[0.75 * 2 + 0.25 * 6 + 0.1, 4]], rtol=1e-5)
    assert reading.alarm_BA.shape == (1, len(ALARM_FIGURES))


def test_the_alarm_looks_at_entropy_deviations_and_distance() -> None:
    standard_BF = np.concatenate([np.full((1, SIZE_D), 2.0), np.full((1, SURFACE), -3.0)], axis=1)

    figures_BA = alarm_figures(np.array([[0.5, 0.5]]), standard_BF, np.array([[0.1, 0.7, -0.2]]))

    assert ALARM_FIGURES == ("task_entropy", "embedding_deviation", "surface_deviation", "distance")
    np.testing.assert_allclose(figures_BA, [[np.log(2), 2, 3, 0.3]], rtol=1e-5)


def test_a_sure_task_has_no_entropy() -> None:
    figures_BA = alarm_figures(np.array([[1.0, 0.0]]), np.zeros((1, SIZE_F)), np.zeros((1, 1)))

    assert figures_BA[0, 0] == pytest.approx(0, abs=1e-6)


def test_two_readings_are_averaged_and_their_logits_and_figures_kept() -> None:
    head, inputs = head_of(tiny_artifact()), both()
    static, transformer = (head.read(speed, inputs_BF) for speed, inputs_BF in inputs.items())

    blend = Blend.of([static, transformer])

    np.testing.assert_allclose(blend.task_BT, (static.task_BT + transformer.task_BT) / 2)
    np.testing.assert_array_equal(blend.logit_SBR, [static.logit_BR, transformer.logit_BR])
    np.testing.assert_allclose(blend.own_BP, (static.own_BP + transformer.own_BP) / 2)
    np.testing.assert_allclose(blend.log_tokens_BR, (static.log_tokens_BR + transformer.log_tokens_BR) / 2)
    np.testing.assert_array_equal(blend.alarm_BA, np.hstack([static.alarm_BA, transformer.alarm_BA]))


def test_quality_is_the_mapped_mean_of_the_encoders_logits() -> None:
    head = head_of(tiny_artifact(), {"full.platt_2P": [[0.5], [0.25]]})
    inputs = both()
    logit_SBR = Blend.of([head.read(speed, inputs_BF) for speed, inputs_BF in inputs.items()]).logit_SBR

    prediction = head.predict(inputs)

    np.testing.assert_allclose(prediction.quality, sigmoid(0.5 * logit_SBR.mean(0) + 0.25), rtol=1e-4)


def test_every_pool_has_a_map_of_its_own() -> None:
    """A prompt that is surely of the first pool moves with the first's map only; a completed mean needs none."""
    artifact, inputs = tiny_pools_artifact(), both()
    plain, first, second = (
        head_of(artifact, {"full.platt_2P": [[1, 1], offsets]}) for offsets in ((0, 0), (1, 0), (0, 1))
    )
    blend = Blend.of([plain.read(speed, inputs_BF) for speed, inputs_BF in inputs.items()])
    surely_first = replace(blend, task_BT=np.tile(np.array([0.5, 0.5, 0, 0], np.float32), (len(blend.task_BT), 1)))

    moved = logit(first.mixed("full", surely_first)) - logit(plain.mixed("full", surely_first))

    np.testing.assert_allclose(moved, [[1, 0, 1]] * 6, atol=0.01)
    np.testing.assert_allclose(second.mixed("full", surely_first), plain.mixed("full", surely_first), atol=1e-4)


def trust(*weight_P: float) -> dict[str, Any]:
    """How much of the rest each pool believes, whoever has read the prompt."""
    return {f"{stage}.trust_P": weight_P for stage in ("static", "full")}


def test_without_trust_every_prompt_gets_the_usual_order_and_stays_as_hard_as_it_was() -> None:
    standing_M = {"full.standing_M": [0.7, -0.7], "static.standing_M": [0.7, -0.7]}
    plain = head_of(tiny_artifact(), standing_M).predict(both()).quality

    usual = head_of(tiny_artifact(), {**standing_M, **trust(0)}).predict(both()).quality

    np.testing.assert_allclose(logit(usual)[:, 0] - logit(usual)[:, 1], 1.4, rtol=1e-3)
    np.testing.assert_allclose(logit(usual).mean(1), logit(plain).mean(1), atol=1e-4)
    assert len(set(plain.argmax(1))) == 2, "or else nothing had to be shrunk"


def test_half_the_trust_shrinks_halfway() -> None:
    plain = head_of(tiny_artifact()).predict(both()).quality

    shrunk = head_of(tiny_artifact(), trust(0.5)).predict(both()).quality

    expected = sigmoid(shrunk_logit(plain, tiny_artifact().heads["full.standing_M"], 0.5))
    np.testing.assert_allclose(shrunk, expected, rtol=1e-4)


def test_each_stage_is_trusted_as_far_as_its_own_numbers_say() -> None:
    head, plain = head_of(tiny_artifact(), {"static.trust_P": [0]}), head_of(tiny_artifact())
    glance: Mapping[Speed, np.ndarray] = {"static": inputs_of()}

    np.testing.assert_array_equal(head.predict(both()).quality, plain.predict(both()).quality)
    usual = logit(head.predict(glance).quality)
    np.testing.assert_allclose(usual[:, 1] - usual[:, 0], 0.2, rtol=1e-3)


def test_a_model_is_trusted_as_far_as_its_own_pools_say() -> None:
    """The first pool trusts all, the second nothing; the prompt looks like each of them as much."""
    standing_M = np.array([-0.5, 0.5, 0.0], np.float32)
    head = head_of(tiny_pools_artifact(), {"full.standing_M": standing_M, **trust(1, 0)})
    logit_M = np.array([1.0, -2.0, -0.5])

    trusted_BM = head.trusted("full", sigmoid(logit_M)[None], np.array([[0.25, 0.25, 0.5, 0.0]]))

    # The mean of the logits is -0.5, so the rests are 2.0, -2.0 and 0.0.
    np.testing.assert_allclose(logit(trusted_BM), [[1.0, 0.0, -0.5]], atol=1e-4)


def test_an_alarm_is_said_and_changes_no_quality() -> None:
    calm, alarmed = (
        head_of(tiny_artifact(), {"full.alarm_A": [level, *[0] * 8]}, alarm_full=0.5).predict(both())
        for level in (-20, 20)
    )

    assert (calm.unfamiliar.tolist(), alarmed.unfamiliar.tolist()) == ([False] * 6, [True] * 6)
    np.testing.assert_array_equal(calm.quality, alarmed.quality)


def test_what_is_flagged_is_what_a_prediction_calls_unfamiliar() -> None:
    """The alarm looks at the first figure of the static encoder alone, and is set to its median."""
    head = head_of(tiny_artifact(), {"full.alarm_A": [0, 1, *[0] * 7]})
    blend = Blend.of([head.read(speed, inputs_BF) for speed, inputs_BF in both().items()])
    median = float(np.median(sigmoid(blend.alarm_BA[:, 0])))
    head = head_of(tiny_artifact(), {"full.alarm_A": [0, 1, *[0] * 7]}, alarm_full=median)

    flagged_B = head.flagged("full", blend)

    assert flagged_B.tolist() == (sigmoid(blend.alarm_BA[:, 0]) > median).tolist()
    assert flagged_B.sum() == 3
    np.testing.assert_array_equal(flagged_B, head.predict(both()).unfamiliar)


@pytest.mark.parametrize(("threshold", "unfamiliar"), [(0.4, True), (0.6, False)])
def test_a_prompt_is_unfamiliar_when_its_alarm_is_above_the_threshold_of_who_read_it(
    threshold: float, unfamiliar: bool
) -> None:
    silent = {"full.alarm_A": [0] * 9, "static.alarm_A": [0] * 5}
    full = head_of(tiny_artifact(), silent, alarm_full=threshold, alarm_static=1.0)
    static = head_of(tiny_artifact(), silent, alarm_static=threshold, alarm_full=1.0)

    assert (full.predict(both()).unfamiliar == unfamiliar).all()
    assert not full.predict({"static": inputs_of()}).unfamiliar.any()
    assert (static.predict({"static": inputs_of()}).unfamiliar == unfamiliar).all()
    assert not static.predict(both()).unfamiliar.any()


def test_each_stage_has_its_own_map_and_the_static_encoder_alone_is_enough_for_one() -> None:
    head = head_of(tiny_artifact(), {"static.platt_2P": [[1], [2]], "full.platt_2P": [[1], [-2]]})
    inputs = both()

    alone, together = head.predict({"static": inputs["static"]}), head.predict(inputs)

    assert (alone.quality > together.quality).all()


def test_stages_are_those_that_the_encoders_allow() -> None:
    assert stages(("static", "transformer")) == ("static", "full")
    assert stages(("static",)) == stages(("transformer",)) == ("full",)


def widths(head: TryageHead, inputs: Mapping[Speed, np.ndarray]) -> np.ndarray:
    """Upper half, where it is not cut at 1 [B, M]."""
    prediction = head.predict(inputs)
    upper_BM = prediction.quality_interval[:, :, 1]
    return np.where(upper_BM < 1, upper_BM - prediction.quality, np.nan)


def test_an_interval_is_as_wide_as_the_floor_where_the_members_agree() -> None:
    head = head_of(tiny_artifact(), variance_floor=0.0004, variance_per_disagreement=5.0, variance_unfamiliar=0.0)

    np.testing.assert_allclose(widths(head, {"static": inputs_of()}), 1.645 * 0.02, rtol=1e-3)


def test_disagreement_between_encoders_widens_it() -> None:
    narrow = head_of(tiny_artifact(), variance_floor=1e-4, variance_per_disagreement=0.0, variance_unfamiliar=0.0)
    wide = head_of(tiny_artifact(), variance_floor=1e-4, variance_per_disagreement=0.1, variance_unfamiliar=0.0)
    blend = Blend.of([narrow.read(speed, inputs_BF) for speed, inputs_BF in both().items()])

    np.testing.assert_allclose(narrow.spread(blend), sigmoid(blend.logit_SBR).var(0), rtol=1e-4)
    assert np.nanmin(widths(wide, both()) / widths(narrow, both())) > 1


def test_so_does_an_alarm() -> None:
    settings = {"variance_floor": 1e-4, "variance_per_disagreement": 0.0, "variance_unfamiliar": 3e-4}
    calm = head_of(tiny_artifact(), {"full.alarm_A": [-20] + [0] * 8}, **settings)
    alarmed = head_of(tiny_artifact(), {"full.alarm_A": [20] + [0] * 8}, **settings)

    np.testing.assert_allclose(widths(calm, both()), 1.645 * 0.01, rtol=1e-2)
    np.testing.assert_allclose(widths(alarmed, both()), 1.645 * 0.02, rtol=1e-2)


def test_intervals_stay_within_0_and_1() -> None:
    interval = head_of(tiny_artifact(), variance_floor=1.0).predict(both()).quality_interval

    np.testing.assert_array_equal(interval[:, :, 0], 0)
    np.testing.assert_array_equal(interval[:, :, 1], 1)


def test_a_length_is_the_exponential_with_its_own_corrections() -> None:
    spread_M3 = [[0.1, -1.0, 1.0], [0.2, -2.0, 2.0]]

    prediction = head_of(tiny_artifact(), {"tokens.spread_M3": spread_M3}).predict(both())

    np.testing.assert_allclose(prediction.output_tokens, 20 * np.exp([[0.1, 0.2]] * 6), rtol=1e-4)
    np.testing.assert_allclose(
        prediction.output_tokens_interval, 20 * np.exp([[[-1.0, 1.0], [-2.0, 2.0]]] * 6), rtol=1e-4
    )


def test_no_prompt_is_answered_at_endless_length() -> None:
    bias_O = np.zeros(6, np.float32)
    bias_O[4:] = 500

    prediction = head_of(tiny_artifact(), {"static.bias_O": bias_O}).predict(both())

    np.testing.assert_allclose(prediction.output_tokens, 100_000, rtol=1e-3)


def test_a_model_whose_lengths_were_never_measured_has_none() -> None:
    """Of the rules small@first, both@first, large@second, both@second."""
    prediction = head_of(tiny_pools_artifact(), {"tokens.known_R": [1, 1, 0, 0]}).predict(both())

    assert np.isnan(prediction.output_tokens[:, 1]).all()
    assert np.isnan(prediction.output_tokens_interval[:, 1]).all()
    np.testing.assert_allclose(prediction.output_tokens[:, [0, 2]], 20, rtol=0.05)
    assert np.isfinite(prediction.quality).all()


def test_nothing_is_known_of_lengths_where_no_rule_is() -> None:
    prediction = head_of(tiny_artifact(), {"tokens.known_R": [0, 0]}).predict(both())

    assert np.isnan(prediction.output_tokens).all()
    assert np.isnan(prediction.output_tokens_interval).all()


def test_tasks_are_guessed_among_all_pools() -> None:
    head, inputs = head_of(tiny_pools_artifact()), both()

    reading = head.read("static", inputs["static"])

    weight_FO = tiny_pools_artifact().heads["static.weight_FO"]
    np.testing.assert_allclose(reading.task_BT, softmax(inputs["static"] @ weight_FO[:, :4]), rtol=1e-4)
