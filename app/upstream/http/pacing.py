"""What a backend's headers say about when to come back; a header that makes no sense is as good as absent.

How it works: `retry-after-ms` or `retry-after` says it outright. Without them, a window whose `remaining` is 0 ends
at its `reset`; of several such windows the last one counts. Providers write a time as seconds ("7", "0.25"), as
durations ("6m0s", "120ms"), as dates (ISO 8601, or HTTP's own), or as seconds or milliseconds since 1970.

Not here: windows that are not used up. OpenAI's `reset` is when a window is full again, not when the next request
fits, so one that has something left is no reason to wait.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Quotas of a day are the longest that providers name; what lies further ahead is a clock that is wrong.
MAX_WAIT_S = 86_400.0
# A value is a number or a date; nothing longer is read.
MAX_CHARS = 64
# As seconds this is 31 years, as seconds since 1970 the year 2001: no waiting time, and no date of today.
EPOCH_FROM_S, EPOCH_FROM_MS = 1e9, 1e12

REQUEST_WINDOWS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),  # OpenAI, Azure, Groq
    ("x-ratelimit-remaining-requests-day", "x-ratelimit-reset-requests-day"),  # Cerebras
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),  # OpenRouter, Together
    ("ratelimit-remaining", "ratelimit-reset"),  # the IETF's draft, and proxies that follow it
)
TOKEN_WINDOWS = (
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-remaining-tokens-minute", "x-ratelimit-reset-tokens-minute"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
)

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
# Go's form of a duration, as OpenAI and Groq write it; a day is Azure's.
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?", re.ASCII)
_UNITS_S = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a refused request should wait, at most a day; None where the headers do not say.

    `headers` ignores case, or has its names in lower case; `now` is in seconds since 1970.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if len(milliseconds) < MAX_CHARS and _NUMBER.fullmatch(milliseconds):
        return min(float(milliseconds) / 1000, MAX_WAIT_S)
    asked_s = seconds_until(headers.get("retry-after", ""), now)
    return _resets_in_s(headers, REQUEST_WINDOWS + TOKEN_WINDOWS, now) if asked_s is None else asked_s


def used_up_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds in which an answered request was the last that its quota of requests allows; None where it was not."""
    return _resets_in_s(headers, REQUEST_WINDOWS, now)


def seconds_until(value: str, now: float) -> float | None:
    """Seconds from `now` to the time that a header names, from 0 to a day; None where it names none."""
    value = value.strip()
    if not value or len(value) > MAX_CHARS:
        return None
    wait_s = _number_s(value, now) if _NUMBER.fullmatch(value) else _duration_s(value)
    wait_s = _date_s(value, now) if wait_s is None else wait_s
    return None if wait_s is None or math.isnan(wait_s) else min(max(wait_s, 0.0), MAX_WAIT_S)


def _resets_in_s(headers: Mapping[str, str], windows: tuple[tuple[str, str], ...], now: float) -> float | None:
    ends_s = [seconds_until(headers.get(reset, ""), now) for left, reset in windows if _is_zero(headers.get(left))]
    return max((end_s for end_s in ends_s if end_s is not None), default=None)


def _is_zero(remaining: str | None) -> bool:
    """Azure writes -1 for what it does not count."""
    return remaining is not None and remaining.strip() in ("0", "0.0")


def _number_s(value: str, now: float) -> float:
    number = float(value)
    if number >= EPOCH_FROM_MS:
        return number / 1000 - now
    return number - now if number >= EPOCH_FROM_S else number


def _duration_s(value: str) -> float | None:
    found = _DURATION.fullmatch(value)
    if not found:
        return None
    return sum(float(part) * unit_s for part, unit_s in zip(found.groups("0"), _UNITS_S, strict=True))


def _date_s(value: str, now: float) -> float | None:
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse(value)
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None
