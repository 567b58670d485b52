"""What the gateway calls: conversations to predictions, with the encoder and the heads of one artifact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router_models.artifact import Artifact, ArtifactError
from router_models.conversation import Conversation
from router_models.features import TextEncoder
from router_models.prediction import Prediction
from router_models.tryage import TryageHead

__all__ = ["ArtifactPredictor", "Prediction"]


class ArtifactPredictor:
    """Predictions of an artifact; stateless after construction, so threads may share it."""

    def __init__(self, artifact: Artifact) -> None:
        """Open the encoder and try both parts once.

        Raises:
            ArtifactError: ONNX Runtime or the tokenizer refuses its file, or encoder and heads do not fit together.
        """
        self.artifact = artifact
        self.models = artifact.models
        self._head = TryageHead(artifact.heads, artifact.settings)
        self.encoder = _open_encoder(artifact)

    def predict(
        self, conversations: Sequence[Conversation], advance: Callable[[], object] = lambda: None
    ) -> Prediction:
        """Quality and answer length of all models on each conversation; `advance` is called after each is read."""
        return self._head.predict(self.encoder.encode(conversations, advance))


def _open_encoder(artifact: Artifact) -> TextEncoder:
    try:
        encoder = TextEncoder(artifact.encoder, artifact.tokenizer)
        size = encoder.encode([(("user", "ready?"),)]).shape[1]
    except Exception as exc:  # ONNX Runtime and tokenizers raise what they like
        raise ArtifactError(f"artifact {artifact.name}: its encoder fails: {' '.join(str(exc).split())[:200]}") from exc
    wanted = artifact.heads["input.mean_D"].size
    if size != wanted:
        raise ArtifactError(f"artifact {artifact.name}: the encoder makes {size} numbers, the heads want {wanted}")
    return encoder
