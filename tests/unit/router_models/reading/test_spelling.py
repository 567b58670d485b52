"""Slips are read as the word that was meant, and what is merely unknown is left alone."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.reading.conversation import Parts
from router_models.reading.spelling import LEAST_TEXTS, LEAST_WORDS, MOST_LETTERS, Spelling, common_words
from tests.fakes.artifacts import made_up_words

SPELLING = Spelling(("that", "following", "question", "than", "integral", "interval", "son", "json", "decade"))


@pytest.mark.parametrize(
    "word", ["follwing", "folllowing", "folloeing", "fololwing", "ollowing", "followin", "followingg", "efollowing"]
)
def test_a_word_one_slip_away_is_meant(word: str) -> None:
    assert SPELLING.meant(word) == "following"


@pytest.mark.parametrize(
    "word",
    [
        "following",
        "json",  # known, though it looks like a commoner word
        "folwing",  # two slips
        "wollofing",
        "kubectl",
        "son",
        "teh",
        "quest1on",
        "Qustion",
        "qüstion",
        "",
        "integralinterval" * 4,
    ],
)
def test_other_words_stay_as_they_are(word: str) -> None:
    assert SPELLING.meant(word) == word


def test_of_several_the_commonest_is_meant() -> None:
    assert SPELLING.meant("thau") == "that"
    assert Spelling(("than", "that")).meant("thau") == "than"


def test_who_knows_no_words_mends_none() -> None:
    assert Spelling(()).meant("qustion") == "qustion"
    assert Spelling(("a", "of")).meant("qustion") == "qustion"


@given(st.text(string.ascii_lowercase, min_size=4, max_size=MOST_LETTERS - 1), st.data())
def test_any_slip_of_a_lone_word_is_mended(word: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(word) - 1))
    letter = data.draw(st.sampled_from(string.ascii_lowercase))
    slips = {
        "put in": word[:place] + letter + word[place:],
        "replaced": word[:place] + letter + word[place + 1 :],
        "swapped": word[:place] + word[place : place + 2][::-1] + word[place + 2 :],
    }
    if len(word) > 4:
        slips["left out"] = word[:place] + word[place + 1 :]

    assert {Spelling((word,)).meant(slip) for slip in slips.values()} == {word}


def test_common_words_are_those_of_several_texts_the_commonest_first() -> None:
    texts = [
        Parts("Reply in JSON", "Name the café, room A1 and 12 others"),
        Parts("", "the json json json"),
        Parts("the", "a json file"),
        Parts("", "The room"),
        Parts("", "room " + "x" * (MOST_LETTERS + 1)),
    ]
    assert LEAST_TEXTS == 3
    assert common_words([*texts, *thrice(LEAST_WORDS - 4)]) == ()
    common = common_words([*texts, *thrice(LEAST_WORDS - 3)])
    assert (common[0], len(common)) == ("the", LEAST_WORDS)
    assert set(common) - set(made_up_words(LEAST_WORDS)) == {"the", "json", "room"}


def thrice(count: int) -> list[Parts]:
    """So many words, in three texts each."""
    return [Parts("", " ".join(made_up_words(count)))] * 3
