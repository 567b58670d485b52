"""Models join an artifact by what they scored on some prompts: a new artifact with a column for each.

How it works: each new model is described by the prompts of an exam that it answered (`router_models.joining.exam`);
nothing that the artifact knew changes.

The prompts of the exam become calibration rows, with what descriptions from the other four fifths of the exam say of
each: from them follow weights on cost that keep a promised quality, and what `check` expects of a catalogue. Scores of
known models stand beside them unless the heads learned from these prompts, of which they would say too much.

Legend of array suffixes: K prompts of the exam, N calibration rows, J new models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from router_models.heads.joined import Joined, Lengths, usual_log_lengths
from router_models.heads.newcomer import Newcomer
from router_models.heads.odds import logit
from router_models.joining.exam import Exam, Questions, without_exam
from router_models.outcomes.questions import folds_by_question
from router_models.storage.artifact import Artifact
from router_models.storage.calibration import Calibration

FOLDS = 5


@dataclass(frozen=True)
class Report:
    """What an exam showed of one model."""

    model: str
    prompts: int
    """Graded."""
    mean_score: float
    expected_quality: float
    """Mean over the artifact's calibration prompts."""
    expected_quality_interval: tuple[float, float]
    """90 %, of that mean: what more graded prompts would narrow."""
    is_informative: bool
    """Whether descriptions from parts of the exam predicted the rest better than what is usual among old models."""
    alike: tuple[str, ...]
    """Known models that are predicted to do most alike, the nearest first."""
    has_lengths: bool
    """Whether lengths of its answers are predicted; without them nothing is known of its cost."""

    def as_json(self) -> Mapping[str, Any]:
        return asdict(self)


def onboard(
    artifact: Artifact,
    models: Sequence[str],
    exam: Exam,
    name: str,
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Artifact, list[Report]]:
    """The artifact under another name with these models behind the old ones; `advance` is called after each prompt."""
    sitting = _Sitting(artifact, exam, advance)
    found = [sitting.join(number, seed) for number in range(len(models))]
    newcomers, lengths = ([getattr(each, part) for each in found] for part in ("newcomer", "lengths"))
    before = Joined.of(artifact.heads) or Joined((), ())
    about = {
        "joined": [
            *artifact.about.get("joined", ()),
            *(
                {"model": model, "exam": exam.name, "prompts": len(exam), "seed": seed, "splits": list(exam.splits)}
                for model in models
            ),
        ]
    }
    extended = replace(
        artifact,
        name=name,
        models=(*artifact.models, *models),
        heads={**artifact.heads, **before.and_then(newcomers, lengths).tensors()},
        calibration=_extended(artifact, sitting, exam, found),
        about={**without_exam(artifact), **about},
        fingerprint="",
    )
    return extended, [sitting.report(model, number, found[number]) for number, model in enumerate(models)]


@dataclass(frozen=True)
class _Found:
    """One new model."""

    newcomer: Newcomer
    lengths: Lengths
    quality_K: np.ndarray
    """On each prompt of the exam, by a description from the other parts of what it was asked."""


class _Sitting(Questions):
    """One exam that was graded."""

    def __init__(self, artifact: Artifact, exam: Exam, advance: Callable[[], object]) -> None:
        super().__init__(artifact, exam.conversations, exam.old_score_KM, exam.part_K, advance)
        self._new, self._question_K = exam.new, exam.question_K

    def join(self, number: int, seed: int) -> _Found:
        score_K = self._new.score[:, number]
        newcomer, asked = self.described(score_K), np.flatnonzero(np.isfinite(score_K))
        quality_K = self.quality(newcomer)
        for fold in folds_by_question(self._question_K[asked], FOLDS, seed):
            part = asked[fold]
            quality_K[part] = self.quality(self.described(score_K, np.setdiff1d(asked, part)))[part]
        return _Found(newcomer, Lengths.of(self._new.output_tokens[:, number], self.usual_log_K), quality_K)

    def report(self, model: str, number: int, found: _Found) -> Report:
        score_K = self._new.score[:, number]
        mean, interval = self.expected_quality(found.newcomer)
        gain = np.nansum((self.usual_quality - score_K) ** 2 - (found.quality_K - score_K) ** 2)
        return Report(
            model=model,
            prompts=int(np.isfinite(score_K).sum()),
            mean_score=float(np.nanmean(score_K)),
            expected_quality=mean,
            expected_quality_interval=interval,
            is_informative=bool(gain > 0),
            alike=self.alike(found.newcomer),
            has_lengths=bool(np.isfinite(found.lengths.offset)),
        )


def _extended(artifact: Artifact, sitting: _Sitting, exam: Exam, found: Sequence[_Found]) -> Calibration:
    """The calibration rows with the new columns, and the exam's prompts behind them."""
    rows, old = artifact.calibration, len(artifact.trained_models)
    joined = Joined([each.newcomer for each in found], [each.lengths for each in found])
    quality_NJ, _ = joined.quality(logit(rows.quality[:, :old]), rows.kind)
    tokens_NJ, tokens_KJ = (
        joined.tokens(usual_log_lengths(tokens[:, :old]))[0]
        for tokens in (rows.output_tokens, sitting.prediction.output_tokens)
    )
    cross_fitted_KJ = np.stack([each.quality_K for each in found], axis=1)
    unknown_NJ, known = np.full(quality_NJ.shape, np.nan), exam.known.where(~exam.is_learned_K[:, None])
    above_and_below = {
        "quality": (rows.quality, quality_NJ, sitting.prediction.quality, cross_fitted_KJ),
        "score": (rows.score, unknown_NJ, known.score, exam.new.score),
        "output_tokens": (rows.output_tokens, tokens_NJ, sitting.prediction.output_tokens, tokens_KJ),
        "real_output_tokens": (rows.real_output_tokens, unknown_NJ, known.output_tokens, exam.new.output_tokens),
        "input_tokens": (rows.input_tokens, unknown_NJ, known.input_tokens, exam.new.input_tokens),
    }
    columns = {
        name: np.block([[above, above_new], [below, below_new]]).astype(np.float32)
        for name, (above, above_new, below, below_new) in above_and_below.items()
    }
    return Calibration(
        **columns,
        dataset=np.concatenate([rows.dataset, np.full(len(exam), len(rows.datasets), np.int32)]),
        datasets=(*rows.datasets, exam.name),
        kind=np.concatenate([rows.kind, sitting.kind_KT]).astype(np.float32),
    )
