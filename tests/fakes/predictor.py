"""A predictor that is a dictionary: the quality and answer length of each model, whatever is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from router_models.conversation import Conversation
from router_models.prediction import Prediction

# Half of a 90 % interval, in quality, and as a share of the answer's length.
QUALITY_MARGIN, LENGTH_MARGIN = 0.05, 0.5


class FakePredictor:
    """`FakePredictor({"small": 0.6, "large": 0.9}, output_tokens={"large": 200})`; lengths are 50 unless given.

    `seen` is the quality that the static encoder sees; without it there is a transformer only. `takes_s` makes the
    transformer slow, `fails` and `glance_fails` make one raise, `unfamiliar` names the encoders to which prompts are;
    all may be changed at any time.
    """

    def __init__(
        self,
        quality: Mapping[str, float],
        output_tokens: Mapping[str, float] | None = None,
        seen: Mapping[str, float] | None = None,
    ) -> None:
        self.models = tuple(quality)
        self.speeds = frozenset({"transformer"} if seen is None else {"static", "transformer"})
        self.static_error = 0.0 if seen is None else 0.1
        self._quality_M = np.array([quality[name] for name in self.models])
        self._seen_M = np.array([(seen or quality)[name] for name in self.models])
        self._tokens_M = np.array([(output_tokens or {}).get(name, 50.0) for name in self.models])
        self.takes_s = 0.0
        self.fails: Exception | None = None
        self.glance_fails: Exception | None = None
        self.unfamiliar: frozenset[str] = frozenset()
        self.asked: list[Conversation] = []
        self.glanced: list[Conversation] = []

    def glance(self, conversations: Sequence[Conversation]) -> Prediction:
        self.glanced.extend(conversations)
        if self.glance_fails:
            raise self.glance_fails
        return self._prediction(self._seen_M, len(conversations), "static")

    def predict(
        self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None
    ) -> Prediction:
        self.asked.extend(conversations)
        time.sleep(self.takes_s)
        if self.fails:
            raise self.fails
        for _ in conversations:
            advance()
        return self._prediction(self._quality_M, len(conversations), "transformer")

    def _prediction(self, quality_M: np.ndarray, count: int, encoder: str) -> Prediction:
        quality_BM, tokens_BM = np.tile(quality_M, (count, 1)), np.tile(self._tokens_M, (count, 1))
        return Prediction(
            quality=quality_BM,
            quality_interval=np.stack((quality_BM - QUALITY_MARGIN, quality_BM + QUALITY_MARGIN), -1).clip(0, 1),
            output_tokens=tokens_BM,
            output_tokens_interval=np.stack((tokens_BM * (1 - LENGTH_MARGIN), tokens_BM * (1 + LENGTH_MARGIN)), -1),
            unfamiliar=np.full(count, encoder in self.unfamiliar),
        )
