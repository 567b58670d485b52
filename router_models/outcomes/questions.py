"""Which prompts ask the same question: what is asked often is no more evidence than what is asked once.

How it works: the question is all that was sent. "Go on." at the end of two conversations is two questions, so where a
prompt was sent within several turns, all of them count; where it was sent alone or in a template, its own text.

Models are compared by a prompt that several of them answered, not by prompts that ask the same: in a journal those come
from different callers, and who was asked by the kind ones would be taken for the better model.

Legend of array suffixes: B prompts, Q questions, M models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
    places: dict[str, int] = {}
    return np.array([places.setdefault(key, len(places)) for key in question_keys(dataset)], dtype=int)


def one_per_question(dataset: OutcomesDataset) -> OutcomesDataset:
    """The first prompt of each question, with each model's mean outcomes over all prompts that ask it."""
    number_B = question_numbers(dataset)
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
    asked_QM = np.zeros((int(number_B.max(initial=-1)) + 1, len(models)), dtype=bool)
    np.logical_or.at(asked_QM, number_B, known_BM)
    is_lone_B = (known_BM.sum(1) == 1) & (asked_QM.sum(1) > 1)[number_B]
    if not is_lone_B.any():
        return dataset
    outcomes, lone = dataset.outcomes, dataset.prompts["prompt_id"].filter(pa.array(is_lone_B))
    scores = pc.if_else(pc.is_in(outcomes["prompt_id"], lone.combine_chunks()), None, outcomes["score"])
    return OutcomesDataset(dataset.prompts, outcomes.set_column(outcomes.column_names.index("score"), "score", scores))


def folds_by_question(number_B: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Prompts dealt into so many parts at random, those of one question into the same one."""
    dealt = np.array_split(np.random.default_rng(seed).permutation(np.unique(number_B)), count)
    return [np.flatnonzero(np.isin(number_B, part)) for part in dealt]
