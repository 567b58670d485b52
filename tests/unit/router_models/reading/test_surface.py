"""The figures of a question's surface: what they say, and that no text drives them out of bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.reading.surface import NAMES, surface_features

QUESTION = "If a shop sells 12 pens at $4x+2y=8$ each, what is \\frac{1}{2}?\nA. One\nB. Two\n(C) Three"


def figures(text: str) -> dict[str, float]:
    return dict(zip(NAMES, surface_features(text).tolist(), strict=True))


def test_counts_and_shares_are_those_of_the_text() -> None:
    seen = figures(QUESTION)

    assert seen["log_chars"] == pytest.approx(np.log1p(len(QUESTION)))
    assert seen["log_words"] == pytest.approx(np.log1p(len(QUESTION.split())))
    assert seen["digit_share"] == pytest.approx(7 / len(QUESTION))
    assert seen["capital_share"] == pytest.approx(7 / len(QUESTION))
    assert seen["newlines_per_word"] == pytest.approx(3 / len(QUESTION.split()))
    assert seen["log_brackets"] == pytest.approx(np.log1p(7))
    assert seen["log_dollars"] == pytest.approx(np.log1p(2))
    assert seen["log_options"] == pytest.approx(np.log1p(3))


@pytest.mark.parametrize(
    ("name", "with_it", "without_it"),
    [
        ("starts_with_capital", "Why", "why"),
        ("ends_with_question_mark", "so? \n", "so? yes"),
        ("has_question_mark", "so? yes", "so, yes"),
        ("has_code", "def f(x): pass", "a class of 30 pupils hopes for a return"),
        ("has_options", "Which?\nA. one\nB. two", "See A. and B. below"),
        ("asks_for_a_fact", "who sings it", "sing it"),
    ],
)
def test_a_flag_tells_two_texts_apart(name: str, with_it: str, without_it: str) -> None:
    assert (figures(with_it)[name], figures(without_it)[name]) == (1, 0)


def test_signs_beyond_ascii_are_counted_as_characters_not_as_bytes() -> None:
    assert figures("é漢😀a")["non_ascii_share"] == pytest.approx(0.75)


@given(st.text(st.sampled_from("who wdef.return' ! :\t"), max_size=60))
def test_a_text_without_signs_has_the_figures_that_it_has_beside_one(text: str) -> None:
    """A dollar at its end is counted, takes a place, and changes nothing else."""
    plain, with_sign = figures(text), figures(f"{text}$")

    changed = {name for name in NAMES if plain[name] != with_sign[name]}
    assert changed <= {"log_chars", "log_words", "chars_per_word", "log_dollars"}


@given(st.text(st.characters(), max_size=2_000))
def test_every_figure_is_finite_and_bounded_for_any_text(text: str) -> None:
    feature_F = surface_features(text)

    assert feature_F.dtype == np.float32
    assert feature_F.shape == (len(NAMES),)
    assert np.isfinite(feature_F).all()
    assert (feature_F >= 0).all()
    assert (feature_F <= 40).all()


@pytest.mark.parametrize("text", ["", "\n" * 100_000, "9" * 100_000, "{" * 100_000, "漢" * 100_000, "\ud800" * 9_000])
def test_an_endless_text_stays_within_the_same_bounds(text: str) -> None:
    assert surface_features(text).max() <= 40
    assert np.array_equal(surface_features(text), surface_features(text + text))


def test_every_figure_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == 18
