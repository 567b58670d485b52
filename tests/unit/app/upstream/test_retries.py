"""The retry budget on a clock of its own, and waits before a retry on the same replica."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.retries import AHEAD_S, BASE_S, CAP_S, PER_REQUEST, PER_S, SAVED_AT_MOST, Backoff, RetryBudget
from tests.fakes.clock import FakeClock


def spend(budget: RetryBudget, wanted: int = 1000) -> int:
    return sum(budget.take() for _ in range(wanted))


def test_the_budget_refills_with_time_and_is_bounded() -> None:
    clock = FakeClock()
    budget = RetryBudget(clock)
    assert spend(budget) == SAVED_AT_MOST
    assert budget.is_empty
    clock.advance(10)
    assert not budget.is_empty
    assert spend(budget) == 10
    clock.advance(10**6)
    assert spend(budget) == SAVED_AT_MOST


def test_half_a_budget_is_low() -> None:
    budget = RetryBudget(FakeClock())
    assert not budget.is_low
    spend(budget, int(SAVED_AT_MOST / 2))
    assert budget.is_low
    assert not budget.is_empty


@pytest.mark.parametrize(("per_s", "earned_per_s"), [(1, 1.0), (5, 1.0), (10, 1.0), (20, 2.0), (100, 10.0)])
def test_the_larger_of_a_tenth_and_one_a_second_is_earned(per_s: int, earned_per_s: float) -> None:
    clock = FakeClock()
    budget = RetryBudget(clock)
    spend(budget)
    taken = 0
    for _ in range(60 * per_s):
        clock.advance(1 / per_s)
        budget.request_began()
        taken += spend(budget, 3)
    assert taken == pytest.approx(60 * earned_per_s, rel=0.03, abs=2)


def test_a_hundred_thousand_steps_never_break_the_budget() -> None:
    rng = random.Random(7)
    clock = FakeClock()
    budget = RetryBudget(clock)
    began_at, requests, taken = clock(), 0, 0
    for _ in range(100_000):
        step = rng.random()
        if step < 0.4:
            budget.request_began()
            requests += 1
        elif step < 0.8:
            taken += budget.take()
        else:
            clock.advance(rng.expovariate(20.0))
        earned = PER_REQUEST * requests + PER_S * (clock() - began_at)
        assert taken <= SAVED_AT_MOST + earned + 1e-6
    seconds = clock() - began_at
    figures = {"steps": 100_000, "requests": requests, "seconds": round(seconds), "retries": taken}
    print(json.dumps(figures))
    assert taken <= SAVED_AT_MOST + max(PER_REQUEST * requests, PER_S * seconds) * 1.05


@given(st.lists(st.tuples(st.sampled_from(["request", "take", "wait"]), st.floats(0, 30)), max_size=200))
def test_whatever_happens_saved_retries_stay_within_their_bounds(steps: list[tuple[str, float]]) -> None:
    clock = FakeClock()
    budget = RetryBudget(clock)
    for what, seconds in steps:
        if what == "request":
            budget.request_began()
        elif what == "take":
            assert budget.take() or budget.is_empty
        else:
            clock.advance(seconds)
    clock.advance(AHEAD_S)
    assert 0 <= spend(budget) <= SAVED_AT_MOST


def uniform_p_value(draws: list[float]) -> float:
    """Of the Kolmogorov-Smirnov test that these are uniform on [0, 1), by the limiting distribution."""
    count = len(draws)
    gaps = (max(value - rank / count, (rank + 1) / count - value) for rank, value in enumerate(sorted(draws)))
    x = max(gaps) * math.sqrt(count)
    return 2 * sum((-1.0) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))


@pytest.mark.parametrize(("retry", "bound_s"), [(1, BASE_S), (2, 2 * BASE_S), (4, 8 * BASE_S), (9, CAP_S)])
def test_waits_are_uniform_up_to_their_bound(retry: int, bound_s: float) -> None:
    backoff = Backoff(random.Random(11).random)
    draws = [backoff.draw_s(retry) / bound_s for _ in range(10_000)]
    p_value = uniform_p_value(draws)
    print(json.dumps({"retry": retry, "bound_s": bound_s, "ks_p_value": round(p_value, 3)}))
    assert p_value > 0.01
    assert uniform_p_value([draw**1.1 for draw in draws]) < 0.01, "the test can tell"
