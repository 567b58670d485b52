"""Courtesies around a question go, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.reading.conversation import parts
from router_models.reading.courtesies import without_courtesies

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
        "Would you mind solving this for me?",
        "Please have a look at the following: Here is my question.",
        "Can you answer this?",
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
        "I would appreciate a poem about the sea. Keep it short.",
        "I'd appreciate it if you translated this contract into German. It is for my landlord.",
        "I hope you can write me a poem about roses. Make it rhyme.",
        "I hope you know Dr. Smith of Harvard. When was he born?",
        "i hope all of the following holds. x > 3. Find x.",
        "Thank you for sorting 5, 3 and 9 in descending order. Show your steps.",
        "How do you say this in German?\nThank you for everything",
        "Classify the sentiment. The food was cold. Thanks for nothing",
        "Classify the sentiment. The food was cold. Thankyou",
        "Hello, World! in Rust",
        "Hello.World() is a method. Of which class?",
        "",
        " ",
    ],
)
def test_what_says_more_stays(text: str) -> None:
    assert without_courtesies(text) == text


PIECES = st.sampled_from(
    ["Hello!", "Many thanks.", "Thanks", "Can you help me?", "Sum 2 and 3.", "Why?", "\n", " ", "x"]
)


@given(st.lists(PIECES, max_size=12).map(" ".join))
def test_something_is_always_left_and_nothing_else_is_lost(text: str) -> None:
    rest = without_courtesies(text)

    assert bool(rest.strip()) == bool(text.strip())
    for said in ("Sum 2 and 3.", "Why?", "x"):
        assert rest.count(said) == text.count(said)


def test_ends_of_long_texts_alone_are_searched_for_thanks() -> None:
    text = f"Translate. Thanks.{' ' * 8}{'word ' * 40}"

    assert without_courtesies(text) == text


def test_a_flood_of_greetings_is_read_from_where_it_stops_being_polite() -> None:
    assert without_courtesies("Hello! " * 8 + QUESTION) == QUESTION
    assert without_courtesies("Hello! " * 9 + QUESTION) == f"Hello! {QUESTION}"


def test_a_polite_question_is_read_like_the_bare_one() -> None:
    template = f"Question: {QUESTION}\nAnswer:"
    for text in (QUESTION, template):
        polite = f"Hello! I hope you are well. Could you please help me with this? {text}"
        assert parts((("user", polite),)) == parts((("user", text),))
