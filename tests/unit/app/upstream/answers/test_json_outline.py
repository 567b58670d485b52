"""What JSON is made of, told from its bytes, is what reading it one by one says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.answers.json_outline import MOST_LONG_NUMBERS, Outline, Things, has_more, outlined

BLOCKS = st.sampled_from([1, 2, 3, 7, 64, 1 << 18])
_LEAVES = st.none() | st.integers() | st.text('\\\\"[]{}:, a\n', max_size=8)
VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('\\\\"[:a', max_size=4), inner, max_size=4),
)


def one_by_one(content: bytes) -> tuple[bytes, list[int]]:
    """Marks outside of texts, and where quotation marks are that begin or end one."""
    marks, quotes, is_escaped = bytearray(), list[int](), False
    for place, byte in enumerate(content):
        if is_escaped:
            is_escaped = False
        elif byte == ord("\\"):
            is_escaped = True
        elif byte == ord('"'):
            quotes.append(place)
        elif len(quotes) % 2 == 0 and byte in b"[]{},:":
            marks.append(byte)
    return bytes(marks), quotes


def drawn(content: bytes, block_bytes: int = 1 << 18) -> Outline:
    return outlined(content, len(content), block_bytes)


@given(VALUES, BLOCKS, st.booleans())
def test_marks_and_texts_are_those_outside_of_texts(value: object, block_bytes: int, ascii_only: bool) -> None:
    content = json.dumps(value, ensure_ascii=ascii_only).encode()
    outline = drawn(content, block_bytes)
    marks, quotes = one_by_one(content)
    assert (outline.marks, outline.quotes_E.tolist(), outline.texts) == (marks, quotes, len(quotes) // 2)


@given(st.lists(st.sampled_from(["\\\\", '\\"', "\\n", "a", ","]), max_size=40), BLOCKS)
def test_backslashes_in_a_row_are_told_apart_wherever_a_block_ends(pieces: list[str], block_bytes: int) -> None:
    content = f'{{"{"".join(pieces)}":[1,2]}}'.encode()
    assert (drawn(content, block_bytes).marks, drawn(content, block_bytes).texts) == (b"{:[,]}", 1)


def test_what_is_found_is_counted() -> None:
    outline = drawn(b'{"a": [[1, 2], {"b": "[,"}], "c": []}')
    assert (outline.texts, outline.parts, outline.values, outline.keys, outline.depth) == (4, 9, 3, 3, 3)
    assert drawn(b"").parts == drawn(b"").depth == 0


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"a":["b",{}]}', None),
        (b'["","",""]', "texts"),
        (b"[[[]]]", "brackets"),
        (b"[,,,]", "values"),
        (b"::::", "keys"),
    ],
)
def test_more_of_a_kind_is_more_than_may_be(content: bytes, kind: str | None) -> None:
    most = Things(texts=2, brackets=3, values=2, keys=3)
    assert has_more(content, most) is (kind not in (None, "brackets"))
    assert has_more(content, most._replace(**({kind: 2} if kind else {}))) is (kind is not None)


def test_it_ends_where_there_are_too_many_parts() -> None:
    outline = outlined(b'["a","b","c"]' * 100, 5, 13)
    assert (outline.parts, outline.marks) == (8, b"[,,][,,]")


@pytest.mark.parametrize(
    ("number", "is_long"),
    [
        ("18446744073709551615", False),
        ("18446744073709551616", True),
        ("-18446744073709551615", True),
        ("99999999999999999999", True),
        ("9" * 19, False),
        ("9" * 21, True),
        ("9" * 5000, True),
        ("9" * 21 + ".5", False),
        ("9" * 21 + "e3", False),
        ("0." + "9" * 21, False),
        ("-0." + "9" * 21, False),
        ("1e" + "0" * 20, False),
        ("1e-" + "0" * 20, False),
        ("1E+" + "0" * 20, False),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 5, 1 << 18])
@pytest.mark.parametrize("shape", ['{{"a":{}}}', '{{"a": [1, {}, 2]}}', '{{"a":["\\"",{} ]}}'])
def test_an_integer_of_more_than_64_bits_is_found(number: str, is_long: bool, block_bytes: int, shape: str) -> None:
    content = shape.format(number).encode()
    assert drawn(content).has_long_integer(content, block_bytes) is is_long
    text = shape.format(f'"{number}"').encode()
    assert not drawn(text).has_long_integer(text, block_bytes)


def test_so_many_long_numbers_mean_nothing() -> None:
    for count, is_long in ((MOST_LONG_NUMBERS, False), (MOST_LONG_NUMBERS + 1, True)):
        content = json.dumps({"a": [1.5] * count}).replace("1.5", "9" * 20 + ".5").encode()
        assert drawn(content).has_long_integer(content) is is_long
