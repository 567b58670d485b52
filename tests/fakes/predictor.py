"""A predictor that is a dictionary: the quality and answer length of each model, whatever is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from router_models.prediction import PredictionRow
from router_models.reading.conversation import Conversation

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

    def glance(self, conversation: Conversation) -> PredictionRow:
        self.glanced.append(conversation)
        if self.glance_fails:
            raise self.glance_fails
        return self._row(self._seen_M, "static")

    def predict(self, conversation: Conversation) -> PredictionRow:
        self.asked.append(conversation)
        time.sleep(self.takes_s)
        if self.fails:
            raise self.fails
        return self._row(self._quality_M, "transformer")

    def _row(self, quality_M: np.ndarray, encoder: str) -> PredictionRow:
        tokens_M = self._tokens_M
        return PredictionRow(
            quality=quality_M,
            quality_interval=np.stack((quality_M - QUALITY_MARGIN, quality_M + QUALITY_MARGIN), -1).clip(0, 1),
            output_tokens=tokens_M,
            output_tokens_interval=np.stack((tokens_M * (1 - LENGTH_MARGIN), tokens_M * (1 + LENGTH_MARGIN)), -1),
            unfamiliar=encoder in self.unfamiliar,
        )
