"""Bodies of embeddings calls: what is let in, and how long it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.bodies.embeddings_body import TABLE
from app.api.bodies.parsing import parse_embeddings
from app.domain.request import Preferences, Request
from app.errors import CallerError, InvalidRequest, UnknownModel, UnsupportedParameter
from tests.fakes.call import FREE, FakeCall


def parsed(**fields: Any) -> Request:
    return parse_embeddings({"model": "small", "input": "hello", **fields}, FakeCall())


@pytest.mark.parametrize(
    ("asked", "tokens", "longest"),
    [
        ("x" * 40, 10, None),
        (["x" * 40], 10, None),
        (["x" * 40, "x" * 80], 30, 20),
        ([1, 2, 3], 3, None),
        ([[1, 2], [3]], 3, 2),
        (["x"] * 2048, 2048, 1),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_input_is_one_or_several_texts_or_lists_of_ids(asked: Any, tokens: int, longest: int | None) -> None:
    request = parsed(input=asked)
    assert (request.input_tokens, request.longest_prompt_tokens, request.max_tokens) == (tokens, longest, 0)
    assert (request.operation, request.model) == ("embeddings", "small")
    assert request.needs == {"embeddings"}
    assert request.body == {"input": asked}


@pytest.mark.parametrize(
    "fields",
    [{"encoding_format": "base64", "dimensions": 256}, {"user": "me"}, {"routing": {"deadline_s": 3}}],
    ids=str,
)
def test_these_are_fine(fields: dict[str, Any]) -> None:
    assert parsed(**fields).body.keys() <= {"input", "encoding_format", "dimensions"}


@pytest.mark.parametrize("limits", [{"max_output_tokens": 400.0}, {"min_quality": 0.5}], ids=str)
def test_limits_on_what_is_written_say_nothing_of_embeddings(limits: dict[str, float]) -> None:
    key = replace(FREE, routing=Preferences({**limits, "max_cost_usd": 1.0}))
    request = parse_embeddings({"model": "small", "input": "hello"}, FakeCall(key))
    assert request.preferences.limits == {"max_cost_usd": 1.0}


@pytest.mark.parametrize(
    "fields",
    [
        {"input": ""},
        {"input": []},
        {"input": None},
        {"input": [""]},
        {"input": [[]]},
        {"input": ["x", 1]},
        {"input": [1, "x"]},
        {"input": [-1]},
        {"input": [True]},
        {"input": ["x"] * 2049},
        {"input": [{"role": "user", "content": "x"}]},
        {"encoding_format": "int8"},
        {"dimensions": 0},
        {"user": "x" * 300},
    ],
    ids=lambda value: str(value)[:40],
)
def test_these_are_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(fields))):
        parsed(**fields)


@pytest.mark.parametrize("name", ["stream", "messages", "max_tokens", "truncate_prompt_tokens"])
def test_other_fields_are_refused_by_name(name: str) -> None:
    with pytest.raises(UnsupportedParameter, match=f"{name} is not a parameter"):
        parsed(**{name: 1})


def test_no_model_is_chosen_for_embeddings() -> None:
    with pytest.raises(InvalidRequest, match="name a model with the capability embeddings"):
        parsed(model="auto")
    with pytest.raises(UnknownModel):
        parsed(model="nobody")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


@given(_JSON, st.dictionaries(st.sampled_from([*TABLE, "nonsense"]), _JSON, max_size=2))
def test_any_body_is_a_request_or_the_callers_error(asked: Any, fields: dict[str, Any]) -> None:
    assert status({"model": "small", "input": asked, **fields}) in (200, 400, 404)


def status(body: dict[str, Any]) -> int:
    try:
        parse_embeddings(body, FakeCall())
    except CallerError as exc:
        return exc.status
    return 200
