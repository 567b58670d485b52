"""Conversations to the inputs of the heads: the one implementation, for training and for serving.

How it works: `router_models.reading.conversation` decides which text counts. Two encoders read it. The static one looks
up a vector for every word piece and averages; the transformer reads a window of 64 word pieces with attention. Behind
each embedding stand the figures of the question's surface (`router_models.reading.surface`), which say what no uncased
encoder sees.
Whoever changes anything that changes an array raises `FEATURE_VERSION`; artifacts of another version are refused.

Legend of array suffixes: B prompts, T tokens, D embedding, F inputs (embedding, then surface).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime

from router_models.reading.conversation import Conversation, Parts, parts
from router_models.reading.surface import NAMES as SURFACE_NAMES
from router_models.reading.surface import surface_features
from router_models.reading.wordpiece import FastWordPiece

FEATURE_VERSION = "minilm-64-static-v3"

# 64 tokens cost 4 ms on one core, 128 cost 10 and gained nothing measurable (0.001 of the area under the cost-quality
# curve on three public matrices). Head and tail: tasks are named first ("Translate ...") or last ("... in JSON").
WINDOW_TOKENS = 64
# [CLS] and [SEP].
SPECIAL_TOKENS = 2
# What the context may take from a long question: it colours the question, it does not replace it.
CONTEXT_TOKENS = 16


class Encoder(ABC):
    """Turns conversations into unit vectors; safe to share between threads."""

    embedding_size: int

    @abstractmethod
    def embed(self, text: Parts) -> np.ndarray:
        """The embedding of one text as float32 [D], of length 1, or 0 where nothing was read."""

    def encode(self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None) -> np.ndarray:
        """Embeddings as float32 [B, D]; `advance` is called after each."""
        embedding_BD = np.empty((len(conversations), self.embedding_size), dtype=np.float32)
        # One at a time: batches gain nothing with int8 on one thread.
        for row, conversation in enumerate(conversations):
            embedding_BD[row] = self.embed(parts(conversation))
            advance()
        return embedding_BD


class TransformerEncoder(Encoder):
    """Texts to unit vectors with an ONNX model on one thread."""

    def __init__(self, model: bytes, wordpiece: FastWordPiece) -> None:
        self._wordpiece = wordpiece
        self._cls, self._sep = wordpiece.special("[CLS]"), wordpiece.special("[SEP]")
        self._session = onnxruntime.InferenceSession(model, _one_thread(), providers=["CPUExecutionProvider"])
        # The Python wrapper keeps the bytes to open the session anew with other providers, which never happens here.
        self._session._model_bytes = None
        self.embedding_size = int(self._session.get_outputs()[0].shape[1])

    def embed(self, text: Parts) -> np.ndarray:
        """The embedding of one text as float32 [D]; that of an empty text is its two special tokens'."""
        ids_BT = np.array([self.token_ids(text)], dtype=np.int64)
        inputs: dict[str, Any] = {
            "input_ids": ids_BT,
            "attention_mask": np.ones_like(ids_BT),
            "token_type_ids": np.zeros_like(ids_BT),
        }
        embedding_BD: np.ndarray = self._session.run(None, inputs)[0]
        embedding_D: np.ndarray = embedding_BD[0]
        return embedding_D

    def token_ids(self, text: Parts) -> list[int]:
        """At most `WINDOW_TOKENS` ids: [CLS], context, question, [SEP]; each part cut in its middle."""
        room = WINDOW_TOKENS - SPECIAL_TOKENS
        question, context = self._wordpiece.ids(text.question), self._wordpiece.ids(text.context)
        context = cut_middle(context, max(CONTEXT_TOKENS, room - len(question)))
        return [self._cls, *context, *cut_middle(question, room - len(context)), self._sep]


def inputs_of(encoder: Encoder, texts: Sequence[Parts], advance: Callable[[], object] = lambda: None) -> np.ndarray:
    """What a head reads of each text as float32 [B, F]: embedding and surface; `advance` is called after each."""
    inputs_BF = np.empty((len(texts), encoder.embedding_size + len(SURFACE_NAMES)), dtype=np.float32)
    for row, text in enumerate(texts):
        inputs_BF[row, : encoder.embedding_size] = encoder.embed(text)
        inputs_BF[row, encoder.embedding_size :] = surface_features(text.question)
        advance()
    return inputs_BF


def cut_middle(ids: list[int], room: int) -> list[int]:
    """The ids, or their first and last halves where they do not fit."""
    if len(ids) <= room:
        return ids
    tail = room // 2
    return ids[: room - tail] + ids[len(ids) - tail :]


def _one_thread() -> onnxruntime.SessionOptions:
    """One thread, and no spinning: with other work on the machine a second thread makes it slower."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # An arena keeps what the largest prompt took; the window is small, so plain allocation costs next to nothing.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return options
