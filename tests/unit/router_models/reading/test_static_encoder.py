"""The static encoder: a weighted sum of rows, of length 1, whatever the conversation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.reading.conversation import Conversation
from router_models.reading.static_encoder import StaticEncoder
from router_models.reading.wordpiece import FastWordPiece
from tests.unit.router_models.reading.test_wordpiece import tokenizer_of

WORDPIECE = FastWordPiece(tokenizer_of())
RNG = np.random.default_rng(5)
TABLE_VD = RNG.integers(-127, 128, (WORDPIECE.vocabulary_size, 24)).astype(np.int8)
SCALE_V = RNG.uniform(0.001, 0.1, WORDPIECE.vocabulary_size).astype(np.float32)
ENCODER = StaticEncoder(TABLE_VD, SCALE_V, WORDPIECE)


def lone(text: str) -> Conversation:
    return (("user", text),)


def test_an_embedding_is_the_normalised_sum_of_the_rows_of_its_word_pieces() -> None:
    sum_D = np.zeros(24)
    for token_id in WORDPIECE.ids("the sky, the unknown"):
        sum_D += float(SCALE_V[token_id]) * TABLE_VD[token_id].astype(np.float64)

    embedding_BD = ENCODER.encode([lone("the sky, the unknown")])

    assert embedding_BD.dtype == np.float32
    np.testing.assert_allclose(embedding_BD[0], sum_D / np.linalg.norm(sum_D), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
def test_a_table_of_floats_does_the_same(kind: type[np.floating]) -> None:
    floats = StaticEncoder(TABLE_VD.astype(kind), SCALE_V, WORDPIECE)

    np.testing.assert_allclose(floats.encode([lone("the sky")]), ENCODER.encode([lone("the sky")]), atol=1e-6)


def test_context_and_question_count_both() -> None:
    conversation = (("system", "the sky"), ("user", "unknown"))

    ids_T = ENCODER.ids(conversation)

    assert ids_T.tolist() == WORDPIECE.ids("system: the sky") + WORDPIECE.ids("unknown")
    assert not np.allclose(ENCODER.encode([conversation]), ENCODER.encode([lone("unknown")]), atol=1e-2)


def test_several_conversations_have_a_row_each_and_progress_is_told() -> None:
    told: list[int] = []

    embedding_BD = ENCODER.encode([lone("the"), lone("sky"), lone("the")], lambda: told.append(1))

    assert embedding_BD.shape == (3, ENCODER.embedding_size) == (3, 24)
    assert len(told) == 3
    assert np.array_equal(embedding_BD[0], embedding_BD[2])
    assert np.array_equal(embedding_BD[1:2], ENCODER.encode([lone("sky")]))
    assert ENCODER.encode([]).shape == (0, 24)


@pytest.mark.parametrize("conversation", [(), lone(""), lone(" \n"), (("tools", "search"),)])
def test_a_conversation_without_words_is_all_zeros(conversation: Conversation) -> None:
    assert not ENCODER.encode([conversation]).any()


CONVERSATIONS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(st.characters(), max_size=500)), max_size=3
)


@given(CONVERSATIONS)
def test_every_embedding_is_finite_and_has_length_one_or_zero(conversation: Conversation) -> None:
    length = np.linalg.norm(ENCODER.encode([conversation]))

    assert length == pytest.approx(1, abs=1e-5) if len(ENCODER.ids(conversation)) else length == 0


@pytest.mark.parametrize(
    ("table_VD", "scale_V"), [(TABLE_VD[:-1], SCALE_V[:-1]), (TABLE_VD, SCALE_V[:-1]), (TABLE_VD[0], SCALE_V)]
)
def test_a_table_for_another_vocabulary_is_refused(table_VD: np.ndarray, scale_V: np.ndarray) -> None:
    with pytest.raises(ValueError, match="do not fit a vocabulary of"):
        StaticEncoder(table_VD, scale_V, WORDPIECE)
