"""Scales: shares lie in [0, 1], 0 at the best end, and the unknown counts as the worst."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.dimensions import DIMENSIONS, Dimension, Labels, Scale

# How long an example takes says more about the machine's other work than about this.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LOG = Scale(0.1, 0.0001, "log")


@pytest.mark.parametrize(
    ("scale", "value", "share"),
    [
        (LOG, 0.1, 1.0),
        (LOG, 0.0001, 0.0),
        (LOG, 0.001, 1 / 3),
        (LOG, 5.0, 1.0),
        (LOG, 0.0, 0.0),
        (LOG, math.nan, 1.0),
        (LOG, math.inf, 1.0),
        (Scale(0.0, 3.0), 2.0, 1 / 3),
        (Scale(0.0, 3.0), math.nan, 1.0),
        (Scale(16.0, 4.0), 10.0, 0.5),
        (Scale(16.0, 4.0), 1.0, 0.0),
    ],
)
def test_a_share_says_how_far_from_the_best_end(scale: Scale, value: float, share: float) -> None:
    assert scale.share(np.array([value]))[0] == pytest.approx(share)


@patient
@given(st.lists(st.floats(0, 1e12) | st.just(math.nan), min_size=1))
def test_shares_are_bounded_and_do_not_touch_their_values(values: list[float]) -> None:
    before_M = np.array(values)
    for scale in (LOG, Scale(0.0, 3.0), Scale(3.0, 0.0)):
        value_M = before_M.copy()
        share_M = scale.share(value_M)
        assert ((share_M >= 0) & (share_M <= 1)).all()
        assert np.array_equal(value_M, before_M, equal_nan=True)


@pytest.mark.parametrize(("worst", "best"), [(1.0, 1.0), (0.0, 1.0), (1.0, -1.0), (1e12, math.nextafter(1e12, 0.0))])
def test_a_scale_that_measures_nothing_is_refused(worst: float, best: float) -> None:
    with pytest.raises(ValueError, match="end"):
        Scale(worst, best, "log")


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda each: each.name)
def test_an_operator_writes_the_ends_as_they_are_shown(dimension: Dimension) -> None:
    ends = dimension.ends
    worst, best = ends.as_json(dimension.scale.worst), ends.as_json(dimension.scale.best)
    assert dimension.rescaled(worst, best) == dimension.scale
    with pytest.raises(ValueError, match=r"^$|not in tuple"):
        dimension.rescaled("many", best)


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda each: each.name)
def test_a_scale_knows_on_which_side_its_worst_end_lies(dimension: Dimension) -> None:
    scale = dimension.scale
    middle = (scale.worst + scale.best) / 2
    assert Scale(middle, scale.best, scale.curve).rises_like(scale)
    assert not Scale(scale.best, scale.worst, scale.curve).rises_like(scale)


def test_labels_are_asked_once_for_each_distinct_value() -> None:
    asked: list[str] = []

    def is_b(value: str) -> bool:
        asked.append(value)
        return value == "b"

    labels = Labels(["a", "b", "a"])
    assert labels.where(is_b).tolist() == [False, True, False]
    assert (asked, labels[2]) == (["a", "b"], "a")
