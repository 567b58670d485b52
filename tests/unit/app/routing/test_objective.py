"""Ranking, the Pareto set and the smallest flip: examples, and properties over made-up fleets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.domain.dimensions import DIMENSIONS
from app.domain.models import Catalog, Model, Speed, TokenPrice
from app.domain.request import Preferences
from app.errors import NoEligibleModel
from app.routing.candidates import CandidateTable, FleetColumns
from app.routing.estimates import Case, Expected, Question
from app.routing.objective import pareto, ranked, smallest_flip, utility
from tests.fakes.routing import FakeCurve, FakeQualityPredictor, fleet_of, llm, world_of
from tests.fakes.world import request

NAMES = [each.name for each in DIMENSIONS]
WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 2), max_size=3)

SIZES = st.sampled_from([None, 0.1, 1, 8, 70, 400])
PRICES = st.sampled_from([None, *(TokenPrice(read, written) for read in (0.01, 1.0, 9.0) for written in (0.1, 9.0))])
SPEEDS = st.sampled_from([None, *(Speed(read, written) for read in (100.0, 9000.0) for written in (0.001, 0.2))])
# How long an example takes says more about the machine's other work than about this.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def _models(draw: st.DrawFn, least: int = 2) -> list[tuple[Model, float, float]]:
    """Models with a quality and an answer length each; some numbers are unknown."""
    count = draw(st.integers(least, 6))
    models = []
    for number in range(count):
        model = llm(
            f"m{number}",
            parameters_b=draw(SIZES),
            released=draw(st.sampled_from(["2023-05-01", "2024-05-01", "2025-05-01"])),
            security=draw(st.sampled_from(["public_api", "self_hosted", "isolated"])),
            price=draw(PRICES),
            speed=draw(SPEEDS),
            tested=draw(st.integers(0, 4)) > 0,
        )
        models.append((model, draw(st.floats(0, 1)), draw(st.floats(1, 2000))))
    return models


def _expected(models: list[tuple[Model, float, float]], preferences: Preferences | None = None) -> Expected:
    quality = {model.name: quality for model, quality, _ in models}
    tokens = {model.name: tokens for model, _, tokens in models}
    only = tuple(model for model, _, _ in models)
    table = CandidateTable(Catalog(only, ()), tuple(quality))
    question = Question.of(request(preferences=preferences or Preferences()))
    row = FakeQualityPredictor(quality, tokens).row()
    return Expected(Case(table, question, FleetColumns(table, fleet_of(*only)), row))


def _order(models: list[tuple[Model, float, float]], weights: Mapping[str, float]) -> list[str]:
    expected = _expected(models)
    order = ranked(utility(expected, weights), np.ones(len(models), dtype=np.bool_))
    return [models[number][0].name for number in order]


@patient
@given(_models(), WEIGHTS)
def test_utility_is_quality_less_at_most_all_the_weights(
    models: list[tuple[Model, float, float]], weights: dict[str, float]
) -> None:
    expected = _expected(models)
    utility_M, quality_M = utility(expected, weights), expected.quality
    assert np.array_equal(np.isnan(utility_M), np.isnan(quality_M))
    known_M = ~np.isnan(utility_M)
    assert (utility_M[known_M] <= quality_M[known_M]).all()
    assert (utility_M[known_M] >= quality_M[known_M] - sum(weights.values()) - 1e-9).all()


@patient
@given(_models(least=3), WEIGHTS, st.integers(0, 5))
def test_adding_a_model_never_flips_the_order_of_two_others(
    models: list[tuple[Model, float, float]], weights: dict[str, float], left_out: int
) -> None:
    left_out %= len(models)
    name = models[left_out][0].name
    without = _order(models[:left_out] + models[left_out + 1 :], weights)
    assert [each for each in _order(models, weights) if each != name] == without


@patient
@given(_models(), WEIGHTS, st.sampled_from(NAMES), st.floats(0.001, 5))
def test_raising_a_weight_never_makes_that_dimension_worse_in_the_choice(
    models: list[tuple[Model, float, float]], weights: dict[str, float], dimension: str, more: float
) -> None:
    expected = _expected(models)
    assume(not np.isnan(expected.quality).all())
    everyone_M = np.ones(len(models), dtype=np.bool_)
    before = ranked(utility(expected, weights), everyone_M)[0]
    after = ranked(utility(expected, {**weights, dimension: weights.get(dimension, 0.0) + more}), everyone_M)[0]
    share_M = expected.share(dimension)
    assert share_M[after] <= share_M[before] + 1e-9


@patient
@given(_models(), WEIGHTS)
def test_the_smallest_flip_flips_and_nothing_smaller_does(
    models: list[tuple[Model, float, float]], weights: dict[str, float]
) -> None:
    expected, everyone_M = _expected(models), np.ones(len(models), dtype=np.bool_)
    order = ranked(utility(expected, weights), everyone_M)
    flip = smallest_flip(expected, order, weights)
    size = math.inf if flip is None else abs(flip.flips_at - flip.weight)
    if flip is not None:
        beyond = max(flip.flips_at + (1e-6 if flip.rises else -1e-6), 0.0)
        utility_M = utility(expected, {**weights, flip.dimension: beyond})
        best = float(np.nanmax(utility_M))
        assert utility_M[flip.model] == pytest.approx(best, abs=1e-5)
        assert utility_M[order[0]] <= utility_M[flip.model] + 1e-9
    for name, part, sign in itertools.product(NAMES, (0.1, 0.5, 0.9), (1, -1)):
        changed = weights.get(name, 0.0) + sign * part * min(size, 5.0)
        # What lies within rounding of a tie may go either way.
        if changed < 0 or size < 1e-6:
            continue
        utility_M = utility(expected, {**weights, name: changed})
        if not np.isnan(utility_M[order[0]]):
            assert utility_M[order[0]] >= np.nanmax(utility_M) - 1e-9


@patient
@given(_models(), WEIGHTS)
def test_the_pareto_set_is_exactly_who_is_not_beaten(
    models: list[tuple[Model, float, float]], weights: dict[str, float]
) -> None:
    expected = _expected(models)
    front = pareto(expected, np.ones(len(models), dtype=np.bool_), weights)
    names = [name for name, weight in weights.items() if weight] or ["cost"]
    goals_MD = np.stack([-expected.quality, *(expected.share(name) for name in names)], axis=1)
    tested = [number for number in range(len(models)) if not math.isnan(expected.quality[number])]

    def is_beaten(number: int) -> bool:
        own_D = goals_MD[number]
        return any((goals_MD[other] <= own_D).all() and (goals_MD[other] < own_D).any() for other in tested)

    assert set(front) == {number for number in tested if not is_beaten(number)}
    assert [expected.quality[number] for number in front] == sorted(expected.quality[front], reverse=True)


SOFT = st.one_of(
    st.builds(lambda weights: {"weights": weights}, WEIGHTS), st.sampled_from([{"max_quality_loss": 0.02}])
)
LIMITS: dict[str, st.SearchStrategy[Any]] = {
    "max_cost_usd": st.floats(0, 0.01),
    "max_latency_s": st.floats(0, 20),
    "max_size_b": st.floats(0, 100),
    "min_quality": st.floats(0, 1),
    "max_output_tokens": st.floats(1, 2000),
    "released_after": st.sampled_from(["2024-01-01", "2025-01-01"]),
    "min_security": st.sampled_from(["self_hosted", "isolated"]),
    "exclude": st.lists(st.sampled_from(["m0", "m1", "m2"]), min_size=1),
}

ENCODERS = st.frozensets(st.sampled_from(["static", "transformer"]))
_SPEEDS = st.fixed_dictionaries(
    {
        "seen": st.lists(st.floats(0, 1), min_size=6, max_size=6),
        "order": st.sampled_from([(), ("m2", "m0")]),
        "static_error": st.sampled_from([0.0, 0.05, 0.5]),
        "unfamiliar": ENCODERS,
        "speeds": st.sampled_from([frozenset({"static"}), frozenset({"static", "transformer"})]),
        "failure": st.sampled_from([None, "on purpose"]),
        "glance_failure": st.sampled_from([None, "on purpose"]),
    }
)


@patient
@given(
    _models(),
    SOFT,
    st.fixed_dictionaries({}, optional=LIMITS),
    st.sets(st.sampled_from([f"m{number}" for number in range(6)])),
    _SPEEDS,
)
def test_no_ineligible_model_is_ever_a_candidate_whatever_either_encoder_says(
    models: list[tuple[Model, float, float]],
    soft: dict[str, Any],
    limits: dict[str, Any],
    allowed: set[str],
    speeds: dict[str, Any],
) -> None:
    allowed |= {"m0"}
    quality = {model.name: quality for model, quality, _ in models}
    tokens = {model.name: tokens for model, _, tokens in models}
    seen = dict(zip(quality, speeds.pop("seen"), strict=False))
    world = world_of(
        *(model for model, _, _ in models),
        quality=quality,
        output_tokens=tokens,
        seen=seen,
        curve=FakeCurve(best="m1"),
        order=speeds.pop("order"),
    )
    for name, value in speeds.items():
        setattr(world.predictor, name, value)
    try:
        decision = world.decide({**soft, **limits}, allowed_models=frozenset(allowed))
    except NoEligibleModel:
        return
    for candidate in decision.candidates:
        estimate, values = candidate.estimate, candidate.model.card.values
        readings = {
            "max_cost_usd": estimate.cost_usd,
            "max_latency_s": estimate.latency_s,
            "max_size_b": values.get("parameters_b"),
            "max_output_tokens": estimate.output_tokens,
        }
        assert candidate.model.name in allowed
        assert candidate.model.name not in limits.get("exclude", ())
        for name, reading in readings.items():
            assert name not in limits or (reading is not None and reading <= limits[name])
        if "min_quality" in limits:
            assert estimate.quality is not None
            assert estimate.quality >= limits["min_quality"]
        for name, field in (("released_after", "released"), ("min_security", "security")):
            if name in limits:
                kind = _reader(field)
                assert values[field] >= kind(limits[name])


def _reader(field: str) -> Any:
    """How a card's field is read."""
    return next(each.card.parse for each in DIMENSIONS if each.card is not None and each.card.name == field)


def test_equal_models_are_in_the_catalogues_order() -> None:
    # Enough of them for a sort that does not keep order to show it.
    models = [(llm(f"m{number * 7 % 50}"), 0.5 + 0.1 * (number % 2), 100.0) for number in range(50)]
    names = [model.name for model, _, _ in models]
    assert _order(models, {"cost": 0.3}) == names[1::2] + names[::2]


def test_the_untested_come_last_whatever_is_weighed() -> None:
    models = [(llm("free", price=TokenPrice(0, 0), tested=False), 0.0, 1.0), (llm("dear"), 0.01, 2000.0)]
    assert _order(models, {"cost": 20.0}) == ["dear", "free"]
