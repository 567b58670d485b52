"""The fast encoder: a vector for every word piece, summed and brought to length 1. Order does not count.

How it works: the table is int8 with one factor for each row, which holds the row's scale and the weight of that word
piece (frequent ones say little). Rows are gathered as bytes, a quarter of what float32 would move, and one product with
their factors sums them. No window: the conversation's plan bounds the text already.

Measured on one core for 160 word pieces of 384 numbers: this 17 us, the same with float32 rows 22, with float16 121,
whole numbers under one common scale 20.

Legend of array suffixes: T tokens, V vocabulary, D embedding.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from router_models.reading.conversation import Conversation, Parts, parts
from router_models.reading.features import Encoder
from router_models.reading.wordpiece import FastWordPiece

_FLOAT32 = np.dtype(np.float32)


class StaticEncoder(Encoder):
    """Conversations to unit vectors in microseconds."""

    def __init__(self, table_VD: np.ndarray, scale_V: np.ndarray, wordpiece: FastWordPiece) -> None:
        """`table_VD` is int8, or any kind of float; a row counts as itself times its entry in `scale_V`.

        Raises:
            ValueError: table, factors and vocabulary are not of one length.
        """
        if table_VD.ndim != 2 or not len(table_VD) == len(scale_V) == wordpiece.vocabulary_size:
            raise ValueError(
                f"a table of shape {table_VD.shape} and {scale_V.shape} factors"
                f" do not fit a vocabulary of {wordpiece.vocabulary_size}"
            )
        self.embedding_size = int(table_VD.shape[1])
        self._table_VD = np.ascontiguousarray(table_VD)
        self._scale_V = np.ascontiguousarray(scale_V, dtype=np.float32)
        self._wordpiece = wordpiece

    def embed(self, text: Parts) -> np.ndarray:
        """The embedding of one text as float32 [D], of length 1, or of zeros without text."""
        ids_T = self._ids(text)
        # `dot` costs half a microsecond less than `@` for arrays as small as these.
        sum_D: np.ndarray = self._scale_V.take(ids_T).dot(self._table_VD.take(ids_T, 0).astype(_FLOAT32))
        length = sqrt(sum_D.dot(sum_D))
        if length:
            sum_D *= 1 / length
        return sum_D

    def ids(self, conversation: Conversation) -> np.ndarray:
        """The word pieces that count, as int64 [T]: those of the context, then those of the question."""
        return self._ids(parts(conversation))

    def _ids(self, text: Parts) -> np.ndarray:
        question_T = self._wordpiece.ids_array(text.question)
        if not text.context:
            return question_T
        return np.concatenate([self._wordpiece.ids_array(text.context), question_T])
