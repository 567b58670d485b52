"""A predictor that is a dictionary: the quality and answer length of each model, whatever is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from router_models.conversation import Conversation
from router_models.predictor import Prediction

# Half of a 90 % interval, in quality, and as a share of the answer's length.
QUALITY_MARGIN, LENGTH_MARGIN = 0.05, 0.5


class FakePredictor:
    """`FakePredictor({"small": 0.6, "large": 0.9}, output_tokens={"large": 200})`; lengths are 50 unless given.

    `takes_s` makes it slow, `fails` makes it raise; both may be changed at any time.
    """

    def __init__(self, quality: Mapping[str, float], output_tokens: Mapping[str, float] | None = None) -> None:
        self.models = tuple(quality)
        self._quality_M = np.array([quality[name] for name in self.models])
        self._tokens_M = np.array([(output_tokens or {}).get(name, 50.0) for name in self.models])
        self.takes_s = 0.0
        self.fails: Exception | None = None
        self.asked: list[Conversation] = []

    def predict(self, conversations: Sequence[Conversation]) -> Prediction:
        self.asked.extend(conversations)
        time.sleep(self.takes_s)
        if self.fails:
            raise self.fails
        quality_BM = np.tile(self._quality_M, (len(conversations), 1))
        tokens_BM = np.tile(self._tokens_M, (len(conversations), 1))
        return Prediction(
            quality=quality_BM,
            quality_interval=np.stack((quality_BM - QUALITY_MARGIN, quality_BM + QUALITY_MARGIN), -1).clip(0, 1),
            output_tokens=tokens_BM,
            output_tokens_interval=np.stack((tokens_BM * (1 - LENGTH_MARGIN), tokens_BM * (1 + LENGTH_MARGIN)), -1),
        )
