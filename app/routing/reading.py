"""Which of a router model's encoders reads a prompt: the static one at a glance, the transformer with care.

How it works: a glance costs some microseconds and is taken on the event loop; a look costs milliseconds, elsewhere. Who
wants a prediction takes the glance first and asks for the look only where the glance leaves something open. A look that
fails leaves the glance. Whatever an encoder does, the caller gets a reading, if need be an empty one that says why.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from app.domain.decision import Encoder
from app.domain.request import Conversation
from app.routing.estimates import Prediction


class PredictorFailed(Exception):
    """There is no prediction this time; the message says why. Not the caller's problem."""


class QualityPredictor(Protocol):
    """Predicts, for one conversation, how good each model's answer would be."""

    @property
    def speeds(self) -> frozenset[str]:
        """The encoders that may be asked: static, transformer or both."""
        ...

    @property
    def static_error(self) -> float:
        """Standard deviation of what a glance says about the difference of two models, from what a look says of it."""
        ...

    def glance(self, conversation: Conversation) -> Prediction | None:
        """What the static encoder says, at once; None without one.

        Raises:
            PredictorFailed: it failed.
        """
        ...

    async def predict(self, conversation: Conversation) -> Prediction:
        """What the transformer says: a number per model of the artifact, in its order.

        Raises:
            PredictorFailed: it failed, or took too long.
        """
        ...


class Reading(NamedTuple):
    """What is predicted, and by whom; or why nothing is."""

    prediction: Prediction | None = None
    encoder: Encoder | None = None
    failure: str | None = None
    """Of an encoder that should have read this; the other one may have."""


UNREAD = Reading()


def glance(predictor: QualityPredictor, conversation: Conversation) -> Reading:
    """What the static encoder says; nothing without one, or when it fails."""
    try:
        prediction = predictor.glance(conversation)
    except PredictorFailed as exc:
        return Reading(failure=_told(exc))
    return UNREAD if prediction is None else Reading(prediction, "static")


async def look(predictor: QualityPredictor, conversation: Conversation, glanced: Reading) -> Reading:
    """What the transformer says; when it fails, what was seen at a glance."""
    try:
        return Reading(await predictor.predict(conversation), "transformer", glanced.failure)
    except PredictorFailed as exc:
        return glanced._replace(failure=_told(exc))


def _told(failure: PredictorFailed) -> str:
    return str(failure) or "the predictor failed"
