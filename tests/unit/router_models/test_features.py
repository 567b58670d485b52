"""Conversations to arrays: what counts, what is cut, and that it never grows with the prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_models.conversation import EDGE_CHARS, context_text, last_user_text
from router_models.features import CONTEXT_TOKENS, WINDOW_TOKENS, TextEncoder, cut_middle
from tests.fakes.artifacts import SIZE_D, tiny_encoder

ENCODER = TextEncoder(*tiny_encoder())
TEXTS = st.text(max_size=3_000)
CONVERSATIONS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool", "tools"]), TEXTS), max_size=6
)


def test_a_short_prompt_is_read_whole() -> None:
    ids = ENCODER.token_ids((("user", "a b c"),))

    assert len(ids) == 5
    assert ids[1:4] == ENCODER.token_ids((("user", "a b c d"),))[1:4]


def test_a_long_prompt_keeps_its_beginning_and_its_end() -> None:
    ids = ENCODER.token_ids((("user", "a b " + "x " * 500 + "y z"),))

    assert len(ids) == WINDOW_TOKENS
    assert ids[1:3] == ENCODER.token_ids((("user", "a b"),))[1:3]
    assert ids[-3:] == ENCODER.token_ids((("user", "y z"),))[-3:]


def test_exactly_a_window_is_not_cut() -> None:
    room = list(range(62))

    assert cut_middle(room, 62) == room
    assert cut_middle(room, 4) == [0, 1, 60, 61]
    assert cut_middle(room, 3) == [0, 1, 61]


def test_the_last_user_message_decides_and_the_rest_is_context() -> None:
    conversation = (
        ("system", "s" * 500),
        ("tools", "search buy"),
        ("user", "first"),
        ("assistant", "answer"),
        ("user", "and in French?"),
    )

    assert last_user_text(conversation) == "and in French?"
    assert context_text(conversation).startswith("system: sss")
    assert context_text(conversation).endswith("tools: search buy user: first assistant: answer")


def test_a_lone_message_is_read_as_it_stands() -> None:
    assert context_text((("user", "hello"),)) == ""
    assert ENCODER.token_ids((("user", "hello"),)) == ENCODER.token_ids((("assistant", "hello"),))


def test_a_long_context_leaves_the_message_its_place() -> None:
    message = "m " * 200
    alone = ENCODER.token_ids((("user", message),))
    surrounded = ENCODER.token_ids((("system", "s " * 200), ("user", message)))

    letter = alone[1]
    assert len(surrounded) == WINDOW_TOKENS
    assert surrounded.count(letter) >= WINDOW_TOKENS - 2 - CONTEXT_TOKENS


def test_embeddings_have_length_one_and_do_not_depend_on_company() -> None:
    prompts = [(("user", "add apples"),), (("user", "rhyme on rain"),)]
    together = ENCODER.encode(prompts)

    assert together.shape == (2, SIZE_D)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(together[1], ENCODER.encode(prompts[1:])[0])


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800 lone", "😀" * 2_000, "a" * 100_000])
def test_odd_texts_are_read(text: str) -> None:
    assert np.isfinite(ENCODER.encode([(("user", text),)])).all()


@settings(deadline=None)
@given(CONVERSATIONS)
def test_no_conversation_is_too_much(conversation: list[tuple[str, str]]) -> None:
    assert 2 <= len(ENCODER.token_ids(conversation)) <= WINDOW_TOKENS
    assert len(last_user_text(conversation)) <= 2 * EDGE_CHARS + 1


def test_progress_is_reported_for_every_prompt() -> None:
    seen: list[int] = []

    ENCODER.encode([(("user", "a"),)] * 3, lambda: seen.append(1))

    assert len(seen) == 3
