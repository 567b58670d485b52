"""The router model of an artifact, in the forms in which the router wants it: a predictor and an operating curve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from app.domain.dimensions import Scale
from app.domain.models import Model, TokenPrice
from app.domain.request import Preferences
from app.domain.vocabulary import VOCABULARY
from app.errors import UsageError
from app.routing.offload import OffLoopPredictor
from app.routing.operating_points import OperatingTable
from app.settings import Settings
from app.yaml_files import refuse
from router_models.artifact import Artifact, ArtifactError, Calibration, load_artifact
from router_models.operating_curve import CostScale, PricedRows, largest_weight, operating_curve, priced_rows
from router_models.predictor import ArtifactPredictor

_NO_PRICE = TokenPrice(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Expectation:
    """What choosing among some models would have done on the calibration rows, against the best single one of them."""

    prompts: int
    best_model: str
    best_quality: float
    best_cost_usd: float
    """A request, on average, as are all of these."""
    quality: float
    cost_usd: float


class CalibrationCurve:
    """What weights on cost would have done, from an artifact's calibration rows and the catalogue's prices."""

    def __init__(self, artifact: Artifact, scale: Scale) -> None:
        self._rows: Calibration = artifact.calibration
        self._column: Mapping[str, int] = {name: column for column, name in enumerate(artifact.models)}
        self._scale = CostScale(scale.worst, scale.best)

    def tabulate(self, models: Sequence[Model]) -> OperatingTable:
        """See `OperatingCurve` in `app.routing.operating_points`."""
        known = self._known(models)
        if not known:
            return OperatingTable(None, lambda _: None)
        rows = self._priced(known)
        points = operating_curve(rows, self._scale)
        best = _best(rows.score)
        return OperatingTable(
            best_model=None if best is None else known[best].name,
            cost_weight=lambda loss: largest_weight(points, loss),
        )

    def expectation(self, models: Sequence[Model], preferences: Preferences) -> Expectation | None:
        """What these preferences would have done, as far as they are about cost; None where too little is known."""
        known = self._known(models)
        rows = self._priced(known) if known else None
        best = None if rows is None else _best(rows.score)
        if rows is None or best is None:
            return None
        weight: float | None = preferences.weights.get("cost", 0.0)
        if preferences.max_quality_loss is not None:
            weight = largest_weight(operating_curve(rows, self._scale), preferences.max_quality_loss)
        best_quality, best_cost_usd = float(np.nanmean(rows.score[:, best])), float(np.nanmean(rows.real_usd[:, best]))
        # No weight keeps the promise: the best single model answers.
        points = [] if weight is None else operating_curve(rows, self._scale, [weight])
        quality, cost_usd = (points[0].quality, points[0].cost_usd) if points else (best_quality, best_cost_usd)
        return Expectation(len(rows.score), known[best].name, best_quality, best_cost_usd, quality, cost_usd)

    def _known(self, models: Sequence[Model]) -> list[Model]:
        return [model for model in models if model.predicted_as in self._column]

    def _priced(self, known: Sequence[Model]) -> PricedRows:
        columns = [self._column[model.predicted_as or ""] for model in known]
        prices = [model.price or _NO_PRICE for model in known]
        return priced_rows(
            self._rows,
            columns,
            [price.input_usd_per_m for price in prices],
            [price.output_usd_per_m for price in prices],
        )


@dataclass(frozen=True, slots=True)
class RouterModel:
    """An artifact at work."""

    artifact: Artifact
    predictor: OffLoopPredictor
    curve: CalibrationCurve

    @property
    def version(self) -> str:
        return f"{self.artifact.name}@{self.artifact.fingerprint[:12]}"


@contextmanager
def load_router_model(settings: Settings) -> Iterator[RouterModel | None]:
    """The router model that the settings name, for as long as the block runs; None where they name none.

    Raises:
        UsageError: the artifact is unusable, or does not know a column that the catalogue names.
    """
    if settings.artifact is None:
        yield None
        return
    artifact = load_checked(settings)
    try:
        predictor = OffLoopPredictor(ArtifactPredictor(artifact), settings.predictor_limit_s)
    except ArtifactError as exc:
        raise UsageError(f"{settings.artifact}: {exc}") from exc
    try:
        yield RouterModel(artifact, predictor, create_curve(settings, artifact))
    finally:
        predictor.close()


def create_curve(settings: Settings, artifact: Artifact) -> CalibrationCurve:
    """The operating curve at the settings' scale of cost."""
    return CalibrationCurve(artifact, settings.scales.get("cost", VOCABULARY.dimension["cost"].scale))


def load_checked(settings: Settings) -> Artifact:
    """The artifact, with a column for each `predicted_as` of the catalogue.

    Raises:
        UsageError: with one line for each thing that is wrong.
    """
    assert settings.artifact is not None  # noqa: S101 - for the type checker: callers have looked
    if settings.encoder == "static":
        raise UsageError(f"{settings.path}: encoder: this artifact has no static encoder; write auto")
    try:
        artifact = load_artifact(settings.artifact)
    except ArtifactError as exc:
        raise UsageError(f"{settings.artifact}: {exc}") from exc
    refuse(settings.catalog_path, list(_unknown_columns(settings, artifact)))
    return artifact


def _unknown_columns(settings: Settings, artifact: Artifact) -> Iterator[str]:
    for index, model in enumerate(settings.catalog.models):
        if model.predicted_as is not None and model.predicted_as not in artifact.models:
            known = ", ".join(artifact.models)
            yield f"models[{index}].predicted_as: {artifact.name} has no {model.predicted_as!r}; it has {known}"


def _best(score_NM: np.ndarray) -> int | None:
    """The model with the best mean score where it was measured."""
    known_NM = np.isfinite(score_NM)
    if not known_NM.any():
        return None
    total_M, count_M = np.where(known_NM, score_NM, 0).sum(axis=0), known_NM.sum(axis=0)
    return int(np.where(count_M > 0, total_M / np.maximum(count_M, 1), -np.inf).argmax())
