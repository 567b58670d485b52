"""Tokens and what they cost."""

from __future__ import annotations

import pytest

from app.domain.models import TokenPrice
from app.domain.usage import Usage


def test_cached_tokens_are_read_and_have_a_price_of_their_own() -> None:
    reported = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}
    usage = Usage.parse(reported)
    assert usage == Usage(100, 10, 60)
    assert usage.cost_usd(TokenPrice(1.0, 4.0, 0.5)) == pytest.approx((40 * 1.0 + 60 * 0.5 + 10 * 4.0) / 1e6)
    assert usage.cost_usd(TokenPrice(1.0, 4.0)) == pytest.approx((100 * 1.0 + 10 * 4.0) / 1e6)
    assert usage.cost_usd(None) is None


def test_the_responses_api_has_other_names_for_the_same() -> None:
    reported = {"input_tokens": 100, "output_tokens": 10, "input_tokens_details": {"cached_tokens": 60}}
    assert Usage.parse(reported) == Usage(100, 10, 60)


@pytest.mark.parametrize("written", [{}, {"completion_tokens": None}, {"completion_tokens": 0}])
def test_embeddings_have_no_output(written: dict[str, object]) -> None:
    assert Usage.parse({"prompt_tokens": 3, **written}) == Usage(3, 0)


def test_more_cached_than_read_is_not_believed() -> None:
    reported = {"prompt_tokens": 5, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 60}}
    assert Usage.parse(reported) == Usage(5, 0, 5)


@pytest.mark.parametrize(
    "reported",
    [None, [], {}, {"prompt_tokens": True}, {"prompt_tokens": 1.5}, {"prompt_tokens": 1, "completion_tokens": -1}],
)
def test_what_makes_no_sense_is_no_usage(reported: object) -> None:
    assert Usage.parse(reported) is None
