"""When to come back, in every way that providers say it, and in none that breaks a request."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.http.pacing import (
    MAX_WAIT_S,
    REQUEST_WINDOWS,
    TOKEN_WINDOWS,
    retry_after_s,
    seconds_until,
    used_up_s,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


def after(seconds: float) -> datetime:
    return datetime.fromtimestamp(NOW + seconds, UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("0.25", 0.25),
        ("1s", 1),
        ("6m0s", 360),
        ("120ms", 0.12),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723),
        ("8.64s", 8.64),
        (after(30).isoformat(), 30),
        (after(30).isoformat().replace("+00:00", "Z"), 30),
        (after(30).replace(tzinfo=None).isoformat(), 30),
        (format_datetime(after(30), usegmt=True), 30),
        (str(int(NOW) + 30), 30),
        (str((int(NOW) + 30) * 1000), 30),
        (format_datetime(after(-30), usegmt=True), 0),
        (str(int(NOW) - 30), 0),
        ("999999999", MAX_WAIT_S),
        ("9" * 60, MAX_WAIT_S),
        ("9" * 50 + "s", MAX_WAIT_S),
    ],
)
def test_a_time_is_read_in_every_form_that_providers_write(value: str, seconds: float) -> None:
    assert seconds_until(value, NOW) == pytest.approx(seconds, abs=1e-5)


@pytest.mark.parametrize(
    "value", ["", "-1", "-5s", "nan", "inf", "1e9", "soon", "ms", "1 s", "٣", "9" * 400, "0x10", "[1]", "\x00", "5 0:0"]
)
def test_what_is_no_time_is_as_good_as_absent(value: str) -> None:
    assert seconds_until(value, NOW) is None
    assert retry_after_s({"retry-after": value, "retry-after-ms": value}, NOW) is None


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_header_ever_raises(left: str, value: str) -> None:
    headers = {name: value for window in REQUEST_WINDOWS + TOKEN_WINDOWS for name in window}
    headers |= {"retry-after": value, "retry-after-ms": left, REQUEST_WINDOWS[0][0]: "0"}
    for found in (retry_after_s(headers, NOW), used_up_s(headers, NOW), seconds_until(left, NOW)):
        assert found is None or 0 <= found <= MAX_WAIT_S


def test_milliseconds_come_before_seconds_and_both_before_windows() -> None:
    windows = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m"}
    assert retry_after_s({"retry-after-ms": "1500", "retry-after": "9", **windows}, NOW) == 1.5
    assert retry_after_s({"retry-after": "9", **windows}, NOW) == 9
    assert retry_after_s({"retry-after": "soon", **windows}, NOW) == 60
    assert retry_after_s({"retry-after-ms": "-4", "retry-after": "9"}, NOW) == 9


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"},  # OpenAI, Groq
        {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20"},  # Azure
        {"x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "20.0"},  # Cerebras
        {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "2026-03-01T12:00:20Z"},
        {
            "anthropic-ratelimit-output-tokens-remaining": "0",
            "anthropic-ratelimit-output-tokens-reset": "2026-03-01T12:00:20Z",
        },
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1772366420000"},  # OpenRouter
        {"ratelimit-remaining": "0", "ratelimit-reset": "20"},
    ],
)
def test_a_window_that_is_used_up_ends_at_its_reset(headers: dict[str, str]) -> None:
    assert retry_after_s(headers, NOW) == pytest.approx(20)


def test_of_several_windows_that_are_used_up_the_last_one_counts() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert retry_after_s(headers, NOW) == 360
    assert used_up_s(headers, NOW) == 2


@pytest.mark.parametrize("left", ["1", "-1", "", "none", "00x"])
def test_a_window_with_something_left_is_no_reason_to_wait(left: str) -> None:
    headers = {"x-ratelimit-remaining-requests": left, "x-ratelimit-reset-requests": "6m0s"}
    assert (retry_after_s(headers, NOW), used_up_s(headers, NOW)) == (None, None)
