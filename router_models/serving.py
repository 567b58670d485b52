"""What a gateway asks: one conversation at a time, for the models that it serves, by the numbers of a whole artifact.

Legend of array suffixes: C models that are served.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from router_models.heads.amendment import Amendment
from router_models.heads.glance import Glance, GlanceHead
from router_models.heads.tryage import Speed
from router_models.prediction import Prediction, PredictionRow
from router_models.predictor import ArtifactPredictor
from router_models.reading.conversation import Conversation, parts
from router_models.reading.surface import surface_features
from router_models.storage.artifact import Artifact


class ServingPredictor:
    """Predictions for some models of an artifact, by either encoder; threads may share it."""

    def __init__(self, artifact: Artifact, models: Sequence[str], glances_only: bool = False) -> None:
        """`models` are those to predict, in this order; what the artifact knows of others has no column here.

        With `glances_only` a transformer beside a static encoder is not opened, and `predict` is not to be asked.

        Raises:
            ArtifactError: as in `ArtifactPredictor`.
            ValueError: there is no model to serve, or one that the artifact does not know.
        """
        if not models or not set(models) <= set(artifact.models):
            raise ValueError(f"the artifact {artifact.name} cannot serve {', '.join(models) or 'no model'}")
        self._whole = ArtifactPredictor(artifact, glances_only)
        self.models = tuple(models)
        self.speeds: frozenset[Speed] = self._whole.speeds
        self.static_error = artifact.settings.static_error
        self._columns_C = np.array([artifact.models.index(model) for model in models], dtype=np.intp)
        if "static" in self.speeds:
            self._amendment = Amendment.of(artifact.heads)
            trained = len(artifact.trained_models)
            served = self._columns_C.tolist() if self._amendment is None else range(trained)
            self._head = GlanceHead(artifact.heads, artifact.settings, trained, served)

    def glance(self, conversation: Conversation) -> Glance | AmendedGlance:
        """What the static encoder alone says, in microseconds.

        Raises:
            KeyError: the artifact has no static encoder; see `speeds`.
        """
        text = parts(conversation)
        embedding = self._whole.encoders["static"].embed(text)
        glance = self._head.read(embedding, surface_features(text.question))
        return glance if self._amendment is None else AmendedGlance(glance, self._amendment, self._columns_C)

    def predict(self, conversation: Conversation) -> PredictionRow:
        """What all encoders say, in milliseconds where one is a transformer."""
        return self._whole.predict((conversation,)).row(0, self._columns_C)


class AmendedGlance:
    """A glance at all models that a head was trained on, put right by what came later."""

    def __init__(self, glance: Glance, amendment: Amendment, columns_C: np.ndarray) -> None:
        self._glance, self._amendment, self._columns_C = glance, amendment, columns_C
        self.unfamiliar = glance.unfamiliar
        self.quality = amendment.quality(glance.quality[None], glance.tasks[None])[0].take(columns_C)

    @property
    def quality_interval(self) -> np.ndarray:
        return self._row.quality_interval

    @property
    def output_tokens(self) -> np.ndarray:
        return self._row.output_tokens

    @property
    def output_tokens_interval(self) -> np.ndarray:
        return self._row.output_tokens_interval

    @cached_property
    def _row(self) -> PredictionRow:
        glance = self._glance
        old = Prediction(
            glance.quality[None],
            glance.quality_interval[None],
            glance.output_tokens[None],
            glance.output_tokens_interval[None],
            np.array([glance.unfamiliar]),
        )
        return self._amendment.apply(old, glance.tasks[None]).row(0, self._columns_C)
