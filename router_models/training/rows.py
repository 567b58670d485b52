"""What is learned from: every prompt of every pool as one row, with its inputs, its task and its outcomes.

How it works: each dataset is a pool; a rule is one model within one pool. A row has outcomes of its own pool's rules
only, NaN elsewhere. Where models were sent a template around a question, the bare question becomes a second row, and
each of the two counts half: callers word the same question in either way. The last message of a conversation is no such
question, for its turns and its system prompt say what it asks. Rows of one question, whatever set they come
from, share a group, and groups are never divided between what is fitted and what is judged.

A prompt compares models where two of them have scores on it. Those of a journal have one each: who was sent the hard
prompts, or has strict callers, would be taken for a bad model. So without some that compare, nothing is learned.

Legend of array suffixes: B rows, F inputs, T tasks, P pools, R rules, M models.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from router_models.adapting.verdict import LEAST_MODELS, LEAST_PROMPTS
from router_models.heads.tryage import Speed
from router_models.outcomes.dataset import OutcomesDataset, OutcomesError, aliases_of, read_outcomes, tasks_of
from router_models.outcomes.questions import question_keys
from router_models.outcomes.splits import Division, division, with_splits
from router_models.reading.conversation import Conversation, parts
from router_models.training.config import TrainingConfig

LEAST_CHOICE = 0.5
"""Share of the prompts that two models or more need scores on, where that is fewer than `LEAST_PROMPTS` of them."""


@dataclass(frozen=True)
class Library:
    """Names of what the columns and numbers of rows stand for."""

    models: tuple[str, ...]
    pools: tuple[str, ...]
    tasks: tuple[str, ...]
    """As pool/task."""
    pool_T: np.ndarray
    pool_R: np.ndarray
    model_R: np.ndarray
    aliases: Mapping[str, str]

    def tensors(self) -> dict[str, np.ndarray]:
        """The layout of a head."""
        numbers = {"pool_T": self.pool_T, "pool_R": self.pool_R, "model_R": self.model_R}
        return {f"layout.{name}": array.astype(np.int32) for name, array in numbers.items()}


@dataclass(frozen=True)
class Rows:
    """Prompts and their outcomes; see the module."""

    pool: np.ndarray
    """[B]"""
    task: np.ndarray
    """[B]"""
    group: np.ndarray
    """[B]; equal numbers are the same question."""
    weight: np.ndarray
    """[B]"""
    is_second: np.ndarray
    """Bare questions beside their templates: learned from, not judged [B]."""
    score: np.ndarray
    """[B, R]"""
    output_tokens: np.ndarray
    """[B, R]"""
    input_tokens: np.ndarray
    """[B, R]"""

    @property
    def leaves_choice(self) -> np.ndarray:
        """Whether two models or more have a score on a prompt [B]."""
        several_B: np.ndarray = np.isfinite(self.score).sum(1) >= LEAST_MODELS
        return several_B

    def take(self, rows_B: np.ndarray) -> Rows:
        """The rows with these indices or this mask."""
        return Rows(**{each.name: getattr(self, each.name)[rows_B] for each in fields(self)})

    def __len__(self) -> int:
        return len(self.pool)


@dataclass(frozen=True)
class Reading:
    """Rows, the conversations behind them, and what the columns stand for."""

    library: Library
    rows: Rows
    conversations: list[Conversation]
    prompt_ids: list[str]
    datasets: list[OutcomesDataset]
    """The training splits, a pool each."""
    divisions: Mapping[str, Division] = field(default_factory=dict)
    """Of the pools' whole datasets, where a split was wanted."""

    @property
    def undivided(self) -> list[str]:
        """Pools whose splits were drawn, for no prompt had one."""
        return [name for name, division in self.divisions.items() if division.drawn]

    def without_choice(self) -> dict[str, tuple[int, int]]:
        """How many prompts one model alone has a score on, and of how many; by pool, where there are any."""
        first_B, alone_B = ~self.rows.is_second, ~self.rows.is_second & ~self.rows.leaves_choice
        alone_P, all_P = (
            np.bincount(self.rows.pool[of_B], minlength=len(self.library.pools)) for of_B in (alone_B, first_B)
        )
        counts = zip(self.library.pools, alone_P.tolist(), all_P.tolist(), strict=True)
        return {name: (alone, prompts) for name, alone, prompts in counts if alone}


def training_pools(config: TrainingConfig) -> Reading:
    """The training splits of its datasets.

    Raises:
        OutcomesError: a dataset cannot be used, a model has no outcomes, or there are too few prompts, of all or of
            those that two models answered.
    """
    if not config.data:
        raise OutcomesError("no outcomes dataset is named; give its folder with --data, or `data` in the configuration")
    pools = read_pools(config.data, config.split, config.aliases, config.models)
    if len(pools.rows) < 2 * config.folds:
        raise OutcomesError(f"{len(pools.rows)} prompts are too few; at least {2 * config.folds} are needed")
    if len(pools.library.models) >= LEAST_MODELS:
        _refuse_without_choice(pools.rows)
    return pools


def _refuse_without_choice(rows: Rows) -> None:
    """Nothing, where enough prompts compare models. What one model alone was asked tells as much of who chose it.

    Raises:
        OutcomesError: too few do.
    """
    several_B = rows.leaves_choice[~rows.is_second]
    several, prompts = int(several_B.sum()), len(several_B)
    needed = min(LEAST_PROMPTS, math.ceil(LEAST_CHOICE * prompts))
    if several < needed:
        raise OutcomesError(
            f"only {several} of {prompts} prompts have outcomes of two models, and {needed} are needed to learn whom "
            "to choose; ask two models the same prompts, as `thalamus collect --prompts FOLDER` does, or adapt an "
            "artifact's lengths to these with `thalamus train --base`"
        )


def read_pools(
    folders: Sequence[Path], split: str | None, aliases: Path | None, models: Sequence[str], with_bare: bool = True
) -> Reading:
    """All outcomes of a split, or of all splits; a dataset without splits gets them, see `splits`.

    Raises:
        OutcomesError: a dataset cannot be used, or a wanted model has no outcomes.
    """
    datasets: list[OutcomesDataset] = []
    divisions: dict[str, Division] = {}
    names: dict[str, str] = {}
    for folder in folders:
        known = aliases_of(aliases, folder.name) if aliases else {}
        names |= known
        dataset = read_outcomes(folder)
        if split:
            divisions[folder.name] = division(dataset)
            dataset = _part(dataset, split, folder)
        datasets.append(dataset.renamed(known))
    reading = _joined(datasets, [folder.name for folder in folders], names, models, with_bare)
    return replace(reading, divisions=divisions)


def _part(dataset: OutcomesDataset, split: str, folder: Path) -> OutcomesDataset:
    try:
        return with_splits(dataset).split(split)
    except OutcomesError as exc:
        raise OutcomesError(f"{folder}: {exc}") from exc


def _joined(
    datasets: list[OutcomesDataset],
    pools: list[str],
    aliases: Mapping[str, str],
    wanted: Sequence[str],
    with_bare: bool,
) -> Reading:
    if len(set(pools)) != len(pools):
        raise OutcomesError(f"two datasets have a folder of the same name, which names their pool: {', '.join(pools)}")
    models = tuple(wanted) or tuple(sorted({model for dataset in datasets for model in dataset.models}))
    there = {model for dataset in datasets for model in dataset.models}
    if missing := [model for model in models if model not in there]:
        raise OutcomesError(f"model {missing[0]} has no outcome in the training split; there are {sorted(there)}")
    if not models:
        raise OutcomesError("no prompt of the training split has an outcome")
    used = [place for place, dataset in enumerate(datasets) if set(models) & set(dataset.models)]
    datasets, pools = [datasets[place] for place in used], [pools[place] for place in used]
    rules = [(p, m) for p, dataset in enumerate(datasets) for m, name in enumerate(models) if name in dataset.models]
    tasks = [(p, task) for p, dataset in enumerate(datasets) for task in sorted(set(tasks_of(dataset)))]
    library = Library(
        models=models,
        pools=tuple(pools),
        tasks=tuple(f"{pools[p]}/{task}" for p, task in tasks),
        pool_T=np.array([p for p, _ in tasks]),
        pool_R=np.array([p for p, _ in rules]),
        model_R=np.array([m for _, m in rules]),
        aliases={name: column for name, column in aliases.items() if column in models and name != column},
    )
    return _reading(library, datasets, tasks, with_bare)


def _reading(
    library: Library, datasets: list[OutcomesDataset], tasks: list[tuple[int, str]], with_bare: bool
) -> Reading:
    conversations: list[Conversation] = []
    prompt_ids: list[str] = []
    columns: dict[str, list[np.ndarray]] = {each.name: [] for each in fields(Rows)}
    place = {task: number for number, task in enumerate(tasks)}
    groups: dict[str, int] = {}
    for pool, dataset in enumerate(datasets):
        own = dataset.conversations()
        bare = [(("user", text),) for text in dataset.prompts["prompt"].to_pylist()]
        second = [with_bare and _is_template(sent, question) for sent, question in zip(own, bare, strict=True)]
        # First all conversations as they were sent, then the bare questions of some.
        index = np.concatenate([np.arange(len(own)), np.flatnonzero(second)]).astype(int)
        conversations += [*own, *(bare[row] for row in np.flatnonzero(second))]
        ids = dataset.prompts["prompt_id"].to_pylist()
        prompt_ids += [ids[row] for row in index]
        group = np.array([groups.setdefault(key, len(groups)) for key in question_keys(dataset)])
        values = {
            "pool": np.full(len(index), pool),
            "task": np.array([place[pool, task] for task in tasks_of(dataset)])[index],
            "group": group[index],
            "weight": np.where(second, 0.5, 1.0)[index],
            "is_second": np.arange(len(index)) >= len(own),
            "score": _by_rule(library, pool, dataset, "score")[index],
            "output_tokens": _by_rule(library, pool, dataset, "output_tokens")[index],
            "input_tokens": _by_rule(library, pool, dataset, "input_tokens")[index],
        }
        for name, value in values.items():
            columns[name].append(value)
    rows = Rows(**{name: np.concatenate(arrays) for name, arrays in columns.items()})
    answered_B = np.isfinite(rows.score).any(1)
    kept = np.flatnonzero(answered_B)
    return Reading(
        library, rows.take(kept), [conversations[row] for row in kept], [prompt_ids[row] for row in kept], datasets
    )


def _is_template(sent: Conversation, question: Conversation) -> bool:
    """Whether it is one message, which says more than the question."""
    return len(sent) == 1 and parts(sent) != parts(question)


def _by_rule(library: Library, pool: int, dataset: OutcomesDataset, column: str) -> np.ndarray:
    """[B, R], NaN outside of the pool."""
    value_BR = np.full((dataset.prompts.num_rows, len(library.pool_R)), np.nan, np.float32)
    rules = np.flatnonzero(library.pool_R == pool)
    value_BR[:, rules] = dataset.matrix(column, [library.models[library.model_R[rule]] for rule in rules])
    return value_BR


Inputs = Mapping[Speed, np.ndarray]
"""What the heads read of the rows [B, F], per encoder."""


def folds_of(groups_B: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A fold for each row; rows of one group share it, and more rows move none.

    Where that puts several groups into one and the same fold, they are dealt out in turn instead.
    """
    drawn = {
        group: int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8]) for group in np.unique(groups_B)
    }
    shares = {group: number % count for group, number in drawn.items()}
    if len(set(shares.values())) == 1:
        shares = {group: turn % count for turn, group in enumerate(sorted(drawn, key=drawn.__getitem__))}
    return np.array([shares[group] for group in groups_B])
