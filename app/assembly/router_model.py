"""The router model of an artifact, in the forms in which the router wants it: a predictor and an operating curve."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.domain.dimensions import Scale
from app.domain.models import Model, TokenPrice
from app.domain.vocabulary import VOCABULARY
from app.errors import UsageError
from app.forms.yaml_files import refuse
from app.routing.offload import BlockingPredictor, OffLoopPredictor
from app.routing.operating_points import OperatingTable
from app.settings import Settings
from router_models.operating.curve import largest_weight, least_loss, operating_curve
from router_models.operating.reference import best_single
from router_models.operating.rows import CostScale, PricedRows, priced_rows
from router_models.serving import ServingPredictor
from router_models.storage.artifact import Artifact, ArtifactError, load_artifact
from router_models.storage.calibration import Calibration

_NO_PRICE = TokenPrice(math.nan, math.nan)


class CalibrationCurve:
    """What weights on cost would have done, from an artifact's calibration rows and the catalogue's prices."""

    def __init__(self, models: Sequence[str], rows: Calibration, scale: Scale) -> None:
        """`models` are the columns of the rows. `dataset_N` is which of the datasets each row is from."""
        self.models, self.datasets, self.dataset_N = tuple(models), rows.datasets, rows.dataset
        self.scale = CostScale(scale.worst, scale.best)
        self._rows = rows
        self._column: Mapping[str, int] = {name: column for column, name in enumerate(models)}

    def tabulate(self, models: Sequence[Model]) -> OperatingTable:
        """See `OperatingCurve` in `app.routing.operating_points`."""
        known = self.known(models)
        if not known:
            return OperatingTable(None, lambda _: None)
        rows = self.priced(known)
        points, best = operating_curve(rows, self.scale), best_single(rows)
        return OperatingTable(
            best_model=None if best is None else known[best].name,
            cost_weight=lambda loss: largest_weight(points, loss),
            least_loss=least_loss(points),
        )

    def known(self, models: Sequence[Model]) -> list[Model]:
        """Those of these models that the artifact predicts."""
        return [model for model in models if model.predicted_as in self._column]

    def priced(self, known: Sequence[Model]) -> PricedRows:
        """The calibration rows of models that the artifact predicts, in their order, at their prices."""
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
    """An artifact at work; its files, which ONNX Runtime has copied, are not kept in memory twice."""

    version: str
    """Name and fingerprint."""
    predictor: OffLoopPredictor
    curve: CalibrationCurve

    @classmethod
    def of(cls, settings: Settings) -> RouterModel:
        """
        Raises:
            UsageError: as in `load_router_model`.
        """
        artifact = load_checked(settings)
        predictor = create_predictor(settings, _opened(settings, artifact))
        return cls(f"{artifact.name}@{artifact.fingerprint[:12]}", predictor, create_curve(settings, artifact))


def source(settings: Settings) -> object:
    """What the settings' router model is made from: while it is equal, the model is the same. None without one."""
    if settings.artifact is None:
        return None
    manifest = _manifest(settings.artifact)
    columns = frozenset(model.predicted_as for model in settings.catalog.models)
    scale = settings.scales.get("cost")
    return settings.artifact, manifest, columns, settings.encoder, settings.predictor_limit_s, scale


def fingerprint(settings: Settings) -> str:
    """Of the artifact that is there now; the same in all processes that find the same one."""
    return hashlib.sha256(_manifest(settings.artifact)).hexdigest() if settings.artifact else ""


def _manifest(artifact: Path) -> bytes:
    """It has the hashes of all other files; empty where there is none."""
    try:
        return (artifact / "manifest.json").read_bytes()
    except OSError:
        return b""


@contextmanager
def load_router_model(settings: Settings) -> Iterator[RouterModel | None]:
    """The router model that the settings name, for as long as the block runs; None where they name none.

    Raises:
        UsageError: the artifact is unusable, does not know a column that the catalogue names, or lacks the encoder that
            the settings want.
    """
    if settings.artifact is None:
        yield None
        return
    router_model = RouterModel.of(settings)
    try:
        yield router_model
    finally:
        router_model.predictor.close()


def create_predictor(settings: Settings, predictor: BlockingPredictor) -> OffLoopPredictor:
    """The predictor at the speeds that the settings want.

    Raises:
        UsageError: it has no such encoder.
    """
    speeds = predictor.speeds if settings.encoder == "auto" else frozenset({settings.encoder})
    if not speeds <= predictor.speeds:
        instead = " or ".join(("auto", *sorted(predictor.speeds)))
        raise UsageError(f"{settings.path}: encoder: this artifact has no {settings.encoder} encoder; write {instead}")
    return OffLoopPredictor(predictor, settings.predictor_limit_s, speeds=speeds)


def create_curve(settings: Settings, artifact: Artifact) -> CalibrationCurve:
    """The operating curve at the settings' scale of cost."""
    scale = settings.scales.get("cost", VOCABULARY.dimension["cost"].scale)
    return CalibrationCurve(artifact.models, artifact.calibration, scale)


def load_checked(settings: Settings) -> Artifact:
    """The artifact, with a column for each `predicted_as` of the catalogue.

    Raises:
        UsageError: with one line for each thing that is wrong.
    """
    assert settings.artifact is not None  # noqa: S101 - for the type checker: callers have looked
    try:
        artifact = load_artifact(settings.artifact)
    except ArtifactError as exc:
        raise UsageError(f"{settings.artifact}: {exc}") from exc
    refuse(settings.catalog_path, list(_unknown_columns(settings, artifact)))
    return artifact


def _opened(settings: Settings, artifact: Artifact) -> ServingPredictor:
    """For the columns that the catalogue names, in its order; for all where it names none."""
    named = dict.fromkeys(model.predicted_as for model in settings.catalog.models)
    models = [name for name in named if name is not None] or artifact.models
    try:
        return ServingPredictor(artifact, models, glances_only=settings.encoder == "static")
    except ArtifactError as exc:
        raise UsageError(f"{settings.artifact}: {exc}") from exc


def _unknown_columns(settings: Settings, artifact: Artifact) -> Iterator[str]:
    for index, model in enumerate(settings.catalog.models):
        if model.predicted_as is not None and model.predicted_as not in artifact.models:
            known = ", ".join(artifact.models)
            yield f"models[{index}].predicted_as: {artifact.name} has no {model.predicted_as!r}; it has {known}"
