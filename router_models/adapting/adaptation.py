"""An artifact adapted to somebody's own prompts: what its heads predict is corrected, its encoders stay. NumPy only.

How it works: `own_prompts` says what is learned from, `fits` how, and `judging` whether it helped. What helped is added
to the heads; the rows of calibration are corrected as predictions are, and own prompts join them. The alarm is made
lenient enough to leave these prompts in peace, and how far a glance is from a reading is measured anew.

Legend of array suffixes: B prompts, M all models of the artifact, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from router_models.adapting.fits import fit_correction, fit_stretch
from router_models.adapting.judging import HeldBack, judge, predict_held_back
from router_models.adapting.own_prompts import OwnPrompts, read_own
from router_models.adapting.verdict import Verdict
from router_models.heads.correction import Correction, Stretch
from router_models.heads.static_error import static_error
from router_models.heads.tryage import HeadSettings
from router_models.joining.exam import Graded, without_exam
from router_models.outcomes.dataset import OutcomesDataset
from router_models.predictor import ArtifactPredictor
from router_models.storage.artifact import Artifact
from router_models.storage.calibration import Calibration

# Of one's own prompts, at most so many are to be taken for unlike all that is known.
FALSE_ALARMS = 0.0025


def adapt(
    artifact: Artifact,
    dataset: OutcomesDataset,
    pool: str,
    name: str,
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Artifact, Verdict]:
    """The artifact under another name, adapted to the prompts of a dataset; and whether that helped.

    It has what helps. Where nothing does, it has the correction of qualities, for whoever wants to see it; if any.
    Its calibration rows are corrected as its predictions are, and the dataset's prompts join them, each predicted by
    what the other folds say. `advance` is called after each prompt.

    Raises:
        OutcomesError: it was adapted before, knows too few of the models, or there are too few prompts.
    """
    own, sat = read_own(artifact, dataset, advance)
    held_back = predict_held_back(own, seed)
    verdict = judge(artifact, own, held_back)
    every = np.arange(len(own.score_BM))
    correction = fit_correction(own, every) if verdict.helps or (verdict.qualities and not verdict.is_kept) else None
    stretch = fit_stretch(own, every) if verdict.lengths and verdict.lengths.helps else None
    added = _Added(correction, stretch)
    adapted = replace(
        artifact,
        name=name,
        heads={**artifact.heads, **added.tensors()},
        settings=_lenient(artifact, sat),
        calibration=_extended(artifact, added, own, Graded.of(sat, artifact.models), held_back, pool),
        about={
            **without_exam(artifact),
            "adapted": {
                "from": artifact.name,
                "to": pool,
                "prompts": len(own.score_BM),
                "splits": list(own.splits),
            },
        },
        fingerprint="",
    )
    adapted = replace(adapted, settings=_measured(adapted, added, own, sat))
    return adapted, verdict


class _Added(NamedTuple):
    """What an adapted artifact has more; nothing where that did not help."""

    correction: Correction | None
    stretch: Stretch | None

    def tensors(self) -> dict[str, np.ndarray]:
        return {name: tensor for part in self if part is not None for name, tensor in part.tensors().items()}

    def quality(self, quality_BM: np.ndarray, task_BT: np.ndarray) -> np.ndarray:
        return quality_BM if self.correction is None else self.correction.quality(quality_BM, task_BT)

    def tokens(self, tokens_BM: np.ndarray, task_BT: np.ndarray) -> np.ndarray:
        return tokens_BM if self.stretch is None else self.stretch.tokens(tokens_BM, task_BT)


def _lenient(artifact: Artifact, sat: OutcomesDataset) -> HeadSettings:
    """With thresholds of the alarm that leave one's own prompts in peace."""
    predictor, settings, conversations = ArtifactPredictor(artifact), artifact.settings, sat.conversations()
    full = float(np.quantile(predictor.alarms("full", conversations), 1 - FALSE_ALARMS))
    settings = replace(settings, alarm_full=max(settings.alarm_full, full))
    if len(settings.speeds) == 1:
        return settings
    static = float(np.quantile(predictor.alarms("static", conversations), 1 - FALSE_ALARMS))
    return replace(settings, alarm_static=max(settings.alarm_static, static))


def _measured(adapted: Artifact, added: _Added, own: OwnPrompts, sat: OutcomesDataset) -> HeadSettings:
    """With how far a glance is from a reading now: a correction that stretches one apart stretches both."""
    if "static" not in adapted.settings.speeds:
        return adapted.settings
    glanced_BM = ArtifactPredictor(adapted, glances_only=True).glance(sat.conversations()).quality
    error = static_error(glanced_BM, added.quality(own.prediction.quality, own.task_BT), own.score_BM)
    return replace(adapted.settings, static_error=error) if error else adapted.settings


def _extended(
    artifact: Artifact, added: _Added, own: OwnPrompts, known: Graded, held_back: HeldBack, pool: str
) -> Calibration:
    rows = artifact.calibration
    own_quality_BM = own.prediction.quality if added.correction is None else held_back.quality
    own_tokens_BM = own.prediction.output_tokens if added.stretch is None else held_back.output_tokens
    both = {
        "quality": (added.quality(rows.quality, rows.kind), own_quality_BM),
        "score": (rows.score, known.score),
        "output_tokens": (added.tokens(rows.output_tokens, rows.kind), own_tokens_BM),
        "real_output_tokens": (rows.real_output_tokens, known.output_tokens),
        "input_tokens": (rows.input_tokens, known.input_tokens),
        "kind": (rows.kind, own.task_BT),
    }
    return Calibration(
        **{name: np.concatenate(parts).astype(np.float32) for name, parts in both.items()},
        dataset=np.concatenate([rows.dataset, np.full(len(own.score_BM), len(rows.datasets), np.int32)]),
        datasets=(*rows.datasets, f"own prompts of {pool}"),
    )
