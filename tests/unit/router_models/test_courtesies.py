"""Courtesies around a question go, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.conversation import parts
from router_models.courtesies import without_courtesies

QUESTION = "How many primes lie between 10 and 30?"


@pytest.mark.parametrize(
    "before",
    [
        "Hello!",
        "Hi there,",
        "Good morning. I hope you are fine today.",
        "Hey, can you help me with a math problem?",
        "Dear assistant, I would really appreciate your time.",
        "I have a question for you:",
        "Sorry to bother you, but I am stuck on this one:",
        "Hello! I hope this finds you well. Could you please help me with the following? Many thanks in advance.",
        "could you help me out with this?",
        "\n  HELLO.\n",
    ],
)
def test_courtesies_before_a_question_go(before: str) -> None:
    assert without_courtesies(f"{before} {QUESTION}") == QUESTION


@pytest.mark.parametrize("behind", ["Thanks!", "Thank you very much for your help.", "\nmany thanks"])
def test_thanks_behind_a_question_go(behind: str) -> None:
    assert without_courtesies(f"{QUESTION} {behind}") == QUESTION


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        "Hello",
        "Hello there! Thanks a lot.",
        "Can you help me write a letter to my landlord?",
        "Hello World. Print it in C.",
        "Dear Betty, I lost my eraser. Who found it?",
        "Thanks to Newton, we know why. Explain it.",
        "How do I say 'thank you' in Finnish?",
        "High winds are expected. Hide what?",
        "Help me with the taxes of 2019. What was the limit?",
        "",
        " ",
    ],
)
def test_what_says_more_stays(text: str) -> None:
    assert without_courtesies(text) == text


@given(st.text(alphabet="hi thankyou.!?:\nABC,", max_size=300))
def test_what_is_left_is_one_piece_of_the_text_and_says_something(text: str) -> None:
    rest = without_courtesies(text)

    assert rest in text
    assert bool(rest.strip()) == bool(text.strip())


def test_a_polite_question_is_read_like_the_bare_one() -> None:
    template = f"Question: {QUESTION}\nAnswer:"
    for text in (QUESTION, template):
        polite = f"Hello! I hope you are well. Could you please help me with this? {text}"
        assert parts((("user", polite),)) == parts((("user", text),))
