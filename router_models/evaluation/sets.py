"""What is measured: one split of one dataset, its models matched with the artifact's, its pool, costs and prices.

How it works: figures are on the pool: models with an outcome on more than 99 % of the prompts, and with a cost on as
many where the dataset has costs. Where that leaves fewer than two models the cost is not asked for, then all models
are taken. In what depends on costs, a model without a cost on a prompt is no candidate there either.

Legend of array suffixes: B prompts measured, N training prompts, M models of the dataset that the artifact knows, P
models of the pool, C columns of the artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from router_models.evaluation.costs import (
    Price,
    Prices,
    charges_input_only,
    expected_usd,
    paid_usd,
    prices_behind,
    prompt_tokens,
)
from router_models.evaluation.metrics import Truth
from router_models.evaluation.policies import chosen_column, column_means
from router_models.evaluation.roster import Roster
from router_models.joining.exam import exam_dataset
from router_models.operating.rows import PricedRows
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError, tasks_of
from router_models.outcomes.questions import question_keys
from router_models.outcomes.splits import measured_unasked, split_names
from router_models.outcomes.standing import standing
from router_models.prediction import Prediction
from router_models.predictor import ArtifactPredictor
from router_models.reading.conversation import Conversation
from router_models.storage.artifact import Artifact
from router_models.storage.calibration import Calibration

Bar = Callable[[str, int], Callable[[], object]]
"""Opens a progress bar with a name and a number of steps; what it returns is called after each step."""

LEAST_COVERAGE = 0.99
LEAST_POOL = 2


class Encoder(Protocol):
    """Texts to vectors of length 1."""

    def encode(self, conversations: Sequence[Conversation], advance: Callable[[], object] = ...) -> np.ndarray: ...


class Predictor(Protocol):
    """What is measured; `encoder` serves the baselines that look for like prompts."""

    @property
    def models(self) -> tuple[str, ...]: ...

    @property
    def encoder(self) -> Encoder: ...

    def predict(self, conversations: Sequence[Conversation], advance: Callable[[], object] = ...) -> Prediction: ...


@dataclass(frozen=True)
class Entrant:
    """A router model that is measured."""

    name: str
    predictor: Predictor
    calibration: Calibration | None = None
    """Outcomes it was calibrated on: what a default model and a promised loss follow from."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of its columns."""
    about: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    @classmethod
    def of(cls, artifact: Artifact) -> Entrant:
        """A released artifact."""
        predictor = ArtifactPredictor(artifact)
        return cls(
            artifact.name, predictor, artifact.calibration, artifact.aliases, artifact.about, artifact.fingerprint
        )

    def learned_from(self, folder: str, split: str) -> bool:
        """Whether it was trained on this split of the dataset in a folder of this name, was adapted to prompts of it,
        or had models join on them; where it does not say which split that was, on all."""
        data, adapted = self.about.get("data", {}), self.about.get("adapted", {})
        learned = [(pool, [data["split"]] if data.get("split") else None) for pool in data.get("pools", ())]
        learned += [(adapted.get("to"), adapted.get("splits"))]
        learned += [(exam_dataset(row["exam"]), row.get("splits")) for row in self.about.get("joined", ())]
        return any(name == folder and (not splits or split in splits) for name, splits in learned)


@dataclass(frozen=True)
class Source:
    """A dataset under canonical names, and which of its splits to measure on."""

    name: str
    dataset: OutcomesDataset
    splits: tuple[str, ...]
    listed: Mapping[str, Price] = field(default_factory=dict)


def splits_to_measure(dataset: OutcomesDataset, asked: Sequence[str]) -> tuple[str, ...]:
    """The splits asked for, or else `dev` or `test`.

    Raises:
        OutcomesError: the dataset lacks one that was asked for, or has neither; the message lists those it has.
    """
    there = split_names(dataset)
    for split in asked:
        if split not in there:
            raise OutcomesError(f"no prompt has split {split}; there are {', '.join(there) or 'no splits at all'}")
    if asked:
        return tuple(dict.fromkeys(asked))
    default = measured_unasked(there)
    if default is None:
        raise OutcomesError(f"there is neither dev nor test; name one of {', '.join(there) or 'no splits at all'}")
    return (default,)


@dataclass(frozen=True)
class Trial:
    """One split of one set, under the names and the pool of the evaluation."""

    name: str
    folder: str
    split: str
    roster: Roster
    pool: np.ndarray
    """Places in `roster.models` [P]."""
    train: OutcomesDataset | None
    measured: OutcomesDataset
    listed: Prices
    calibration: Calibration | None

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the pool."""
        return tuple(self.roster.models[place] for place in self.pool)

    @cached_property
    def columns(self) -> np.ndarray:
        """Columns of the artifact that predict the pool [P]."""
        columns_P: np.ndarray = np.array(self.roster.columns, dtype=int)[self.pool]
        return columns_P

    @cached_property
    def truth(self) -> Truth:
        """What happened on the pool."""
        return Truth(self.measured.matrix("score", self.models), self._paid(self.measured)[:, self.pool])

    @cached_property
    def train_score(self) -> np.ndarray:
        """[N, P]; without rows where there is no training split."""
        return np.empty((0, len(self.pool))) if self.train is None else self.train.matrix("score", self.models)

    @cached_property
    def train_usd(self) -> np.ndarray:
        """[N, P]; without rows where there is no training split."""
        return np.empty((0, len(self.pool))) if self.train is None else self._paid(self.train)[:, self.pool]

    @cached_property
    def tasks(self) -> list[str]:
        """Of the prompts measured."""
        return tasks_of(self.measured)

    @cached_property
    def asked_before(self) -> int:
        """How many of the prompts measured ask what a prompt of the training split asks too."""
        known = set() if self.train is None else set(question_keys(self.train))
        return sum(key in known for key in question_keys(self.measured))

    @cached_property
    def conversations(self) -> list[Conversation]:
        """The prompts measured."""
        return self.measured.conversations()

    @cached_property
    def output_tokens(self) -> np.ndarray:
        """Real lengths on the pool [B, P]."""
        return self.measured.matrix("output_tokens", self.models)

    @cached_property
    def usual_log_tokens(self) -> np.ndarray:
        """Mean log length of each pool model's answers on the training rows [P]; NaN if unknown."""
        if self.train is None:
            return np.full(len(self.pool), np.nan)
        tokens_NP = self.train.matrix("output_tokens", self.models)
        return column_means(np.log(np.where(tokens_NP > 0, tokens_NP, np.nan)), empty=np.nan)

    @cached_property
    def standing(self) -> np.ndarray:
        """How good each pool model was on the training rows, else on the calibration rows [P]; -inf if unknown."""
        if self.train is not None:
            return standing(self.train_score)
        if self.calibration is None:
            return np.full(len(self.pool), -np.inf)
        standing_P: np.ndarray = standing(self.calibration.score)[self.columns]
        return standing_P

    @cached_property
    def default_column(self) -> np.ndarray:
        """The best single model, among the candidates of each prompt [B]."""
        return chosen_column(np.tile(self.standing, (len(self.truth.score), 1)), self.truth.available)

    @cached_property
    def mean_usd(self) -> np.ndarray:
        """Mean cost of every known model on the training rows, else where it is measured [M]; NaN if unknown."""
        return column_means(self._paid(self.train or self.measured), empty=np.nan)

    def expected_usd(self, prediction: Prediction, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """What every known model's answer is expected to cost, from the predicted lengths [B, M].

        `rows` are those of the prompts measured that the prediction is for.
        """
        return self._priced(self._input_tokens[rows], prediction.output_tokens[:, list(self.roster.columns)])

    def priced_here(self, rows: Calibration) -> PricedRows:
        """Calibration rows restricted to the pool, at this set's prices.

        Where the length of an answer was not recorded, it is taken to be as predicted.
        """
        columns = list(self.roster.columns)
        predicted, real = rows.output_tokens[:, columns], rows.real_output_tokens[:, columns]
        real = np.where(np.isfinite(real), real, predicted)
        expected, paid = (
            self._priced(rows.input_tokens[:, columns], tokens)[:, self.pool] for tokens in (predicted, real)
        )
        return PricedRows(rows.quality[:, self.columns], rows.score[:, self.columns], expected, paid, rows.dataset)

    def _priced(self, input_tokens: np.ndarray, output_tokens: np.ndarray) -> np.ndarray:
        """By one rule for all rows, so that a weight found on some means the same on others."""
        output_tokens = np.zeros_like(output_tokens) if self._input_only else output_tokens
        return expected_usd(self._prices, input_tokens, output_tokens, self.mean_usd)

    @cached_property
    def _input_only(self) -> bool:
        return charges_input_only(self.train or self.measured)

    @cached_property
    def _prices(self) -> Prices:
        return prices_behind(self.train or self.measured, self.roster.models, self.listed)

    @cached_property
    def _input_tokens(self) -> np.ndarray:
        characters_B = np.array([sum(len(text) for _, text in talk) for talk in self.conversations])
        return prompt_tokens(self.measured.matrix("input_tokens", self.roster.models), characters_B)

    def _paid(self, dataset: OutcomesDataset) -> np.ndarray:
        return paid_usd(dataset, self.roster.models, self.listed)


def prepare(source: Source, split: str, found: Roster, train_split: str, calibration: Calibration | None) -> Trial:
    """One split, ready to be measured. A training split that is itself measured teaches nothing.

    Raises:
        OutcomesError: the split holds no outcome of a model that the artifact knows.
    """
    measured, listed = source.dataset.split(split), Prices.of(source.listed, found.models)
    pool = pool_of(measured.matrix("score", found.models), paid_usd(measured, found.models, listed))
    models = [found.models[place] for place in pool]
    answered_B = np.isfinite(measured.matrix("score", models)).any(1)
    if not answered_B.any():
        raise OutcomesError(f"{source.name}: split {split} has no outcome of the models {', '.join(found.models)}")
    return Trial(
        name=source.name if len(source.splits) == 1 else f"{source.name}/{split}",
        folder=source.name,
        split=split,
        roster=found,
        pool=pool,
        train=_lessons(source.dataset, train_split, models) if split != train_split else None,
        measured=measured.select(answered_B),
        listed=listed,
        calibration=calibration,
    )


def _lessons(dataset: OutcomesDataset, split: str, models: Sequence[str]) -> OutcomesDataset | None:
    """The training split; None where there is none, or nothing in it was asked of these models."""
    if split not in split_names(dataset):
        return None
    lessons = dataset.split(split)
    return lessons if np.isfinite(lessons.matrix("score", models)).any() else None


def pool_of(score_BM: np.ndarray, cost_BM: np.ndarray) -> np.ndarray:
    """Places of the models that figures are on [P], by the rule at the top of this file."""
    known_BM = np.isfinite(score_BM)
    answered_M = known_BM.mean(0) > LEAST_COVERAGE
    priced_M = (known_BM & np.isfinite(cost_BM)).mean(0) > LEAST_COVERAGE
    for kept_M in (answered_M & priced_M, answered_M):
        if kept_M.sum() >= LEAST_POOL:
            return np.flatnonzero(kept_M)
    return np.flatnonzero(known_BM.any(0))
