"""A predictor for evaluations that reads one letter: the first of the last message decides what it predicts."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from router_models.prediction import Prediction
from router_models.reading.conversation import Conversation


def _letter(conversation: Conversation) -> str:
    return conversation[-1][1].strip()[:1].lower()


class LetterEncoder:
    """A letter to a unit vector: the same letter, the same vector."""

    def encode(self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None) -> np.ndarray:
        embedding_BD = np.zeros((len(conversations), len(string.ascii_lowercase) + 1), np.float32)
        for row, conversation in enumerate(conversations):
            embedding_BD[row, string.ascii_lowercase.find(_letter(conversation))] = 1
            advance()
        return embedding_BD


class FakeReader:
    """`FakeReader({"adder": {"a": 0.9}, "poet": {"r": 0.9}})`: quality by model and letter, 0.1 for other letters.

    Lengths are `tokens` by model, 30 unless given; prompts that begin with one of `unfamiliar` are flagged.
    """

    def __init__(
        self,
        quality: Mapping[str, Mapping[str, float]],
        tokens: Mapping[str, float] | None = None,
        unfamiliar: str = "",
    ) -> None:
        self.models = tuple(quality)
        self.encoder = LetterEncoder()
        self.unfamiliar = unfamiliar
        self._quality = quality
        self._tokens_M = np.array([(tokens or {}).get(model, 30.0) for model in self.models])

    def predict(
        self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None
    ) -> Prediction:
        letters = [_letter(conversation) for conversation in conversations]
        quality_BM = np.array([[self._quality[m].get(letter, 0.1) for m in self.models] for letter in letters])
        tokens_BM = np.tile(self._tokens_M, (len(letters), 1))
        for _ in letters:
            advance()
        return Prediction(
            quality=quality_BM,
            quality_interval=np.stack([quality_BM - 0.05, quality_BM + 0.05], axis=2).clip(0, 1),
            output_tokens=tokens_BM,
            output_tokens_interval=np.stack([tokens_BM / 2, tokens_BM * 2], axis=2),
            unfamiliar=np.array([letter in self.unfamiliar for letter in letters], dtype=bool),
        )
