"""An artifact adapted to somebody's own prompts: what its heads predict is corrected, its encoders stay. NumPy only.

How it works: on the logit scale, a model's quality becomes

    offset_m + common * mean + own * (logit_m - mean) + what the kind of the prompt adds for this model,

where `mean` is over the models that were measured. The first three correct what is wrong on these prompts as a whole;
the last is learned per model and task, pulled towards 0 (ridge regression by Laplace's approximation). A few hundred
prompts are enough for that, and far too few for heads of their own.

Whether it helps is told by prompts held back: each fifth is predicted by what the other four say. Adaptation is kept
where the Brier score falls by more than chance explains, and choosing by it is not worse than before by more than that.

Legend of array suffixes: B prompts, M all models of the artifact, S those measured, T tasks, A coordinates of a fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from router_models.artifact import Artifact, Calibration
from router_models.corrected import Correction
from router_models.glancing import static_error
from router_models.odds import logit
from router_models.onboarding import Graded, without_exam
from router_models.outcomes import OutcomesDataset, OutcomesError
from router_models.population import laplace
from router_models.prediction import Z_90, Prediction
from router_models.predictor import ArtifactPredictor
from router_models.splits import split_names
from router_models.tryage import HeadSettings

LEAST_PROMPTS = 50
LEAST_MODELS = 2
FOLDS = 5
# Deviations that are expected before anything is seen: of the slopes (from 1), a model's offset, and what one task adds
# for one model. In logits.
SLOPE_DEVIATION, OFFSET_DEVIATION, KIND_DEVIATION = 0.5, 1.0, 0.5
# Of one's own prompts, at most so many are to be taken for unlike all that is known.
FALSE_ALARMS = 0.0025


@dataclass(frozen=True)
class Verdict:
    """What adapting did on prompts held back."""

    prompts: int
    models: tuple[str, ...]
    brier_before: float
    brier_after: float
    brier_gain_interval: tuple[float, float]
    """90 %, by prompt."""
    quality_before: float
    """Mean score of the model with the highest predicted quality."""
    quality_after: float
    quality_gain_interval: tuple[float, float]
    best_single: float | None
    """Highest mean score of one model on the prompts that all measured models have scores on; None if those are few."""
    best_single_prompts: int
    unfamiliar_before: float
    """Share of the prompts that went to the default order."""
    helps: bool

    def as_json(self) -> Mapping[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """In words, with what follows."""
        words = (
            f"on {self.prompts} prompts held back in turn: Brier score {self.brier_before:.4f} before, "
            f"{self.brier_after:.4f} after; quality of the chosen {self.quality_before:.3f} before, "
            f"{self.quality_after:.3f} after (always the best one: {self._best_single()})"
        )
        return f"it helps: {words}" if self.helps else f"it does not help, so the old heads stay: {words}"

    def _best_single(self) -> str:
        if self.best_single is None:
            return f"-, for only {self.best_single_prompts} have scores of all models"
        of_some = f" on the {self.best_single_prompts} with scores of all models"
        return f"{self.best_single:.3f}{of_some if self.best_single_prompts < self.prompts else ''}"


@dataclass(frozen=True)
class _Own:
    """Somebody's own prompts as an artifact reads them."""

    prediction: Prediction
    task_BT: np.ndarray
    score_BM: np.ndarray
    measured: np.ndarray
    """Columns with scores."""

    def fit(self, rows: np.ndarray) -> Correction:
        """The correction that the scores on these prompts suggest."""
        measured_M = np.zeros(self.score_BM.shape[1])
        measured_M[self.measured] = 1
        logit_BS = logit(self.prediction.quality[rows][:, self.measured])
        score_BS, task_BT = self.score_BM[rows][:, self.measured], self.task_BT[rows]
        mean_B1 = logit_BS.mean(1, keepdims=True)
        shared_3 = _shared(mean_B1, logit_BS - mean_B1, score_BS)
        latent_BS = shared_3[0] + shared_3[1] * mean_B1 + shared_3[2] * (logit_BS - mean_B1)
        offset_M, kind_TM = np.zeros(len(measured_M)), np.zeros((task_BT.shape[1], len(measured_M)))
        offset_M[:] = shared_3[0]
        for place, column in enumerate(self.measured):
            known_B = np.isfinite(score_BS[:, place])
            added = _own_terms(task_BT[known_B], score_BS[known_B, place], latent_BS[known_B, place])
            offset_M[column] += added[0]
            kind_TM[:, column] = added[1:]
        return Correction(offset_M, kind_TM, shared_3[1:], measured_M)


def _shared(mean_B1: np.ndarray, own_BS: np.ndarray, score_BS: np.ndarray) -> np.ndarray:
    """Offset and the two slopes that all models share."""
    known_BS = np.isfinite(score_BS)
    design_BS3 = np.stack([np.ones_like(own_BS), np.broadcast_to(mean_B1, own_BS.shape), own_BS], axis=-1)
    spread_33 = np.diag([OFFSET_DEVIATION**2, SLOPE_DEVIATION**2, SLOPE_DEVIATION**2])
    return laplace(design_BS3[known_BS], score_BS[known_BS], np.array([0.0, 1.0, 1.0]), spread_33)[0]


def _own_terms(task_BT: np.ndarray, score_B: np.ndarray, latent_B: np.ndarray) -> np.ndarray:
    """A model's offset, and what each task adds for it."""
    design_BA = np.column_stack([np.ones(len(task_BT)), task_BT])
    deviation_A = np.r_[OFFSET_DEVIATION, np.full(task_BT.shape[1], KIND_DEVIATION)]
    return laplace(design_BA, score_B, np.zeros(len(deviation_A)), np.diag(deviation_A**2), latent_B)[0]


def adapt(
    artifact: Artifact,
    dataset: OutcomesDataset,
    pool: str,
    name: str,
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Artifact, Verdict]:
    """The artifact under another name, adapted to the prompts of a dataset; and whether that helped.

    Its calibration rows are corrected as its predictions are, and the dataset's prompts join them, each predicted by
    what the other folds say. `advance` is called after each prompt.

    Raises:
        OutcomesError: it was adapted before, knows too few of the models, or there are too few prompts.
    """
    own, sat = _read(artifact, dataset, advance)
    cross_fitted = own.prediction.quality.copy()
    for part in np.array_split(np.random.default_rng(seed).permutation(len(own.score_BM)), FOLDS):
        there = np.setdiff1d(np.arange(len(own.score_BM)), part)
        cross_fitted[part] = own.fit(there).quality(own.prediction.quality[part], own.task_BT[part])
    correction = own.fit(np.arange(len(own.score_BM)))
    adapted = replace(
        artifact,
        name=name,
        heads={**artifact.heads, **correction.tensors()},
        settings=_lenient(artifact, sat),
        calibration=_extended(artifact, correction, own, Graded.of(sat, artifact.models), cross_fitted, pool),
        about={
            **without_exam(artifact),
            "adapted": {
                "from": artifact.name,
                "to": pool,
                "prompts": len(own.score_BM),
                "splits": split_names(sat),
            },
        },
        fingerprint="",
    )
    adapted = replace(adapted, settings=_measured(adapted, correction, own, sat))
    return adapted, _verdict(artifact, own, cross_fitted)


def _read(artifact: Artifact, dataset: OutcomesDataset, advance: Callable[[], object]) -> tuple[_Own, OutcomesDataset]:
    if Correction.of(artifact.heads) is not None:
        raise OutcomesError(f"{artifact.name} was adapted before; start from {artifact.about['adapted']['from']}")
    known = dataset.renamed(artifact.aliases)
    score_BM = known.matrix("score", artifact.models)
    measured = np.flatnonzero(np.isfinite(score_BM).sum(0) >= LEAST_PROMPTS)
    if len(measured) < LEAST_MODELS:
        raise OutcomesError(
            f"at least {LEAST_MODELS} of {artifact.name}'s models need scores on {LEAST_PROMPTS} prompts each; "
            f"{_counted(artifact, known, score_BM)}"
        )
    sat = known.select(np.isfinite(score_BM[:, measured]).any(1))
    prediction, task_BT = ArtifactPredictor(artifact).predict_with_tasks(sat.conversations(), advance)
    return _Own(prediction, task_BT, sat.matrix("score", artifact.models), measured), sat


def _counted(artifact: Artifact, known: OutcomesDataset, score_BM: np.ndarray) -> str:
    """Which models it found in a dataset, with their prompts, and which there it does not know."""
    counts = dict(zip(artifact.models, np.isfinite(score_BM).sum(0).tolist(), strict=True))
    found = [f"{model} has {count}" for model, count in counts.items() if count]
    strangers = [model for model in known.models if model not in counts]
    unknown = [f"it does not know {', '.join(strangers)}"] if strangers else []
    return "; ".join([", ".join(found) or "none has any", *unknown])


def _lenient(artifact: Artifact, sat: OutcomesDataset) -> HeadSettings:
    """With thresholds of the alarm that leave one's own prompts in peace."""
    predictor, settings, conversations = ArtifactPredictor(artifact), artifact.settings, sat.conversations()
    full = float(np.quantile(predictor.alarms("full", conversations), 1 - FALSE_ALARMS))
    settings = replace(settings, alarm_full=max(settings.alarm_full, full))
    if len(settings.speeds) == 1:
        return settings
    static = float(np.quantile(predictor.alarms("static", conversations), 1 - FALSE_ALARMS))
    return replace(settings, alarm_static=max(settings.alarm_static, static))


def _measured(adapted: Artifact, correction: Correction, own: _Own, sat: OutcomesDataset) -> HeadSettings:
    """With how far a glance is from a reading now: a correction that stretches one apart stretches both."""
    if "static" not in adapted.settings.speeds:
        return adapted.settings
    glanced_BM = ArtifactPredictor(adapted, glances_only=True).glance(sat.conversations()).quality
    error = static_error(glanced_BM, correction.quality(own.prediction.quality, own.task_BT), own.score_BM)
    return replace(adapted.settings, static_error=error) if error else adapted.settings


def _extended(
    artifact: Artifact, correction: Correction, own: _Own, known: Graded, cross_fitted: np.ndarray, pool: str
) -> Calibration:
    rows = artifact.calibration
    both = {
        "quality": (correction.quality(rows.quality, rows.kind), cross_fitted),
        "score": (rows.score, known.score),
        "output_tokens": (rows.output_tokens, own.prediction.output_tokens),
        "real_output_tokens": (rows.real_output_tokens, known.output_tokens),
        "input_tokens": (rows.input_tokens, known.input_tokens),
        "kind": (rows.kind, own.task_BT),
    }
    return Calibration(
        **{name: np.concatenate(parts).astype(np.float32) for name, parts in both.items()},
        dataset=np.concatenate([rows.dataset, np.full(len(own.score_BM), len(rows.datasets), np.int32)]),
        datasets=(*rows.datasets, f"own prompts of {pool}"),
    )


def _verdict(artifact: Artifact, own: _Own, after_BM: np.ndarray) -> Verdict:
    score_BS, before_BS, after_BS = (part[:, own.measured] for part in (own.score_BM, own.prediction.quality, after_BM))
    wrong = [np.nanmean((quality_BS - score_BS) ** 2, axis=1) for quality_BS in (before_BS, after_BS)]
    chosen = [_score_of_choice(quality_BS, score_BS) for quality_BS in (before_BS, after_BS)]
    brier_gain, quality_gain = _interval(wrong[0] - wrong[1]), _interval(chosen[1] - chosen[0])
    # Means over different prompts would compare the prompts.
    shared_BS = score_BS[np.isfinite(score_BS).all(axis=1)]
    return Verdict(
        prompts=len(score_BS),
        models=tuple(artifact.models[column] for column in own.measured),
        brier_before=float(wrong[0].mean()),
        brier_after=float(wrong[1].mean()),
        brier_gain_interval=brier_gain,
        quality_before=float(chosen[0].mean()),
        quality_after=float(chosen[1].mean()),
        quality_gain_interval=quality_gain,
        best_single=float(shared_BS.mean(axis=0).max()) if len(shared_BS) >= LEAST_PROMPTS else None,
        best_single_prompts=len(shared_BS),
        unfamiliar_before=float(own.prediction.unfamiliar.mean()),
        helps=brier_gain[0] > 0 and quality_gain[1] >= 0,
    )


def _score_of_choice(quality_BS: np.ndarray, score_BS: np.ndarray) -> np.ndarray:
    """Score of the best predicted model among those with an outcome [B]."""
    column_B = np.where(np.isfinite(score_BS), quality_BS, -np.inf).argmax(1)
    chosen_B: np.ndarray = score_BS[np.arange(len(score_BS)), column_B]
    return chosen_B


def _interval(gain_B: np.ndarray) -> tuple[float, float]:
    half = Z_90 * float(gain_B.std(ddof=1)) / np.sqrt(len(gain_B))
    return float(gain_B.mean() - half), float(gain_B.mean() + half)
