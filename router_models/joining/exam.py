"""An exam: prompts on which models were graded that are to join an artifact, and what is read off their scores.

How it works: the old models' calibration rows make the population (`router_models.heads.population`); what a model
scored on some of the prompts describes it in terms of the old models' predictions (`router_models.heads.newcomer`).
Models that sit the same exam together are compared with each other on the prompts that they share.

Legend of array suffixes: B prompts of a dataset, K prompts of the exam, N calibration rows, M old models, J new ones, Q
questions that they ask, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from router_models.heads.correction import is_adapted
from router_models.heads.joined import usual_log_lengths
from router_models.heads.newcomer import ExamParts, Newcomer, fit_newcomer, population
from router_models.heads.odds import logit
from router_models.heads.population import Population, Rows
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError
from router_models.outcomes.questions import one_per_number, question_numbers, told_apart
from router_models.outcomes.splits import split_names
from router_models.prediction import Z_90
from router_models.predictor import ArtifactPredictor
from router_models.reading.conversation import Conversation
from router_models.storage.artifact import Artifact

# With fewer graded prompts than this a column says little more than what is usual.
LEAST_SHOTS = 10
LEAST_OLD = 2
ALIKE = 3
LIVE_EXAM = "live_exam"
"""Under which name an artifact says from which other one its live exam began, and how."""
EXAM_ON = "exam on "


@dataclass(frozen=True)
class Graded:
    """What some models scored on the prompts of an exam, a column each; NaN is missing or was not asked."""

    score: np.ndarray
    output_tokens: np.ndarray
    input_tokens: np.ndarray

    @classmethod
    def of(cls, dataset: OutcomesDataset, models: Sequence[str]) -> Graded:
        return cls(*(dataset.matrix(each.name, models) for each in fields(cls)))

    def where(self, kept: np.ndarray) -> Graded:
        """With nothing known of the others; `kept` is [K, 1], or of each model [K, M]."""
        return Graded(*(np.where(kept, getattr(self, each.name), np.nan) for each in fields(Graded)))


@dataclass(frozen=True)
class Exam:
    """What new models were graded on."""

    name: str
    prompt_ids: tuple[str, ...]
    conversations: list[Conversation]
    new: Graded
    known: Graded
    """The artifact's models on the same prompts."""
    old_score_KM: np.ndarray
    """Of the models it was trained on, as far as they are known: it tells a hard question from a weak model."""
    is_learned_K: np.ndarray
    """Whether its heads learned from the prompt."""
    part_K: np.ndarray
    """Which part of the exam it is of: anchors of each set were chosen in their own way."""
    question_K: np.ndarray
    """Equal numbers ask the same question."""
    splits: tuple[str, ...] = ()
    """Of its dataset, those that its prompts are of; none where it has no splits."""

    def __len__(self) -> int:
        return len(self.conversations)


def exam_of(
    artifact: Artifact, models: Sequence[str], name: str, dataset: OutcomesDataset, shots: int | None, seed: int
) -> Exam:
    """The questions of a dataset on which any of the new models has a score; of each `shots`, drawn at random.

    One that several prompts ask counts once, with the means of what was answered. What different callers said of
    different models is not put side by side: such a question counts once for each model.

    Raises:
        OutcomesError: a model is known already or has no outcomes, there are too few prompts, or the artifact has too
            few models or calibration rows to describe another.
    """
    _check(artifact, models, name, dataset)
    told, number_B = told_apart(dataset.renamed(artifact.aliases), (*artifact.models, *models))
    once = one_per_number(told, number_B)
    asked_QJ = _asked(once, models, name, shots, seed)
    kept_Q = asked_QJ.sum(1) > 0
    asking = dataset.select(kept_Q[number_B])
    exam = _exam(artifact, models, name, once.select(kept_Q))
    return replace(exam, new=exam.new.where(asked_QJ[kept_Q]), splits=tuple(split_names(asking)))


def _asked(once: OutcomesDataset, models: Sequence[str], name: str, shots: int | None, seed: int) -> np.ndarray:
    """Which graded answers count [Q, J]: all, or of each model the first `shots` in one random order of the questions.

    So models share questions where they can.
    """
    graded_QJ: np.ndarray = np.isfinite(once.matrix("score", models))
    if shots is None:
        return graded_QJ
    count, fewest = min(zip(graded_QJ.sum(0).tolist(), models, strict=True))
    if count < shots:
        raise OutcomesError(f"{name} has {count} different prompts on which {fewest} was graded, not {shots}")
    order = np.random.default_rng(seed).permutation(np.flatnonzero(graded_QJ.any(1)))
    asked_QJ = np.zeros_like(graded_QJ)
    asked_QJ[order] = graded_QJ[order] & (graded_QJ[order].cumsum(0) <= shots)
    return asked_QJ


def sat_exam(artifact: Artifact, models: Sequence[str], name: str, dataset: OutcomesDataset) -> Exam:
    """All prompts of a dataset on which any of the new models has a score: each sat as much of one exam as it took.

    Raises:
        OutcomesError: as `exam_of` does.
    """
    _check(artifact, models, name, dataset)
    return _exam(artifact, models, name, dataset.select(np.isfinite(dataset.matrix("score", models)).any(1)))


def _exam(artifact: Artifact, models: Sequence[str], name: str, sat: OutcomesDataset) -> Exam:
    new = Graded.of(sat, models)
    count, fewest = min(zip(np.isfinite(new.score).sum(0).tolist(), models, strict=True))
    if count < LEAST_SHOTS:
        raise OutcomesError(f"{count} graded prompts are too few; at least {LEAST_SHOTS} are needed of {fewest}")
    known = Graded.of(sat.renamed(artifact.aliases), artifact.models)
    anchor_K = _anchors_among(artifact, sat)
    return Exam(
        name=exam_name(name),
        prompt_ids=tuple(sat.prompts["prompt_id"].to_pylist()),
        conversations=sat.conversations(),
        new=new,
        known=known,
        old_score_KM=_old_scores(artifact, known, anchor_K),
        is_learned_K=np.array([name in artifact.pools or anchor is not None for anchor in anchor_K]),
        part_K=parts_of(anchor_K),
        question_K=question_numbers(sat),
        splits=tuple(split_names(sat)),
    )


def _check(artifact: Artifact, models: Sequence[str], name: str, dataset: OutcomesDataset) -> None:
    if len(artifact.trained_models) < LEAST_OLD or not len(artifact.calibration.dataset):
        raise OutcomesError(
            f"{artifact.name} cannot describe another model: that takes {LEAST_OLD} models that it was trained on, and "
            "calibration rows"
        )
    refuse_adapted(artifact)
    refuse_second_exam(artifact, name)
    for model in models:
        if model in artifact.models or model in artifact.aliases:
            raise OutcomesError(f"{artifact.name} predicts {model} already; a column is not replaced")
        if models.count(model) > 1:
            raise OutcomesError(f"{model} is named twice")
        if model not in dataset.models:
            raise OutcomesError(f"{name} has no outcome of {model}; it has {', '.join(dataset.models)}")


def refuse_adapted(artifact: Artifact) -> None:
    """Raise OutcomesError where no model can join because an adaptation would have to be made anew."""
    if is_adapted(artifact.heads):
        raise OutcomesError(f"{artifact.name} was adapted to own prompts; let models join first, and adapt then")


def refuse_second_exam(artifact: Artifact, name: str) -> None:
    """Raise OutcomesError where models joined by this exam already: what a second one shows would stand apart."""
    if exam_name(name) in artifact.calibration.datasets:
        raise OutcomesError(
            f"{artifact.name} has an exam on {name} already; let all its models join at once, from the artifact before"
        )


def without_exam(artifact: Artifact) -> dict[str, Any]:
    """What is said about an artifact, for one made from it: where its live exam began is true of itself alone."""
    return {name: value for name, value in artifact.about.items() if name != LIVE_EXAM}


def exam_name(dataset: str) -> str:
    """What the exam on a dataset is called."""
    return EXAM_ON + dataset


def exam_dataset(exam: str) -> str:
    """The dataset that an exam of this name is on."""
    return exam.removeprefix(EXAM_ON)


def _anchors_among(artifact: Artifact, sat: OutcomesDataset) -> list[Mapping[str, Any] | None]:
    """The anchor that each prompt is; its text must be the same, for others number their prompts too."""
    anchors = {(anchor["prompt_id"], anchor["prompt"]): anchor for anchor in artifact.anchors}
    prompts = zip(sat.prompts["prompt_id"].to_pylist(), sat.prompts["prompt"].to_pylist(), strict=True)
    return [anchors.get(prompt) for prompt in prompts]


def _old_scores(artifact: Artifact, known: Graded, anchor_K: Sequence[Mapping[str, Any] | None]) -> np.ndarray:
    """Those in the dataset, and on anchors those that the artifact brought along [K, M]."""
    score_KM = known.score[:, : len(artifact.trained_models)]
    return np.where(np.isnan(score_KM), old_scores_of(artifact, anchor_K), score_KM)


def old_scores_of(artifact: Artifact, anchor_K: Sequence[Mapping[str, Any] | None]) -> np.ndarray:
    """What the models that the artifact was trained on scored on its anchors; NaN on other prompts [K, M]."""
    scores = [anchor.get("scores", {}) if anchor else {} for anchor in anchor_K]
    score_KM: np.ndarray = np.array(
        [[of.get(model, np.nan) for model in artifact.trained_models] for of in scores], dtype=float
    )
    return score_KM.reshape(len(scores), len(artifact.trained_models))


def parts_of(anchor_K: Sequence[Mapping[str, Any] | None]) -> np.ndarray:
    """Numbers of the parts of an exam [K]: the anchors of each set, and what is no anchor."""
    names = [str(anchor.get("pool")) if anchor else "" for anchor in anchor_K]
    number_K: np.ndarray = np.unique(names, return_inverse=True)[1]
    return number_K


def in_quotas(stratum_K: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order in which every beginning has about the same share of each stratum as the whole [K]."""
    at_K = np.empty(len(stratum_K))
    for stratum in np.unique(stratum_K):
        own = rng.permutation(np.flatnonzero(stratum_K == stratum))
        at_K[own] = (np.arange(len(own)) + rng.random()) / len(own)
    return at_K.argsort(kind="stable")


class Questions:
    """The prompts of an exam as the old models read them; what a model scored on some of them describes it."""

    def __init__(
        self,
        artifact: Artifact,
        conversations: Sequence[Conversation],
        old_score_KM: np.ndarray,
        part_K: np.ndarray,
        advance: Callable[[], object] = lambda: None,
    ) -> None:
        """`old_score_KM` are scores of the models that the artifact was trained on; `part_K` numbers the parts of the
        exam that were chosen in different ways; `advance` is called for each prompt."""
        self.artifact, self._old = artifact, len(artifact.trained_models)
        self.prediction, self.kind_KT = ArtifactPredictor(artifact).predict_with_tasks(conversations, advance)
        quality_KM = self.prediction.quality[:, : self._old]
        self._rows, self._part_K = Rows.of(logit(quality_KM), old_score_KM, self.kind_KT), part_K
        self.usual_log_K = usual_log_lengths(self.prediction.output_tokens[:, : self._old])

    @cached_property
    def reference(self) -> Rows:
        """The old models' own calibration rows."""
        rows = self.artifact.calibration
        own_N = rows.dataset < len(self.artifact.pools)
        quality_NM, score_NM = (part[own_N][:, : self._old] for part in (rows.quality, rows.score))
        return Rows.of(logit(quality_NM), score_NM, rows.kind[own_N])

    @cached_property
    def population(self) -> Population:
        sets = [task.partition("/")[0] for task in self.artifact.tasks]
        return population(self.reference, set_G=np.unique(sets, return_inverse=True)[1])

    @cached_property
    def parts(self) -> ExamParts:
        """How the exam's parts were chosen, as the old models' scores show it."""
        return ExamParts.of(self._rows, self.population, self._part_K)

    def prepare(self) -> None:
        """Do what takes seconds and is the same for every model, before anybody waits for it."""
        _ = self.parts

    def described(self, score_K: np.ndarray, among: np.ndarray | None = None) -> Newcomer:
        """The model with these scores, NaN where it was not asked; from those with the indices `among` alone."""
        asked = np.flatnonzero(np.isfinite(score_K)) if among is None else among
        return fit_newcomer(self._rows.take(asked), score_K[asked], self.population, self.parts.take(asked))

    def quality(self, newcomer: Newcomer) -> np.ndarray:
        """What is expected of it on each prompt [K]."""
        return newcomer.predict(self._rows.logit_BR, self._rows.kind_BG)[0]

    @cached_property
    def usual_quality(self) -> np.ndarray:
        """What is expected of any new model before its exam, on each prompt [K]."""
        return self.quality(self.described(np.full(len(self.kind_KT), np.nan)))

    def expected_quality(self, newcomer: Newcomer) -> tuple[float, tuple[float, float]]:
        """Its mean quality over the artifact's calibration prompts, and the 90 % interval that more answers narrow."""
        mean, deviation = newcomer.mean_quality(self.reference.logit_BR, self.reference.kind_BG)
        half = Z_90 * deviation
        return mean, (max(mean - half, 0.0), min(mean + half, 1.0))

    def telling(self, newcomer: Newcomer) -> np.ndarray:
        """By how much the answer to each prompt is expected to lower the variance of the mean quality [K]."""
        return newcomer.narrows(
            self._rows.logit_BR, self._rows.kind_BG, self.reference.logit_BR, self.reference.kind_BG
        )

    def alike(self, newcomer: Newcomer) -> tuple[str, ...]:
        """Known models that are predicted to do most alike, the nearest first."""
        logit_NR = self.reference.logit_BR
        logit_N = logit(newcomer.predict(logit_NR, self.reference.kind_BG)[0])
        away_M = np.sqrt(((logit_NR - logit_N[:, None]) ** 2).mean(0))
        return tuple(self.artifact.trained_models[place] for place in away_M.argsort()[:ALIKE])
