"""Somebody's own prompts with what an artifact predicts for them: what adapting learns and judges from.

How it works: a question that several prompts ask counts once, with the means of what was answered: what is asked often
would else be told by its own repetitions. What two callers were answered, each by another model, still compares
nothing.

Qualities are learned and judged only from prompts that two models or more have scores on. A prompt that one model
answered leaves nothing to choose from, and its score may be as much its caller's as the model's: where one model has
kind callers and another one strict ones, predictions of their scores get better and choices worse.

Legend of array suffixes: B prompts, M all models of the artifact, S those measured or compared, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from router_models.adapting.verdict import LEAST_MODELS, LEAST_PROMPTS
from router_models.heads.correction import is_adapted
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError
from router_models.outcomes.questions import one_per_question, without_lone_scores
from router_models.outcomes.splits import split_names
from router_models.prediction import Prediction
from router_models.predictor import ArtifactPredictor
from router_models.storage.artifact import Artifact


@dataclass(frozen=True)
class OwnPrompts:
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

    def missed(self) -> np.ndarray:
        """By how much the logs of predicted lengths were too small [B, S]; NaN where a length is not known."""
        real_BS, told_BS = (part[:, self.measured] for part in (self.tokens_BM, self.prediction.output_tokens))
        missed_BS: np.ndarray = np.log(np.maximum(real_BS, 1)) - np.log(np.maximum(told_BS, 1))
        return missed_BS


def read_own(
    artifact: Artifact, dataset: OutcomesDataset, advance: Callable[[], object]
) -> tuple[OwnPrompts, OutcomesDataset]:
    """The prompts of a dataset that a measured model has a score on, and the dataset of just these, in the same order.

    `advance` is called after each prompt.

    Raises:
        OutcomesError: the artifact was adapted before, knows too few of the models, or there are too few prompts.
    """
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
    return OwnPrompts(prediction, task_BT, score_BM, tokens_BM, measured, _compared(score_BM, measured), splits), sat


def leaves_choice(score_BS: np.ndarray) -> np.ndarray:
    """Whether two models or more have a score on a prompt [B]."""
    several_B: np.ndarray = np.isfinite(score_BS).sum(1) >= LEAST_MODELS
    return several_B


def _compared(score_BM: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Of the measured columns, those with enough scores on prompts that another one of them has a score on."""
    known_BS = np.isfinite(score_BM[:, measured])
    enough_S = known_BS[leaves_choice(score_BM[:, measured])].sum(0) >= LEAST_PROMPTS
    return measured if enough_S.all() else _compared(score_BM, measured[enough_S])


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
