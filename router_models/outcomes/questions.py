"""Which prompts ask the same question: what is asked often is no more evidence than what is asked once.

How it works: the question is all that was sent. "Go on." at the end of two conversations is two questions, so where a
prompt was sent within several turns, all of them count; where it was sent alone or in a template, its own text.

Models are compared by a prompt that several of them answered, not by prompts that ask the same: in a journal those come
from different callers, and who was asked by the kind ones would be taken for the better model.

Legend of array suffixes: B prompts, Q questions, M models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from router_models.outcomes.dataset import OutcomesDataset, mean_outcomes


def question_hash(text: str) -> str:
    """The same for texts that differ in spacing and capitals only."""
    return hashlib.sha256(" ".join(text.lower().split()).encode(errors="replace")).hexdigest()


def question_texts(dataset: OutcomesDataset) -> list[str]:
    """What each prompt asks: its text, or that of the whole conversation where it is the end of one."""
    prompts = dataset.prompts["prompt"].to_pylist()
    return [
        "\n".join(f"{role}: {text}" for role, text in turns) if len(turns) > 1 else prompt
        for turns, prompt in zip(dataset.conversations(), prompts, strict=True)
    ]


def question_keys(dataset: OutcomesDataset) -> list[str]:
    """The same for the same question: the dataset's own `core_hash`, else a hash of its text without its spacing."""
    texts = question_texts(dataset)
    has_hashes = "core_hash" in dataset.prompts.column_names
    hashes = dataset.prompts["core_hash"].to_pylist() if has_hashes else [None] * len(texts)
    return [str(key or question_hash(text)) for key, text in zip(hashes, texts, strict=True)]


def question_numbers(dataset: OutcomesDataset) -> np.ndarray:
    """A number for the question of each prompt, counted as they appear [B]."""
    return _counted(question_keys(dataset))


def _counted(keys: Iterable[Hashable]) -> np.ndarray:
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(key, len(places)) for key in keys], dtype=int)


def one_per_question(dataset: OutcomesDataset) -> OutcomesDataset:
    """The first prompt of each question, with each model's mean outcomes over all prompts that ask it."""
    return one_per_number(dataset, question_numbers(dataset))


def one_per_number(dataset: OutcomesDataset, number_B: np.ndarray) -> OutcomesDataset:
    """The first prompt of each number, with each model's mean outcomes over all that have it.

    Numbers are counted as they appear.
    """
    first_Q = np.unique(number_B, return_index=True)[1]
    if len(first_Q) == len(number_B):
        return dataset
    ids = dataset.prompts["prompt_id"].to_pylist()
    first_of = {prompt_id: ids[first_Q[number]] for prompt_id, number in zip(ids, number_B, strict=True)}
    asked = dataset.outcomes["prompt_id"]
    merged = dataset.outcomes.set_column(
        dataset.outcomes.column_names.index("prompt_id"),
        "prompt_id",
        pa.array([first_of[prompt_id] for prompt_id in asked.to_pylist()], asked.type),
    )
    return OutcomesDataset(dataset.prompts.take(pa.array(first_Q)), mean_outcomes(merged))


def without_lone_scores(dataset: OutcomesDataset, models: Sequence[str]) -> OutcomesDataset:
    """The same without the scores that stand alone on a prompt where others that ask the same have another model's.

    Of questions without such, and of lengths, all is left.
    """
    known_BM, number_B = np.isfinite(dataset.matrix("score", models)), question_numbers(dataset)
    return _without_scores(dataset, _is_lone(known_BM, number_B))


def told_apart(dataset: OutcomesDataset, models: Sequence[str]) -> tuple[OutcomesDataset, np.ndarray]:
    """The same, and numbers, equal where prompts ask the same and their scores may stand side by side [B].

    They are counted as they appear. A score that stands alone on a prompt, where others that ask the same have another
    model's, is with those of its own model. It goes where that model was compared with others by the question, which
    counts once for each model.
    """
    known_BM, number_B = np.isfinite(dataset.matrix("score", models)), question_numbers(dataset)
    is_lone_B, model_B = _is_lone(known_BM, number_B), known_BM.argmax(1)
    compared_QM = _asked(known_BM & ~is_lone_B[:, None], number_B)
    is_again_B = is_lone_B & compared_QM[number_B, model_B]
    group_B = number_B * (len(models) + 1) + np.where(is_lone_B & ~is_again_B, model_B + 1, 0)
    return _without_scores(dataset, is_again_B), _counted(group_B.tolist())


def _is_lone(known_BM: np.ndarray, number_B: np.ndarray) -> np.ndarray:
    """Whether a prompt has one score, and others that ask the same have another model's [B]."""
    is_lone_B: np.ndarray = (known_BM.sum(1) == 1) & (_asked(known_BM, number_B).sum(1) > 1)[number_B]
    return is_lone_B


def _asked(known_BM: np.ndarray, number_B: np.ndarray) -> np.ndarray:
    """Whether a model has a score on any prompt of a question [Q, M]."""
    asked_QM = np.zeros((int(number_B.max(initial=-1)) + 1, known_BM.shape[1]), dtype=bool)
    np.logical_or.at(asked_QM, number_B, known_BM)
    return asked_QM


def _without_scores(dataset: OutcomesDataset, of_B: np.ndarray) -> OutcomesDataset:
    """The same without the scores of these prompts."""
    if not of_B.any():
        return dataset
    outcomes, prompt_ids = dataset.outcomes, dataset.prompts["prompt_id"].filter(pa.array(of_B))
    scores = pc.if_else(pc.is_in(outcomes["prompt_id"], prompt_ids.combine_chunks()), None, outcomes["score"])
    return OutcomesDataset(dataset.prompts, outcomes.set_column(outcomes.column_names.index("score"), "score", scores))


def folds_by_question(number_B: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Prompts dealt into so many parts at random, those of one question into the same one."""
    dealt = np.array_split(np.random.default_rng(seed).permutation(np.unique(number_B)), count)
    return [np.flatnonzero(np.isin(number_B, part)) for part in dealt]
