"""Kinds of values: what is read, what is refused, and that what is shown can be read again."""

from __future__ import annotations

import math
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.domain import quantities
from app.domain.quantities import DATE, NAMES, NUMBER, POSITIVE, SECURITY, SESSION, SHARE, TRUTH, Kind

# How long an example takes says more about the machine's other work than about this.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

GOOD: list[tuple[Kind, object]] = [
    (NUMBER, 0),
    (NUMBER, 0.002),
    (SHARE, 1),
    (POSITIVE, 1e-9),
    (DATE, "2025-01-31"),
    (SECURITY, "isolated"),
    (NAMES, ["eu"]),
    (TRUTH, False),
    (SESSION, "a-b_c"),
    (quantities.PRIORITY, "low"),
]
NO_NUMBERS: tuple[object, ...] = (math.nan, math.inf, -1, "1", True, None, [], 1e13, 10**400)
NO_DAYS: tuple[object, ...] = ("2025-13-01", "2025-1-1", "today", 20250101, True, "2025-02-30", "２０２５-01-01")
NO_NAMES: tuple[object, ...] = ("eu", [], [""], [1], {"eu": 1}, ["x" * 300], ["x"] * 10_001)
BAD: list[tuple[Kind, object]] = [
    *((kind, value) for kind in (NUMBER, SHARE, POSITIVE) for value in NO_NUMBERS),
    (SHARE, 1.01),
    (POSITIVE, 0),
    *((DATE, value) for value in NO_DAYS),
    (SECURITY, "public"),
    (SECURITY, 2),
    (SECURITY, None),
    *((NAMES, value) for value in NO_NAMES),
    *((TRUTH, value) for value in (1, "true", None)),
    *((SESSION, value) for value in ("", "a b", "ü", "x" * 129, 7)),
    (quantities.PRIORITY, "urgent"),
]


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_a_good_value_is_read_and_written_back_as_it_was(kind: Kind, value: object) -> None:
    assert kind.as_json(kind.parse(value)) == value
    jsonschema.validate(value, dict(kind.schema))


@pytest.mark.parametrize(("kind", "value"), BAD)
def test_a_bad_value_is_refused(kind: Kind, value: object) -> None:
    with pytest.raises((ValueError, OverflowError)):
        kind.parse(value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (NUMBER, " 0.002 ", 0.002),
        (NUMBER, "1e-3", 0.001),
        (NAMES, "eu, us", ["eu", "us"]),
        (TRUTH, "true", True),
        (DATE, "2025-01-31", "2025-01-31"),
    ],
)
def test_a_header_says_the_same_as_a_body(kind: Kind, text: str, value: object) -> None:
    assert kind.parse(kind.from_text(text)) == kind.parse(value)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1_000", "0x10", "", "1 2", "٣"])
def test_a_header_takes_plain_numbers_only(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        NUMBER.parse(NUMBER.from_text(text))


@patient
@given(st.floats(0, 1e12))
@example(5e-324)
@example(0.1)
def test_rounded_numbers_are_short_and_on_the_right_side(value: float) -> None:
    up, down = quantities.rounded_up(value), quantities.rounded_down(value)
    assert down <= value <= up
    assert up - down <= 1.001e-3 * value + 1e-300
    assert float(quantities.show_number(up)) == up
    assert float(quantities.show_number(down)) == down


def test_days_count_on_from_each_other() -> None:
    values: list[Any] = [DATE.parse("2024-12-31"), DATE.parse("2025-01-01")]
    assert values[1] - values[0] == 1
