"""The plan by which a conversation is cut: what is the question, what its context, and that both stay small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.reading.conversation import EDGE_CHARS, INSTRUCTION_CHARS, Conversation, parts

CONVERSATIONS = st.lists(
    st.tuples(
        st.sampled_from(["system", "user", "assistant", "tool", "tools"]), st.text(st.characters(), max_size=2_000)
    ),
    max_size=6,
)


def test_a_lone_plain_message_is_the_question_and_has_no_context() -> None:
    assert parts((("user", "Why is the sky blue?"),)) == ("", "Why is the sky blue?")


def test_the_last_user_message_asks_and_the_rest_is_context() -> None:
    conversation = (
        ("system", "s" * 500),
        ("tools", "search buy"),
        ("user", "first"),
        ("assistant", "answer"),
        ("user", "and in French?"),
    )

    context, question = parts(conversation)

    assert question == "and in French?"
    assert context == f"system: {'s' * 160} tools: search buy user: first assistant: answer"


def test_only_the_two_turns_before_are_context_and_each_keeps_both_its_ends() -> None:
    turns = (("user", "forgotten"), ("assistant", "a" * 300 + "b"), ("user", "short"), ("user", "now"))

    context = parts(turns).context

    assert "forgotten" not in context
    assert context == f"assistant: {'a' * 60} {'a' * 59}b user: short"


def test_the_instruction_of_a_template_is_the_last_of_the_context() -> None:
    message = "Answer with one word.\n\nQuestion: Who wrote Emma?\nAnswer:"

    assert parts((("user", message),)) == ("Answer with one word.", "Who wrote Emma?")
    assert parts((("system", "Be kind."), ("user", message))).context == "system: Be kind. Answer with one word."


def test_a_long_instruction_is_cut() -> None:
    message = "i" * 300 + "\nQuestion: Who wrote Emma?"

    assert parts((("user", message),)).context == "i" * INSTRUCTION_CHARS


def test_a_long_question_keeps_its_beginning_and_its_end() -> None:
    question = parts((("user", "begin " + "x" * 50_000 + " end"),)).question

    assert len(question) == 2 * EDGE_CHARS + 1
    assert question.startswith("begin x")
    assert question.endswith("x end")


@pytest.mark.parametrize(
    ("conversation", "question"),
    [
        ((("system", "only this"),), "only this"),
        ((("user", "hello"), ("assistant", "hi"), ("tool", "42")), "hello"),
        ((("assistant", "hi"), ("tools", "search")), "hi"),
        ((("tools", "search"),), ""),
        ((), ""),
    ],
)
def test_the_question_is_the_last_user_message_or_else_the_last_that_was_said(
    conversation: Conversation, question: str
) -> None:
    assert parts(conversation).question == question


def test_lone_surrogates_are_replaced() -> None:
    context, question = parts((("system", "a\ud800"), ("user", "b\udfff")))

    assert (context, question) == ("system: a?", "b?")


@given(CONVERSATIONS)
def test_any_conversation_has_two_bounded_texts_that_can_be_encoded(conversation: Conversation) -> None:
    context, question = parts(conversation)

    assert len(question.encode()) <= 4 * (2 * EDGE_CHARS + 1)
    assert len(context) <= 1_000
    assert context.encode() is not None


@given(st.text(st.characters(), min_size=1, max_size=300))
def test_a_message_that_is_not_empty_has_a_question_that_is_not_empty(text: str) -> None:
    assert parts((("user", text),)).question
