"""Budgets grow with what the machine takes longer, and never shrink."""

from __future__ import annotations

import pytest

from tests.fakes.yardstick import Machine


@pytest.mark.parametrize(("at_first", "at_last", "expected"), [(2.0, 1.5, 2.0), (0.5, 3.0, 3.0), (0.5, 0.7, 1.0)])
def test_the_slower_of_two_moments_counts(at_first: float, at_last: float, expected: float) -> None:
    assert Machine(iter((at_first, at_last)).__next__).slowness() == expected
