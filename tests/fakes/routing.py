"""A catalogue to decide about, a predictor that says what it is told, and a router over both."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.domain.decision import Decision, Fleet
from app.domain.dimensions import Scale
from app.domain.models import Card, Catalog, Model, Speed, TokenPrice
from app.domain.preferences import Profile, parse_body
from app.domain.request import Conversation, Request
from app.domain.vocabulary import VOCABULARY, Vocabulary
from app.routing.candidates import CandidateTable
from app.routing.operating_points import OperatingCurve, OperatingTable
from app.routing.reading import PredictorFailed
from app.routing.router import Learned, Router
from router_models.prediction import PredictionRow
from tests.fakes.world import request

CARD = {
    "parameters_b": 8,
    "released": "2025-01-01",
    "security": "self_hosted",
    "readability_grade": 9,
    "wh_per_1k_tokens": 0.4,
}


def llm(name: str, /, **changes: Any) -> Model:
    """A model whose card states everything, unless changed; None leaves a number out, `tested=False` the column."""
    values = {**CARD, **{key: value for key, value in changes.items() if key in CARD}}
    card = Card(
        context_tokens=changes.get("context_tokens", 4096),
        capabilities=frozenset(changes.get("capabilities", {"chat"})),
        license=changes.get("license", "apache-2.0"),
        regions=frozenset(changes.get("regions", {"eu"})),
        values={k: VOCABULARY.card_fields[k].parse(v) for k, v in values.items() if v is not None},
    )
    return Model(
        name=name,
        served_as=name,
        backend=f"{name}-backend",
        card=card,
        price=changes.get("price", TokenPrice(1.0, 1.0)),
        speed=changes.get("speed", Speed(1000.0, 0.01)),
        predicted_as=name if changes.get("tested", True) else None,
    )


@dataclass
class FakeQualityPredictor:
    """Predicts what it was told, whatever the conversation: quality, and tokens, by model."""

    quality: Mapping[str, float]
    """What the transformer says, of all models."""
    output_tokens: Mapping[str, float] = field(default_factory=dict)
    seen: Mapping[str, float] | None = None
    """What the static encoder says; without it there is none."""
    static_error: float = 0.1
    failure: str | None = None
    """Of the transformer."""
    glance_failure: str | None = None
    unfamiliar: frozenset[str] = frozenset()
    """The encoders to which the prompt is."""
    speeds: frozenset[str] = frozenset({"static", "transformer"})
    asked: list[Conversation] = field(default_factory=list)
    """Of the transformer."""
    glanced: list[Conversation] = field(default_factory=list)

    def glance(self, conversation: Conversation) -> PredictionRow | None:
        if self.seen is None:
            return None
        self.glanced.append(conversation)
        if self.glance_failure:
            raise PredictorFailed(self.glance_failure)
        return self._row([self.seen[name] for name in self.quality], "static")

    async def predict(self, conversation: Conversation) -> PredictionRow:
        self.asked.append(conversation)
        if self.failure:
            raise PredictorFailed(self.failure)
        return self.row()

    def row(self) -> PredictionRow:
        """What the transformer says."""
        return self._row(list(self.quality.values()), "transformer")

    def _row(self, values: list[float], encoder: str) -> PredictionRow:
        quality = np.array(values)
        tokens = np.array([self.output_tokens.get(name, 100.0) for name in self.quality])
        return PredictionRow(
            quality,
            np.stack((quality - 0.1, quality + 0.1), axis=1).clip(0, 1),
            tokens,
            np.stack((tokens / 2, tokens * 2), axis=1),
            encoder in self.unfamiliar,
        )


class FakeCurve:
    """Says one weight for any loss of at least `least_loss`, and which model is the best single one."""

    def __init__(self, best: str | None = "large", weight: float = 3.0, least_loss: float = 0.01) -> None:
        self._best, self._weight, self._least_loss = best, weight, least_loss
        self.asked: list[list[str]] = []

    def tabulate(self, models: Sequence[Model]) -> OperatingTable:
        self.asked.append([model.name for model in models])
        return OperatingTable(self._best, lambda loss: self._weight if loss >= self._least_loss else None)


def fleet_of(
    *models: Model,
    down: Collection[str] = (),
    wait_s: Mapping[str, float] | None = None,
    s_per_output_token: Mapping[str, float] | None = None,
) -> Fleet:
    names = [model.name for model in models]
    return Fleet(
        tuple(name not in down for name in names),
        tuple((wait_s or {}).get(name, 0.0) for name in names),
        tuple((s_per_output_token or {}).get(name) for name in names),
    )


@dataclass
class FakeTally:
    """Remembers what it was told."""

    encoders: list[str] = field(default_factory=list)
    """Of each predicted decision."""
    unfamiliar: list[str] = field(default_factory=list)
    """Encoders that knew nothing like the prompt."""
    exclusions: Counter[str] = field(default_factory=Counter)

    def predicted(self, encoder: str, *, unfamiliar: bool = False) -> None:
        self.encoders.append(encoder)
        if unfamiliar:
            self.unfamiliar.append(encoder)

    def excluded(self, constraint: str, models: int) -> None:
        self.exclusions[constraint] += models

    def predictor_failed(self) -> None:
        """The decision says so."""

    def decision_took(self, seconds: float) -> None:
        """Whoever asks for the decision knows."""


@dataclass
class World:
    """Models, what is predicted for them, and the router that decides among them."""

    models: tuple[Model, ...]
    predictor: FakeQualityPredictor | None
    router: Router
    tally: FakeTally

    def decide(self, routing: Mapping[str, Any] | None = None, fleet: Fleet | None = None, **changes: Any) -> Decision:
        """The decision for a request with this `routing` object."""
        asked: Request = request(**changes)
        if routing is not None:
            asked = request(preferences=parse_body(routing).preferences, **changes)
        return asyncio.run(self.router.route(asked, fleet or fleet_of(*self.models), tally=self.tally))

    def order(self, routing: Mapping[str, Any] | None = None, fleet: Fleet | None = None, **changes: Any) -> list[str]:
        """Names of the candidates, in the order of their attempts."""
        return [each.model.name for each in self.decide(routing, fleet, **changes).candidates]


def world_of(
    *models: Model,
    quality: Mapping[str, float] | None = None,
    output_tokens: Mapping[str, float] | None = None,
    seen: Mapping[str, float] | None = None,
    curve: OperatingCurve | None = None,
    order: tuple[str, ...] = (),
    scales: Mapping[str, Scale] | None = None,
    vocabulary: Vocabulary = VOCABULARY,
) -> World:
    """Without `quality` there is no predictor, without `seen` no static encoder."""
    predictor = None if quality is None else FakeQualityPredictor(quality, output_tokens or {}, seen)
    table = CandidateTable(Catalog(models, ()), tuple(quality or ()), scales, vocabulary)
    profiles = {"default": Profile(order=order)}
    versions = {"artifact": "made-up-v1", "config": "abc"}
    router = Router(table, Learned(predictor, curve), profiles, versions)
    return World(models, predictor, router, FakeTally())
