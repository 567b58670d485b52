"""An artifact adapted to somebody's own prompts: what its heads predict is corrected, its encoders stay. NumPy only.

How it works: on the logit scale, a model's quality becomes

    offset_m + common * mean + own * (logit_m - mean) + what the kind of the prompt adds for this model,

where `mean` is over the models that were measured. The first three correct what is wrong on these prompts as a whole;
the last is learned per model and task, pulled towards 0 (ridge regression by Laplace's approximation). A few hundred
prompts are enough for that, and far too few for heads of their own.

A model's length is multiplied by a factor of its own, which depends on the kind of the prompt: ridge regression of what
the logs missed, around what all models missed together, and then scaled so that the mean is right.

A question that several prompts ask counts once, with the means of what was answered: what is asked often would else
be told by its own repetitions. What two callers were answered, each by another model, still compares nothing.

Whether it helps is told by prompts held back: each fifth is predicted by what the other four say. Adaptation is kept
where the Brier score falls by more than chance explains, and choosing by it is not worse than before by more than that;
of lengths, where their deviance falls by more than chance explains. Each part is kept or left for itself.

Qualities are learned and judged only from prompts that two models or more have scores on. A prompt that one model
answered leaves nothing to choose from, and its score may be as much its caller's as the model's: where one model has
kind callers and another one strict ones, predictions of their scores get better and choices worse.

Legend of array suffixes: B prompts, M all models of the artifact, S those measured or compared, T tasks, A coordinates
of a fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from router_models.adapting.verdict import LEAST_MODELS, LEAST_PROMPTS, LengthVerdict, QualityVerdict, Verdict
from router_models.heads.correction import Correction, Stretch, is_adapted
from router_models.heads.joined import USUAL_DEVIATION
from router_models.heads.odds import logit
from router_models.heads.population import laplace
from router_models.heads.static_error import static_error
from router_models.heads.tryage import HeadSettings
from router_models.joining.exam import Graded, without_exam
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError
from router_models.outcomes.questions import one_per_question, without_lone_scores
from router_models.outcomes.splits import split_names
from router_models.prediction import Z_90, Prediction
from router_models.predictor import ArtifactPredictor
from router_models.storage.artifact import Artifact
from router_models.storage.calibration import Calibration

FOLDS = 5
# Deviations that are expected before anything is seen: of the slopes (from 1), a model's offset, and what one task adds
# for one model. In logits.
SLOPE_DEVIATION, OFFSET_DEVIATION, KIND_DEVIATION = 0.5, 1.0, 0.5
# In logs: of a factor of lengths, as own prompts may be answered in a word or two, and of what one task adds to it.
LENGTH_DEVIATION, LENGTH_KIND_DEVIATION = 2.0, 0.5
# Of one's own prompts, at most so many are to be taken for unlike all that is known.
FALSE_ALARMS = 0.0025


@dataclass(frozen=True)
class _Own:
    """Somebody's own prompts as an artifact reads them, one for each question."""

    prediction: Prediction
    task_BT: np.ndarray
    score_BM: np.ndarray
    tokens_BM: np.ndarray
    """Of the answers; NaN where that is not known."""
    measured: np.ndarray
    """Columns with scores."""
    compared: np.ndarray
    """Columns with enough scores beside those of another one of them; without any, qualities cannot be adapted."""
    splits: tuple[str, ...]
    """Of their dataset, those that any of them is of."""

    def fit(self, rows: np.ndarray) -> Correction:
        """The correction that the scores on these prompts suggest."""
        rows = rows[_leaves_choice(self.score_BM[rows][:, self.compared])]
        measured_M = np.zeros(self.score_BM.shape[1])
        measured_M[self.compared] = 1
        logit_BS = logit(self.prediction.quality[rows][:, self.compared])
        score_BS, task_BT = self.score_BM[rows][:, self.compared], self.task_BT[rows]
        mean_B1 = logit_BS.mean(1, keepdims=True)
        shared_3 = _shared(mean_B1, logit_BS - mean_B1, score_BS)
        latent_BS = shared_3[0] + shared_3[1] * mean_B1 + shared_3[2] * (logit_BS - mean_B1)
        offset_M, kind_TM = np.zeros(len(measured_M)), np.zeros((task_BT.shape[1], len(measured_M)))
        offset_M[:] = shared_3[0]
        for place, column in enumerate(self.compared):
            known_B = np.isfinite(score_BS[:, place])
            added = _own_terms(task_BT[known_B], score_BS[known_B, place], latent_BS[known_B, place])
            offset_M[column] += added[0]
            kind_TM[:, column] = added[1:]
        return Correction(offset_M, kind_TM, shared_3[1:], measured_M)

    def stretch(self, rows: np.ndarray) -> Stretch:
        """The factors that the lengths of the answers to these prompts suggest; at least one is known."""
        design_BA = np.column_stack([np.ones(len(rows)), self.task_BT[rows]])
        missed_BS = self.missed()[rows]
        known_BS = np.isfinite(missed_BS)
        shared_A = _ridge(design_BA[np.nonzero(known_BS)[0]], missed_BS[known_BS])
        rest_BS = missed_BS - (design_BA @ shared_A)[:, None]
        factor_AM = np.repeat(_scaled(shared_A, rest_BS[known_BS])[:, None], self.score_BM.shape[1], axis=1)
        for place, column in enumerate(self.measured):
            known_B = known_BS[:, place]
            if known_B.any():
                own_A = _ridge(design_BA[known_B], rest_BS[known_B, place])
                left_B = rest_BS[known_B, place] - design_BA[known_B] @ own_A
                factor_AM[:, column] = _scaled(shared_A + own_A, left_B)
        return Stretch(factor_AM[0], factor_AM[1:])

    def missed(self) -> np.ndarray:
        """By how much the logs of predicted lengths were too small [B, S]; NaN where a length is not known."""
        real_BS, told_BS = (part[:, self.measured] for part in (self.tokens_BM, self.prediction.output_tokens))
        missed_BS: np.ndarray = np.log(np.maximum(real_BS, 1)) - np.log(np.maximum(told_BS, 1))
        return missed_BS


def _ridge(design_XA: np.ndarray, missed_X: np.ndarray) -> np.ndarray:
    """Coordinates of what was missed, pulled towards 0."""
    deviation_A = np.r_[LENGTH_DEVIATION, np.full(design_XA.shape[1] - 1, LENGTH_KIND_DEVIATION)]
    precision_AA = design_XA.T @ design_XA + np.diag((USUAL_DEVIATION / deviation_A) ** 2)
    found_A: np.ndarray = np.linalg.solve(precision_AA, design_XA.T @ missed_X)
    return found_A


def _scaled(factor_A: np.ndarray, left_X: np.ndarray) -> np.ndarray:
    """With the mean of lengths right, not that of their logs (Duan 1983)."""
    scaled_A = factor_A.copy()
    scaled_A[0] += np.log(np.exp(left_X).mean())
    return scaled_A


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

    It has what helps. Where nothing does, it has the correction of qualities, for whoever wants to see it; if any.
    Its calibration rows are corrected as its predictions are, and the dataset's prompts join them, each predicted by
    what the other folds say. `advance` is called after each prompt.

    Raises:
        OutcomesError: it was adapted before, knows too few of the models, or there are too few prompts.
    """
    own, sat = _read(artifact, dataset, advance)
    held_back = _held_back(own, seed)
    verdict = _verdict(artifact, own, held_back)
    every = np.arange(len(own.score_BM))
    correction = own.fit(every) if verdict.helps or (verdict.qualities and not verdict.is_kept) else None
    stretch = own.stretch(every) if verdict.lengths and verdict.lengths.helps else None
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


class _HeldBack(NamedTuple):
    """Own prompts, each predicted by what the others say [B, M]."""

    quality: np.ndarray
    output_tokens: np.ndarray
    has_lengths: bool
    """Whether enough lengths are known to say anything of them."""


def _held_back(own: _Own, seed: int) -> _HeldBack:
    quality_BM, tokens_BM = own.prediction.quality.copy(), own.prediction.output_tokens.copy()
    has_lengths = int(np.isfinite(own.missed()).any(1).sum()) >= LEAST_PROMPTS
    for part in np.array_split(np.random.default_rng(seed).permutation(len(quality_BM)), FOLDS):
        there, task_BT = np.setdiff1d(np.arange(len(quality_BM)), part), own.task_BT[part]
        if len(own.compared):
            quality_BM[part] = own.fit(there).quality(quality_BM[part], task_BT)
        if has_lengths:
            tokens_BM[part] = own.stretch(there).tokens(tokens_BM[part], task_BT)
    return _HeldBack(quality_BM, tokens_BM, has_lengths)


def _read(artifact: Artifact, dataset: OutcomesDataset, advance: Callable[[], object]) -> tuple[_Own, OutcomesDataset]:
    if is_adapted(artifact.heads):
        raise OutcomesError(f"{artifact.name} was adapted before; start from {artifact.about['adapted']['from']}")
    every = dataset.renamed(artifact.aliases)
    known = one_per_question(every)
    score_BM = known.matrix("score", artifact.models)
    measured = np.flatnonzero(np.isfinite(score_BM).sum(0) >= LEAST_PROMPTS)
    if len(measured) < LEAST_MODELS:
        raise OutcomesError(
            f"at least {LEAST_MODELS} of {artifact.name}'s models need scores on {LEAST_PROMPTS} different prompts "
            f"each; {_counted(artifact, known, score_BM)}"
        )
    # The same prompts: it is only scores that go.
    compared = one_per_question(without_lone_scores(every, artifact.models))
    sat = compared.select(np.isfinite(score_BM[:, measured]).any(1))
    prediction, task_BT = ArtifactPredictor(artifact).predict_with_tasks(sat.conversations(), advance)
    score_BM, tokens_BM = (sat.matrix(column, artifact.models) for column in ("score", "output_tokens"))
    splits = _splits(every, artifact, measured)
    return _Own(prediction, task_BT, score_BM, tokens_BM, measured, _compared(score_BM, measured), splits), sat


def _compared(score_BM: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Of the measured columns, those with enough scores on prompts that another one of them has a score on."""
    known_BS = np.isfinite(score_BM[:, measured])
    enough_S = known_BS[_leaves_choice(score_BM[:, measured])].sum(0) >= LEAST_PROMPTS
    return measured if enough_S.all() else _compared(score_BM, measured[enough_S])


def _leaves_choice(score_BS: np.ndarray) -> np.ndarray:
    """Whether two models or more have a score on a prompt [B]."""
    several_B: np.ndarray = np.isfinite(score_BS).sum(1) >= LEAST_MODELS
    return several_B


def _splits(every: OutcomesDataset, artifact: Artifact, measured: np.ndarray) -> tuple[str, ...]:
    """Those of all prompts with a score of a measured model, also of the ones that ask what another one asks."""
    score_BS = every.matrix("score", [artifact.models[column] for column in measured])
    return tuple(split_names(every.select(np.isfinite(score_BS).any(1))))


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


def _measured(adapted: Artifact, added: _Added, own: _Own, sat: OutcomesDataset) -> HeadSettings:
    """With how far a glance is from a reading now: a correction that stretches one apart stretches both."""
    if "static" not in adapted.settings.speeds:
        return adapted.settings
    glanced_BM = ArtifactPredictor(adapted, glances_only=True).glance(sat.conversations()).quality
    error = static_error(glanced_BM, added.quality(own.prediction.quality, own.task_BT), own.score_BM)
    return replace(adapted.settings, static_error=error) if error else adapted.settings


def _extended(
    artifact: Artifact, added: _Added, own: _Own, known: Graded, held_back: _HeldBack, pool: str
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


def _verdict(artifact: Artifact, own: _Own, held_back: _HeldBack) -> Verdict:
    return Verdict(
        prompts=len(own.score_BM),
        models=_names(artifact, own.measured),
        with_choice=int(_leaves_choice(own.score_BM[:, own.measured]).sum()),
        unfamiliar_before=float(own.prediction.unfamiliar.mean()),
        qualities=_quality_verdict(artifact, own, held_back.quality) if len(own.compared) else None,
        lengths=_length_verdict(own, held_back.output_tokens) if held_back.has_lengths else None,
    )


def _names(artifact: Artifact, columns: np.ndarray) -> tuple[str, ...]:
    return tuple(artifact.models[column] for column in columns)


def _quality_verdict(artifact: Artifact, own: _Own, after_BM: np.ndarray) -> QualityVerdict:
    choosing_B = _leaves_choice(own.score_BM[:, own.compared])
    score_BS, before_BS, after_BS = (
        part[choosing_B][:, own.compared] for part in (own.score_BM, own.prediction.quality, after_BM)
    )
    wrong = [np.nanmean((quality_BS - score_BS) ** 2, axis=1) for quality_BS in (before_BS, after_BS)]
    chosen = [_score_of_choice(quality_BS, score_BS) for quality_BS in (before_BS, after_BS)]
    brier_gain, quality_gain = _interval(wrong[0] - wrong[1]), _interval(chosen[1] - chosen[0])
    # Means over different prompts would compare the prompts.
    shared_BS = score_BS[np.isfinite(score_BS).all(axis=1)]
    return QualityVerdict(
        prompts=len(score_BS),
        models=_names(artifact, own.compared),
        brier_before=float(wrong[0].mean()),
        brier_after=float(wrong[1].mean()),
        brier_gain_interval=brier_gain,
        quality_before=float(chosen[0].mean()),
        quality_after=float(chosen[1].mean()),
        quality_gain_interval=quality_gain,
        best_single=float(shared_BS.mean(axis=0).max()) if len(shared_BS) >= LEAST_PROMPTS else None,
        best_single_prompts=len(shared_BS),
        helps=brier_gain[0] > 0 and quality_gain[1] >= 0,
    )


def _length_verdict(own: _Own, after_BM: np.ndarray) -> LengthVerdict:
    known_BS = np.isfinite(own.missed())
    answered_B = known_BS.any(1)
    real_BS, before_BS, after_BS = (
        np.where(known_BS, np.maximum(part[:, own.measured], 1), np.nan)[answered_B]
        for part in (own.tokens_BM, own.prediction.output_tokens, after_BM)
    )
    ratios = [real_BS / told_BS for told_BS in (before_BS, after_BS)]
    deviances = [np.nanmean(2 * (ratio_BS - 1 - np.log(ratio_BS)), axis=1) for ratio_BS in ratios]
    gain = _interval(deviances[0] - deviances[1])
    real, before, after = (float(np.nanmean(part)) for part in (real_BS, before_BS, after_BS))
    return LengthVerdict(int(answered_B.sum()), real, before, after, gain, helps=gain[0] > 0)


def _score_of_choice(quality_BS: np.ndarray, score_BS: np.ndarray) -> np.ndarray:
    """Score of the best predicted model among those with an outcome [B]."""
    column_B = np.where(np.isfinite(score_BS), quality_BS, -np.inf).argmax(1)
    chosen_B: np.ndarray = score_BS[np.arange(len(score_BS)), column_B]
    return chosen_B


def _interval(gain_B: np.ndarray) -> tuple[float, float]:
    half = Z_90 * float(gain_B.std(ddof=1)) / np.sqrt(len(gain_B))
    return float(gain_B.mean() - half), float(gain_B.mean() + half)
