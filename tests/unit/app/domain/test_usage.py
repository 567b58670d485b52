"""Tokens and what they cost."""

from __future__ import annotations

import math

import pytest

from app.domain.models import TokenPrice
from app.domain.usage import MOST_TOKENS, Usage


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
    assert Usage.parse({"prompt_tokens": 3, **written}, has_output=False) == Usage(3, 0)


@pytest.mark.parametrize(
    "reported",
    [
        {"prompt_tokens": 3},
        {"prompt_tokens": 3, "completion_tokens": None},
        {"prompt_tokens": 3, "completion_tokens": None, "total_tokens": 13},
        {"input_tokens": 3},
    ],
    ids=str,
)
def test_a_report_that_leaves_out_what_was_written_is_none(reported: dict[str, object]) -> None:
    assert Usage.parse(reported) is None


@pytest.mark.parametrize(
    ("reasoning", "total", "written"),
    [
        (94, 135, 103),
        (94, 41, 9),
        (94, None, 9),
        (0, 135, 9),
        (93, 135, 9),
        (100, 135, 103),
        (None, 135, 9),
        (9, 50, 18),
    ],
)
def test_reasoning_that_is_counted_beside_the_answer_is_output(reasoning: object, total: object, written: int) -> None:
    details = {"reasoning_tokens": reasoning}
    chat = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": total, "completion_tokens_details": details}
    response = {"input_tokens": 32, "output_tokens": 9, "total_tokens": total, "output_tokens_details": details}
    assert [Usage.parse(chat), Usage.parse(response)] == [Usage(32, written)] * 2


def test_reasoning_that_is_a_part_of_the_answer_is_counted_once() -> None:
    details = {"reasoning_tokens": 94}
    reported = {
        "prompt_tokens": 32,
        "completion_tokens": 103,
        "total_tokens": 135,
        "completion_tokens_details": details,
    }
    assert Usage.parse(reported) == Usage(32, 103)


def test_more_cached_than_read_is_not_believed() -> None:
    reported = {"prompt_tokens": 5, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 60}}
    assert Usage.parse(reported) == Usage(5, 0, 5)


NO_NUMBERS = [True, False, "", "7", [], {}, 1.5, 0.0, 1e308, math.inf, math.nan]
NO_COUNTS = [*NO_NUMBERS, -1, MOST_TOKENS + 1, 10**308, 10**4299, -(10**4299)]


@pytest.mark.parametrize("count", NO_COUNTS)
def test_what_makes_no_sense_is_no_usage(count: object) -> None:
    assert Usage.parse({"prompt_tokens": count, "completion_tokens": 1}) is None
    assert Usage.parse({"prompt_tokens": 1, "completion_tokens": count}) is None
    assert Usage.parse({"input_tokens": 1, "output_tokens": count}) is None


@pytest.mark.parametrize("reported", [None, [], {}, "7", 7, {"completion_tokens": 7}])
def test_what_is_no_usage_object_is_no_usage(reported: object) -> None:
    assert Usage.parse(reported) is None


@pytest.mark.parametrize("cached", NO_COUNTS)
def test_cached_tokens_that_make_no_sense_are_not_more_than_were_read(cached: object) -> None:
    usage = Usage.parse(
        {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": cached}}
    )
    assert usage is not None
    assert usage.cached_input_tokens in (0, 5)


@pytest.mark.parametrize("odd", NO_COUNTS)
def test_reasoning_and_totals_that_make_no_sense_change_nothing(odd: object) -> None:
    for reasoning, total in ((odd, 135), (94, odd), (odd, odd)):
        details = {"reasoning_tokens": reasoning}
        reported = {"prompt_tokens": 32, "completion_tokens": 9, "completion_tokens_details": details}
        assert Usage.parse({**reported, "total_tokens": total}) == Usage(32, 9)


def test_the_most_that_is_believed_has_a_price() -> None:
    most = Usage.parse({"prompt_tokens": MOST_TOKENS, "completion_tokens": MOST_TOKENS})
    assert most is not None
    assert most.cost_usd(TokenPrice(1.0, 2.0)) == pytest.approx(3_000.0)
