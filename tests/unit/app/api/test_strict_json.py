"""Bodies that could be read in two ways, or that exhaust who reads them, are refused."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.strict_json import MAX_DEPTH, parse_object
from app.errors import InvalidRequest


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"model": "a", "model": "b"}', "'model' occurs twice"),
        (b'{"x": {"y": 1, "y": 2}}', "'y' occurs twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": %s}' % (b"9" * 5000), "more than 20 digits"),
        (b'{"a": "\\ud800"}', "half of a UTF-16 pair"),
        (b'{"\\udfff": 1}', "half of a UTF-16 pair"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": ' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested deeper"),
        (b'{"a": ' + b"[" * 100_000, "nested deeper"),
    ],
)
def test_a_body_that_is_not_plainly_one_object_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse_object(body)


def test_brackets_inside_texts_are_not_nesting() -> None:
    text = '{"[' * 100 + '\\"{'
    assert parse_object(json.dumps({"a": text}).encode()) == {"a": text}


def test_a_key_that_occurs_twice_is_found_in_no_time_among_many() -> None:
    pairs = ",".join(f'"k{number}":1' for number in range(200_000))
    began_at = time.process_time()
    with pytest.raises(InvalidRequest, match="'k199999' occurs twice"):
        parse_object(f'{{{pairs},"k199999":1}}'.encode())
    assert time.process_time() - began_at < 2


# Lone surrogates are no text; the refusals above have them.
_TEXT = st.text(st.characters(codec="utf-8"))
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_TEXT, _VALUES, max_size=5), st.booleans())
def test_what_is_plain_json_comes_out_as_it_went_in(value: dict[str, object], ascii_only: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value
