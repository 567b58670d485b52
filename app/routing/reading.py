"""Which of a router model's encoders reads a prompt: the static one at a glance, the transformer with care.

How it works: a glance costs some microseconds and is taken on the event loop; a look costs milliseconds, elsewhere. Who
wants a prediction takes the glance first and asks for the look only where the glance leaves something open. A look that
fails leaves the glance. What an encoder has said before to the same caller is not asked again (`app.routing.recall`).
Whatever an encoder does, the caller gets a reading, if need be an empty one that says why.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from app.domain.decision import Encoder
from app.domain.frozen import frozen
from app.domain.request import Conversation, Request
from app.routing.estimates import Prediction
from app.routing.recall import Recall


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


@frozen
class Reading:
    """What is predicted, and by whom; or why nothing is."""

    prediction: Prediction | None = None
    encoder: Encoder | None = None
    failure: str | None = None
    """Of an encoder that should have read this; the other one may have."""


UNREAD = Reading()


def glance(predictor: QualityPredictor, request: Request, recall: Recall) -> Reading:
    """What the static encoder says; nothing without one, or when it fails."""
    if "static" not in predictor.speeds:
        return UNREAD
    name = recall.name("static", request)
    prediction = recall.find(name)
    if prediction is None:
        try:
            prediction = predictor.glance(request.conversation)
        except PredictorFailed as exc:
            return Reading(failure=_words_of(exc))
        if prediction is None:
            return UNREAD
        recall.keep(name, prediction)
    return Reading(prediction, "static")


async def look(predictor: QualityPredictor, request: Request, recall: Recall, glanced: Reading) -> Reading:
    """What the transformer says; when it fails, what was seen at a glance."""
    name = recall.name("transformer", request)
    prediction = recall.find(name)
    if prediction is None:
        try:
            prediction = await predictor.predict(request.conversation)
        except PredictorFailed as exc:
            return replace(glanced, failure=_words_of(exc))
        recall.keep(name, prediction)
    return Reading(prediction, "transformer", glanced.failure)


def _words_of(failure: PredictorFailed) -> str:
    return str(failure) or "the predictor failed"
