"""Conversations to predictions, with the encoders and the heads of one artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from router_models.heads.tryage import Blend, Reading, Speed, Stage, TryageHead
from router_models.prediction import Prediction
from router_models.reading.conversation import Conversation, parts
from router_models.reading.features import Encoder, TransformerEncoder, inputs_of
from router_models.reading.static_encoder import StaticEncoder
from router_models.reading.wordpiece import FastWordPiece
from router_models.storage.artifact import Artifact, ArtifactError

__all__ = ["ArtifactPredictor", "Prediction"]


class ArtifactPredictor:
    """Predictions of an artifact; stateless after construction but for a cache of words, so threads may share it."""

    def __init__(self, artifact: Artifact, glances_only: bool = False) -> None:
        """Open the encoders and try all parts once; with `glances_only` not the transformer, if there is another.

        Raises:
            ArtifactError: ONNX Runtime or the tokenizer refuses its file, or encoders and heads do not fit together.
        """
        self.models = artifact.models
        self._speeds = artifact.settings.speeds
        self.speeds: frozenset[Speed] = frozenset(self._speeds)
        self.static_error = artifact.settings.static_error
        self._head = TryageHead(artifact.heads, artifact.settings, len(artifact.trained_models))
        try:
            speeds: Sequence[Speed] = ("static",) if glances_only and "static" in self.speeds else self._speeds
            self.encoders = _open_encoders(artifact, speeds)
            self.predict([(("user", "ready?"),)])
        except Exception as exc:  # ONNX Runtime and tokenizers raise what they like
            raise ArtifactError(
                f"artifact {artifact.name}: its encoder fails: {' '.join(str(exc).split())[:200]}"
            ) from exc

    @property
    def encoder(self) -> Encoder:
        """The better of its encoders."""
        return self.encoders.get("transformer") or self.encoders["static"]

    def glance(self, conversations: Sequence[Conversation]) -> Prediction:
        """Quality and answer length of all models on each conversation, by the static encoder alone, in microseconds.

        Raises:
            KeyError: the artifact has no static encoder; see `speeds`.
        """
        texts = [parts(conversation) for conversation in conversations]
        return self._head.predict({"static": inputs_of(self.encoders["static"], texts)})

    def predict(
        self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None
    ) -> Prediction:
        """The same by all encoders, in milliseconds where one is a transformer; `advance` is called after each."""
        return self._head.conclude(self._readings(conversations, advance))

    def predict_with_tasks(
        self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None
    ) -> tuple[Prediction, np.ndarray]:
        """The same, and how much each prompt looks like each task [B, T]."""
        readings = self._readings(conversations, advance)
        return self._head.conclude(readings), Blend.of(readings).task_BT

    def alarms(self, stage: Stage, conversations: Sequence[Conversation]) -> np.ndarray:
        """How unlike all that was learned from each prompt is [B]; what is above a threshold is unfamiliar."""
        readings = self._readings(conversations, lambda: None)
        return self._head.alarm(stage, Blend.of(readings[:1] if stage == "static" else readings))

    def _readings(self, conversations: Sequence[Conversation], advance: Callable[[], object]) -> list[Reading]:
        inputs = self.inputs(conversations, advance)
        return [self._head.read(speed, inputs_BF) for speed, inputs_BF in inputs.items()]

    def inputs(
        self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None
    ) -> Mapping[Speed, np.ndarray]:
        """What the heads read, per encoder [B, F]."""
        texts = [parts(conversation) for conversation in conversations]
        return {
            speed: inputs_of(encoder, texts, advance if speed == self._speeds[-1] else lambda: None)
            for speed, encoder in self.encoders.items()
        }


def _open_encoders(artifact: Artifact, speeds: Sequence[Speed]) -> dict[Speed, Encoder]:
    wordpiece = FastWordPiece(artifact.tokenizer, artifact.words)
    encoders: dict[Speed, Encoder] = {}
    for speed in speeds:
        if speed == "static":
            assert artifact.static is not None  # noqa: S101 - loading has checked it
            encoders[speed] = StaticEncoder(artifact.static["table_VD"], artifact.static["scale_V"], wordpiece)
        else:
            assert artifact.encoder is not None  # noqa: S101 - loading has checked it
            encoders[speed] = TransformerEncoder(artifact.encoder, wordpiece)
    return encoders
