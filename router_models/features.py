"""Conversations to arrays: the one implementation, for training and for serving.

How it works: `router_models.conversation` decides which text counts; it becomes at most 64 word-piece ids, and the
encoder of the artifact turns those into one unit vector. Whoever changes anything that changes an array raises
`FEATURE_VERSION`; artifacts of another version are refused.

Legend of array suffixes: B prompts, T tokens, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from router_models.conversation import Conversation, context_text, last_user_text

FEATURE_VERSION = "minilm-64-v1"

# 64 tokens cost 4 ms on one core, 128 cost 10 and gained nothing measurable (0.001 of the area under the cost-quality
# curve on three public matrices). Head and tail: tasks are named first ("Translate ...") or last ("... in JSON").
WINDOW_TOKENS = 64
# [CLS] and [SEP].
SPECIAL_TOKENS = 2
# What the context may take from a long last message: it colours the question, it does not replace it.
CONTEXT_TOKENS = 16


class TextEncoder:
    """Texts to unit vectors with an ONNX model on one thread; safe to share between threads."""

    def __init__(self, model: bytes, tokenizer: bytes) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._cls, self._sep = self._special("[CLS]"), self._special("[SEP]")
        self._session = onnxruntime.InferenceSession(model, _one_thread(), providers=["CPUExecutionProvider"])
        self.embedding_size = int(self._session.get_outputs()[0].shape[1])

    def encode(self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None) -> np.ndarray:
        """Embeddings as float32 [B, D], each of length 1; `advance` is called after each."""
        embedding_BD = np.empty((len(conversations), self.embedding_size), dtype=np.float32)
        # One at a time: batches gain nothing with int8 on one thread.
        for row, conversation in enumerate(conversations):
            embedding_BD[row] = self._embed(self.token_ids(conversation))
            advance()
        return embedding_BD

    def token_ids(self, conversation: Conversation) -> list[int]:
        """At most `WINDOW_TOKENS` ids: [CLS], context, last user message, [SEP]; each part cut in its middle."""
        room = WINDOW_TOKENS - SPECIAL_TOKENS
        message, context = self._ids(last_user_text(conversation)), self._ids(context_text(conversation))
        context = cut_middle(context, max(CONTEXT_TOKENS, room - len(message)))
        return [self._cls, *context, *cut_middle(message, room - len(context)), self._sep]

    def _special(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"the tokenizer has no {token}")
        return token_id

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids if text else []

    def _embed(self, ids: Sequence[int]) -> np.ndarray:
        ids_BT = np.array([ids], dtype=np.int64)
        inputs: dict[str, Any] = {
            "input_ids": ids_BT,
            "attention_mask": np.ones_like(ids_BT),
            "token_type_ids": np.zeros_like(ids_BT),
        }
        embedding_BD: np.ndarray = self._session.run(None, inputs)[0]
        embedding_D: np.ndarray = embedding_BD[0]
        return embedding_D


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
    options.log_severity_level = 3
    return options
