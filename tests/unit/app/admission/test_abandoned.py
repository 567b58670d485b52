"""What a backend is taken to have done for a request whose answer nobody waited for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.admission.abandoned import usage_by
from app.domain.decision import Candidate, Estimate
from app.domain.models import Speed
from app.domain.request import Request
from app.domain.usage import Usage
from tests.fakes.world import UNKNOWN, model, request

SPEED = Speed(prefill_tokens_per_s=1000, s_per_output_token=0.01)
READ_TOKENS = 12
"""Of the prompt: 12 ms at that speed."""
EXPECTED = Estimate(quality=0.9, output_tokens=50.0, cost_usd=None, ttft_s=1.0, latency_s=2.0)


def _usage(asked: Request, waited_s: float, expected: Estimate = UNKNOWN, speed: Speed | None = SPEED) -> Usage:
    return usage_by(Candidate(replace(model("small"), speed=speed), 0.9, lambda: expected), asked, waited_s)


@pytest.mark.parametrize(
    ("waited_s", "expected", "written_tokens"),
    [
        (0.0, UNKNOWN, 0),
        (0.012, UNKNOWN, 0),
        (0.512, UNKNOWN, 50),
        (60.0, UNKNOWN, 100),
        (1.0, EXPECTED, 0),
        (1.5, EXPECTED, 25),
        (60.0, EXPECTED, 50),
        (60.0, replace(EXPECTED, output_tokens=400.0), 100),
        (60.0, replace(EXPECTED, latency_s=1.0), 50),
        (0.512, replace(UNKNOWN, output_tokens=20.0), 20),
    ],
)
def test_a_plain_answer_is_as_long_as_its_model_writes_in_the_time(
    waited_s: float, expected: Estimate, written_tokens: int
) -> None:
    usage = _usage(request(max_tokens=100), waited_s, expected)
    assert usage == Usage(READ_TOKENS, written_tokens, counted=True)


def test_no_answer_is_longer_than_its_model_can_remember() -> None:
    assert _usage(request(), 600.0).output_tokens == 4096


def test_each_choice_is_an_answer() -> None:
    assert _usage(request(max_tokens=100, choices=3), 0.512).output_tokens == 150


@pytest.mark.parametrize(("least_tokens", "max_tokens", "written_tokens"), [(80, 100, 80), (10**7, None, 4096)])
def test_no_answer_ends_before_what_was_asked_for(
    least_tokens: int, max_tokens: int | None, written_tokens: int
) -> None:
    asked = request(max_tokens=max_tokens, least_tokens=least_tokens)
    assert _usage(asked, 60.0, EXPECTED).output_tokens == written_tokens


@pytest.mark.parametrize(
    ("asked", "speed"),
    [
        (request(max_tokens=100, stream=True), SPEED),
        (request(operation="embeddings"), SPEED),
        (request(max_tokens=100), None),
    ],
    ids=["a stream shows when writing begins", "embeddings are not written", "no speed is known"],
)
def test_otherwise_only_the_prompt_counts(asked: Request, speed: Speed | None) -> None:
    assert _usage(asked, 60.0, speed=speed) == Usage(READ_TOKENS, 0, counted=True)
