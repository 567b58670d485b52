"""Word-piece ids: exactly those of the `tokenizers` library, for every text, whatever is already known."""

from __future__ import annotations

import json
import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from router_models.reading.wordpiece import FastWordPiece
from tests.fakes.artifacts import bert_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*string.ascii_lowercase, *string.digits]
WORDS = ["the", "sky", "##s", "##ing", "un", "##known", "##kno", "12", "##34", "é", "漢", "’", "ο"]


def tokenizer_of(**changes: Any) -> bytes:
    """A small uncased BERT tokenizer file, with some of its parts replaced."""
    vocabulary = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *string.punctuation, *WORDS]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    return json.dumps(bert_tokenizer(numbers, SPECIAL) | changes).encode()


BERT = json.loads(tokenizer_of())
RELEASED = sorted(Path("router_models/artifacts").glob("*/tokenizer.json"))
FILES = [tokenizer_of(), *(path.read_bytes() for path in RELEASED)]
FAST = [FastWordPiece(file) for file in FILES]
# So small that it starts anew all the time.
FORGETFUL = [FastWordPiece(file, most_known=3) for file in FILES]
LIBRARY = [Tokenizer.from_str(file.decode()) for file in FILES]
for tokenizer in LIBRARY:
    tokenizer.no_padding()
    tokenizer.no_truncation()


def expected(text: str) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for tokenizer in LIBRARY]


# What separates words for Python or for the library but not for both, marks that combine, letters that change their
# length in lower case, and what looks like a special token.
TRICKY = [*"aB1 .[]#_\t\n\r\0", "\x0b", "\x0c", "\x1c", "\x7f", "\x85", "\xa0", "\u2028", "\u3000", "\u0301", "\ufffd"]
TRICKY += [*"éÅK’İıſΣ漢😀", "\u200b", "e\u0301", *SPECIAL, "[cls]", "[ CLS]", "unknown", "skying", "x" * 120]


@given(st.lists(st.sampled_from(TRICKY), max_size=12).map("".join))
def test_ids_are_those_of_the_library_for_tricky_text(text: str) -> None:
    assert [fast.ids(text) for fast in FAST] == expected(text)
    assert [fast.ids(text) for fast in FORGETFUL] == expected(text)


@given(st.text(st.sampled_from(string.printable), max_size=300))
def test_ids_are_those_of_the_library_for_any_ascii_text(text: str) -> None:
    assert [fast.ids(text) for fast in FAST] == expected(text)


@given(st.text(max_size=100))
def test_ids_are_those_of_the_library_for_any_text(text: str) -> None:
    assert [fast.ids(text) for fast in FAST] == expected(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "The sky's unknown: 1234 clouds, x_1 = a[0] + \\frac{1}{2} == 12.5e-3?",
        "def f(xs: list[int]) -> int:\n    return [x for x in xs if x > 0][0]  # [CLS]",
        "Was heißt „Straße“ auf Französisch — naïve façade?",
        "漢字とかなと kana, 1　2",
        "unknown" * 200,
    ],
)
def test_ids_are_the_same_before_and_after_they_are_known(text: str) -> None:
    fresh = [FastWordPiece(file) for file in FILES]

    assert [fast.ids(text) for fast in fresh] == expected(text)
    assert [fast.ids(text) for fast in fresh] == expected(text)


@pytest.mark.parametrize(
    "text", ["skying", "sk", "1234567", "the " * 9 + "unknown", " ".join(f"un{n}" for n in range(99))]
)
def test_words_are_cut_as_the_library_does_whatever_it_holds_to_be_too_long(text: str) -> None:
    file = tokenizer_of(model=BERT["model"] | {"max_input_chars_per_word": 4})
    library = Tokenizer.from_str(file.decode())

    assert FastWordPiece(file).ids(text) == library.encode(text, add_special_tokens=False).ids


def test_a_control_character_that_was_read_alone_still_joins_the_words_around_it() -> None:
    fast = FastWordPiece(FILES[0])
    fast.ids("\0")
    fast.ids("a b")

    assert fast.ids("a\0b") == expected("a\0b")[0] == fast.ids("ab")


def test_the_array_holds_the_same_ids_ready_to_index_with() -> None:
    ids_T = FAST[0].ids_array("the sky")

    assert ids_T.dtype == np.int64
    assert ids_T.tolist() == FAST[0].ids("the sky")
    assert FAST[0].ids_array("").shape == (0,)


def test_a_slip_is_read_as_the_word_that_was_meant() -> None:
    fast = FastWordPiece(FILES[0], ("skying",))

    assert fast.ids("Skyyng the-skking! sking é") == expected("skying the-skying! skying é")[0]
    assert fast.ids("skying skyin9 ékying") == expected("skying skyin9 ékying")[0]


def test_what_is_a_piece_by_itself_is_no_slip() -> None:
    vocabulary = json.loads(FILES[0])["model"]["vocab"]
    file = tokenizer_of(model=BERT["model"] | {"vocab": vocabulary | {"skies": len(vocabulary)}})

    assert FastWordPiece(file, ("skied",)).ids("skies") == [len(vocabulary)]


def test_threads_share_one() -> None:
    fast = FastWordPiece(FILES[0], most_known=20)
    texts = [f"the sky {number} un{number}known {chr(97 + number % 26)}" for number in range(400)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(fast.ids, texts))

    assert answers == [LIBRARY[0].encode(text, add_special_tokens=False).ids for text in texts]


def test_special_tokens_have_ids() -> None:
    assert FAST[0].special("[CLS]") == 2
    assert FAST[0].vocabulary_size == LIBRARY[0].get_vocab_size()
    with pytest.raises(ValueError, match=r"\[NONE\]"):
        FAST[0].special("[NONE]")


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": None},
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": BERT["normalizer"] | {"lowercase": False}},
        {"normalizer": BERT["normalizer"] | {"clean_text": False}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"type": "BPE", "vocab": {}, "merges": []}},
        {"added_tokens": [BERT["added_tokens"][0] | {"lstrip": True}]},
        {"added_tokens": [BERT["added_tokens"][0] | {"content": "sky"}]},
    ],
)
def test_another_kind_of_tokenizer_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="token"):
        FastWordPiece(tokenizer_of(**changes))
