"""Conversations to the inputs of the heads: what the window keeps, and what stands behind an embedding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_models.reading.conversation import Parts, parts
from router_models.reading.features import (
    CONTEXT_TOKENS,
    WINDOW_TOKENS,
    Encoder,
    TransformerEncoder,
    cut_middle,
    inputs_of,
)
from router_models.reading.static_encoder import StaticEncoder
from router_models.reading.surface import NAMES, surface_features
from router_models.reading.wordpiece import FastWordPiece
from tests.fakes.artifacts import SIZE_D, SIZE_F, tiny_encoder, tiny_static

WORDPIECE = FastWordPiece(tiny_encoder()[1])
TRANSFORMER = TransformerEncoder(tiny_encoder()[0], WORDPIECE)
STATIC = StaticEncoder(tiny_static()["table_VD"], tiny_static()["scale_V"], WORDPIECE)
BOTH = pytest.mark.parametrize("encoder", [TRANSFORMER, STATIC], ids=["transformer", "static"])
CONVERSATIONS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool", "tools"]), st.text(max_size=3_000)), max_size=6
)


def ids(*conversation: tuple[str, str]) -> list[int]:
    return TRANSFORMER.token_ids(parts(conversation))


def test_a_short_prompt_is_read_whole_between_its_marks() -> None:
    cls, sep = WORDPIECE.special("[CLS]"), WORDPIECE.special("[SEP]")

    assert ids(("user", "a b c")) == [cls, *WORDPIECE.ids("a b c"), sep]


def test_a_long_prompt_keeps_its_beginning_and_its_end() -> None:
    read = ids(("user", "a b " + "x " * 300 + "y z"))

    assert len(read) == WINDOW_TOKENS
    assert read[1:3] == WORDPIECE.ids("a b")
    assert read[-3:-1] == WORDPIECE.ids("y z")


def test_exactly_a_window_is_not_cut() -> None:
    room = list(range(62))

    assert cut_middle(room, 62) == room
    assert cut_middle(room, 4) == [0, 1, 60, 61]
    assert cut_middle(room, 3) == [0, 1, 61]


def test_the_context_stands_before_the_question() -> None:
    cls, sep = WORDPIECE.special("[CLS]"), WORDPIECE.special("[SEP]")

    assert ids(("system", "b"), ("user", "a")) == [cls, *WORDPIECE.ids("system: b"), *WORDPIECE.ids("a"), sep]


def test_a_long_context_leaves_the_question_its_place() -> None:
    read = ids(("system", "s " * 200), ("user", "m " * 200))

    assert len(read) == WINDOW_TOKENS
    assert read.count(WORDPIECE.ids("m")[0]) == WINDOW_TOKENS - 2 - CONTEXT_TOKENS


def test_a_short_question_leaves_the_context_what_is_free() -> None:
    read = ids(("system", "s " * 200), ("user", "m"))

    assert len(read) == WINDOW_TOKENS
    assert read[-2:] == [WORDPIECE.ids("m")[0], WORDPIECE.special("[SEP]")]


@BOTH
def test_embeddings_have_length_one_and_do_not_depend_on_company(encoder: Encoder) -> None:
    prompts = [(("user", "add apples"),), (("user", "rhyme on rain"),)]
    together = encoder.encode(prompts)

    assert together.shape == (2, SIZE_D) == (2, encoder.embedding_size)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(together[1], encoder.encode(prompts[1:])[0])


@BOTH
@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800 lone", "😀" * 2_000, "a" * 100_000])
def test_odd_texts_are_read(encoder: Encoder, text: str) -> None:
    assert np.isfinite(inputs_of(encoder, [parts((("user", text),))])).all()


@settings(deadline=None)
@given(CONVERSATIONS)
def test_no_conversation_is_too_much(conversation: list[tuple[str, str]]) -> None:
    assert 2 <= len(ids(*conversation)) <= WINDOW_TOKENS


@BOTH
def test_inputs_are_the_embedding_and_then_the_surface_of_the_question(encoder: Encoder) -> None:
    conversations = [(("system", "Be brief (very)!"), ("user", "Who wrote Emma?")), (("user", "2 + 2 = ?"),)]

    inputs_BF = inputs_of(encoder, [parts(conversation) for conversation in conversations])

    assert inputs_BF.shape == (2, SIZE_F) == (2, SIZE_D + len(NAMES))
    assert inputs_BF.dtype == np.float32
    np.testing.assert_array_equal(inputs_BF[:, :SIZE_D], encoder.encode(conversations))
    np.testing.assert_array_equal(inputs_BF[0, SIZE_D:], surface_features("Who wrote Emma?"))
    np.testing.assert_array_equal(inputs_BF[1, SIZE_D:], surface_features("2 + 2 = ?"))


@BOTH
def test_no_prompts_have_no_inputs(encoder: Encoder) -> None:
    assert inputs_of(encoder, []).shape == (0, SIZE_F)


@BOTH
def test_progress_is_reported_for_every_prompt(encoder: Encoder) -> None:
    seen: list[int] = []

    inputs_of(encoder, [Parts("", "a")] * 3, lambda: seen.append(1))
    encoder.encode([(("user", "a"),)] * 2, lambda: seen.append(2))

    assert seen == [1, 1, 1, 2, 2]


def test_the_tiny_encoders_see_the_same() -> None:
    """So that what tests find out about the one holds for the other: both go by the first letters of words."""
    conversations = [(("user", "add apples"),), (("user", "rhyme on rain"),)]

    np.testing.assert_allclose(STATIC.encode(conversations), TRANSFORMER.encode(conversations), atol=0.05)
