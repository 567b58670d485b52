"""Which prompts ask the same question: what is asked often is no more evidence than what is asked once.

Legend of array suffixes: B prompts, Q questions, M models.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from router_models.outcomes import OutcomesDataset, mean_outcomes


def question_hash(text: str) -> str:
    """The same for texts that differ in spacing and capitals only."""
    return hashlib.sha256(" ".join(text.lower().split()).encode(errors="replace")).hexdigest()


def question_keys(dataset: OutcomesDataset) -> list[str]:
    """The same for the same question: the dataset's own `core_hash`, else a hash of the prompt without its spacing."""
    texts = dataset.prompts["prompt"].to_pylist()
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


def folds_by_question(number_B: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Prompts dealt into so many parts at random, those of one question into the same one."""
    dealt = np.array_split(np.random.default_rng(seed).permutation(np.unique(number_B)), count)
    return [np.flatnonzero(np.isin(number_B, part)) for part in dealt]
