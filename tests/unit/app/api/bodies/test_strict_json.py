"""Bodies that could be read in two ways, or that exhaust who reads them, are refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.bodies.strict_json import MAX_DEPTH, MAX_PARTS, MAX_VALUES, STRICT_BYTES, parse_object, parse_strictly
from app.errors import InvalidRequest
from tests.fakes.yardstick import Machine


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
        (b'{"a": ' + b"[" * 40_000, "nested deeper"),
    ],
)
def test_a_body_that_is_not_plainly_one_object_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse_object(body)


def test_brackets_inside_texts_are_not_nesting() -> None:
    text = '{"[' * 100 + '\\"{'
    assert parse_object(json.dumps({"a": text}).encode()) == {"a": text}


# As many bytes as make a body a large one, in no way that matters.
PADDING = b'"padding": "%b", ' % (b"x" * STRICT_BYTES)


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        (b'"model": "a", "model": "b"}', "occurs twice"),
        (b'"a": [{"x": 1, "x": "\\u003a"}]}', "occurs twice"),
        (b'"a": %s}' % (b"9" * 21), "more than 64 bits"),
        (b'"a": [-%s]}' % (b"9" * 20), "more than 64 bits"),
        (b'"a": %b1%b}' % (b"[" * MAX_DEPTH, b"]" * MAX_DEPTH), "nested deeper"),
        (b'"a": NaN}', "not JSON that all read alike"),
        (b'"a": 1e999}', "not JSON that all read alike"),
        (b'"a": "\\ud800"}', "not JSON that all read alike"),
    ],
)
def test_the_same_holds_for_a_large_body(rest: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse_object(b"{" + PADDING + rest)


def test_a_large_body_may_say_unusual_things() -> None:
    parsed = parse_object(b"{" + PADDING + b'"a": 1234567890123456789, "b": 123456789012345678901.5, "c": "\\u003a"}')
    assert list(parsed.values())[1:] == [1234567890123456789, 123456789012345678901.5, ":"]


SMALL_THINGS = {"texts": b'"ab",', "objects": b"{},", "lists": b"[],", "fields": b'{"a":""},'}


@pytest.mark.parametrize("thing", SMALL_THINGS.values(), ids=SMALL_THINGS.keys())
def test_a_body_of_too_many_things_is_refused_before_it_is_parsed(thing: bytes, machine: Machine) -> None:
    began_at = time.process_time()
    with pytest.raises(InvalidRequest, match=f"more than {MAX_PARTS} texts"):
        parse_object(b'{"messages": [' + thing * ((4 << 20) // len(thing)) + b"1]}")
    assert time.process_time() - began_at < 0.1 * machine.slowness()


def test_a_body_of_too_many_numbers_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_VALUES} values"):
        parse_object(b'{"prompt": [' + b"1," * (MAX_VALUES + 1) + b"1]}")


def test_what_a_text_says_is_not_counted() -> None:
    text = '[{,"' * MAX_VALUES
    assert parse_object(json.dumps({"a": text}).encode()) == {"a": text}


def test_a_key_that_occurs_twice_is_found_in_no_time_among_many() -> None:
    pairs = ",".join(f'"k{number}":1' for number in range(45_000))
    began_at = time.process_time()
    with pytest.raises(InvalidRequest, match="occurs twice"):
        parse_object(f'{{{pairs},"k44999":1}}'.encode())
    assert time.process_time() - began_at < 1


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


_NASTY = st.sampled_from(
    [
        "NaN",
        "-Infinity",
        "1e999",
        "-0",
        "-0.0",
        "1e-400",
        "9" * 19,
        "9" * 20,
        "9" * 21,
        "-" + "9" * 20,
        "9" * 30 + ".5",
        "18446744073709551616",
        "1e15",
        "1e30",
        "0.1",
        "01",
        "+1",
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\u003a"',
        '"::"',
        '"\x01"',
        '"\\x"',
        '"\ufeff"',
        '"\\u0000"',
        "[" * 33 + "]" * 33,
        "tru",
        "",
        " ",
        '{"a": 1, "a": 1}',
        '{"b:": {":": ":"}}',
    ]
)
_WRITTEN = st.recursive(
    _NASTY | _VALUES.map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(st.sampled_from(["a", "a:", "b", "\\u0061", "\\u003A"]), inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f'"{name}":{value}' for name, value in pairs) + "}"
        )
    ),
    max_leaves=8,
)


def _shown(parse: Callable[[bytes], object], body: bytes) -> tuple[str, str]:
    """What comes of a body, types and signs of numbers included."""
    try:
        return "parsed", repr(parse(body))
    except InvalidRequest as exc:
        return "refused", exc.message


@given(_WRITTEN.map(lambda value: f'{{"x": {value}}}'.encode()) | st.binary(max_size=20))
def test_the_quick_way_and_the_strict_one_read_the_same(body: bytes) -> None:
    assert _shown(parse_object, body) == _shown(parse_strictly, body)


@given(st.dictionaries(_TEXT, _VALUES, max_size=5), st.booleans())
def test_what_is_plain_json_comes_out_as_it_went_in(value: dict[str, object], ascii_only: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.dictionaries(st.text('\\"[]{}:, a', max_size=8), st.lists(st.text('\\"[]{}:,9', max_size=8), max_size=5)))
def test_what_texts_say_is_told_from_what_a_large_body_is_made_of(value: dict[str, object]) -> None:
    # An escaped colon has the bytes themselves looked at.
    written = json.dumps({"pad": "x" * STRICT_BYTES, **value, "c": "?"}).replace('"?"', '"\\u003a"').encode()
    assert parse_object(written) == {"pad": "x" * STRICT_BYTES, **value, "c": ":"}
    twice = written[:-1] + b', "c": 1}'
    with pytest.raises(InvalidRequest, match="occurs twice"):
        parse_object(twice)
