"""The router model of an artifact, in the forms in which the router wants it: a predictor and an operating curve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from app.domain.dimensions import Scale
from app.domain.models import Model, TokenPrice
from app.domain.vocabulary import VOCABULARY
from app.errors import UsageError
from app.routing.offload import OffLoopPredictor
from app.routing.operating_points import OperatingTable
from app.settings import Settings
from app.yaml_files import refuse
from router_models.artifact import Artifact, ArtifactError, Calibration, load_artifact
from router_models.operating_curve import CostScale, largest_weight, operating_curve, priced_rows
from router_models.predictor import ArtifactPredictor

_NO_PRICE = TokenPrice(math.nan, math.nan)


class CalibrationCurve:
    """What weights on cost would have done, from an artifact's calibration rows and the catalogue's prices."""

    def __init__(self, artifact: Artifact, scale: Scale) -> None:
        self._rows: Calibration = artifact.calibration
        self._column: Mapping[str, int] = {name: column for column, name in enumerate(artifact.models)}
        self._scale = CostScale(scale.worst, scale.best)

    def tabulate(self, models: Sequence[Model]) -> OperatingTable:
        """See `OperatingCurve` in `app.routing.operating_points`."""
        known = [model for model in models if model.predicted_as in self._column]
        if not known:
            return OperatingTable(None, lambda _: None)
        columns = [self._column[model.predicted_as or ""] for model in known]
        prices = [model.price or _NO_PRICE for model in known]
        rows = priced_rows(
            self._rows,
            columns,
            [price.input_usd_per_m for price in prices],
            [price.output_usd_per_m for price in prices],
        )
        points = operating_curve(rows, self._scale)
        return OperatingTable(
            best_model=_best(rows.score, known), cost_weight=lambda loss: largest_weight(points, loss)
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
    scale = settings.scales.get("cost", VOCABULARY.dimension["cost"].scale)
    try:
        predictor = OffLoopPredictor(ArtifactPredictor(artifact), settings.predictor_limit_s)
    except ArtifactError as exc:
        raise UsageError(f"{settings.artifact}: {exc}") from exc
    try:
        yield RouterModel(artifact, predictor, CalibrationCurve(artifact, scale))
    finally:
        predictor.close()


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


def _best(score_NM: np.ndarray, models: Sequence[Model]) -> str | None:
    """The model with the best mean score where it was measured."""
    measured_M = np.isfinite(score_NM).any(axis=0)
    if not measured_M.any():
        return None
    total_M, count_M = np.nansum(score_NM, axis=0), np.isfinite(score_NM).sum(axis=0)
    mean_M = np.where(measured_M, total_M / np.maximum(count_M, 1), -np.inf)
    return models[int(mean_M.argmax())].name
