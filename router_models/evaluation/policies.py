"""The policies a router model is compared with. Each turns what it knows into a value per model; the largest is chosen.

How it works: a policy sees the training rows (prompts, tasks, outcomes) and the prompts to be measured, never their
outcomes. A model without an outcome on a prompt is no candidate there, for any policy.

Legend of array suffixes: B prompts to measure, N training prompts, M models, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router_models.conversation import Conversation
from router_models.evaluation.metrics import TIE, Truth

# Outcomes that a model's overall mean counts as, in a table's cell.
SHRINK_OUTCOMES = 5.0
LENGTH_BINS = 10
# More than any request costs: a model of unknown cost comes after all others.
UNKNOWN_COST_USD = 1e9
NEIGHBOURS = 100
NEIGHBOUR_STEP = 0.1
# What TF-IDF + logistic is tuned over, on a fifth of the training rows.
TFIDF_KINDS = (("word", (1, 2)), ("char_wb", (3, 5)))
TFIDF_STRENGTHS = (1.0, 4.0, 16.0)


@dataclass(frozen=True)
class Known:
    """What policies may look at."""

    score: np.ndarray
    """Of the training prompts [N, M]."""
    cost_usd: np.ndarray
    """Of the training prompts [N, M]."""
    tasks: Sequence[str]
    new_tasks: Sequence[str]
    texts: Sequence[str]
    new_texts: Sequence[str]
    embedding: np.ndarray
    """[N, D]"""
    new_embedding: np.ndarray
    """[B, D]"""


def text_of(conversation: Conversation) -> str:
    """All of a conversation's text."""
    return "\n".join(text for _, text in conversation)


def chosen(value_BM: np.ndarray, truth: Truth) -> np.ndarray:
    """All probability on the candidate with the largest value [B, M]; the first one of equals."""
    share_BM = np.zeros(truth.score.shape)
    best_B = np.where(truth.available, value_BM, -np.inf).argmax(1)
    share_BM[np.arange(len(best_B)), best_B] = 1.0
    return share_BM


def at_random(truth: Truth) -> np.ndarray:
    """The same probability for every candidate [B, M]."""
    share_BM: np.ndarray = truth.available / truth.available.sum(1, keepdims=True)
    return share_BM


def oracle(truth: Truth) -> np.ndarray:
    """All probability on the cheapest of the best [B, M]: the bound no policy passes."""
    best_B = np.where(truth.available, truth.score, -np.inf).max(1, keepdims=True)
    is_best_BM = truth.available & (truth.score >= best_B - TIE)
    cost_BM = np.where(is_best_BM, np.nan_to_num(truth.cost_usd, nan=UNKNOWN_COST_USD), np.inf)
    return chosen(-cost_BM, truth)


def always_best(known: Known) -> np.ndarray:
    """The models by their mean score on the training rows."""
    return np.tile(_means(known.score), (len(known.new_texts), 1))


def always_cheapest(known: Known) -> np.ndarray:
    """The models by their mean cost on the training rows, the cheapest first; unknown costs last."""
    cost_M = np.where(np.isfinite(known.cost_usd).any(0), _means(known.cost_usd), np.inf)
    return np.tile(-cost_M, (len(known.new_texts), 1))


def task_table(known: Known) -> np.ndarray:
    """Mean score per task, pulled towards the model's mean; a task never seen gets that mean."""
    return _table(known.score, known.tasks, known.new_tasks)


def prompt_length(known: Known) -> np.ndarray:
    """Mean score per tenth of prompt length."""
    lengths = np.array([len(text) for text in known.texts])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1]))
    bins = [str(bin_) for bin_ in np.searchsorted(edges, lengths)]
    new_bins = [str(bin_) for bin_ in np.searchsorted(edges, [len(text) for text in known.new_texts])]
    return _table(known.score, bins, new_bins)


def nearest_neighbours(known: Known) -> np.ndarray:
    """Mean score of the hundred nearest training prompts by embedding, the nearest counting most."""
    count = min(NEIGHBOURS, len(known.embedding))
    mean_M, is_known_NM = _means(known.score), np.isfinite(known.score)
    score_NM = np.where(is_known_NM, known.score, mean_M)
    value_BM = np.empty((len(known.new_embedding), known.score.shape[1]))
    for row, embedding_D in enumerate(known.new_embedding):
        similarity_N = known.embedding @ embedding_D
        nearest = np.argpartition(-similarity_N, count - 1)[:count]
        weight = np.exp((similarity_N[nearest] - similarity_N[nearest].max()) / NEIGHBOUR_STEP)
        value_BM[row] = weight @ score_NM[nearest] / weight.sum()
    return value_BM


def tfidf_logistic(known: Known) -> np.ndarray:
    """Logistic regressions on TF-IDF of words or characters, the better of them and their strength on held-out rows."""
    held_out_N = np.random.default_rng(0).random(len(known.texts)) < 0.2
    texts = np.array(known.texts, dtype=object)
    best, least = (TFIDF_KINDS[0], TFIDF_STRENGTHS[0]), np.inf
    for kind in TFIDF_KINDS:
        fitted, judged = _tfidf(kind, list(texts[~held_out_N]), list(texts[held_out_N]))
        for strength in TFIDF_STRENGTHS:
            quality = _logistic(fitted, known.score[~held_out_N], judged, strength)
            loss = _loss(quality, known.score[held_out_N])
            if loss < least:
                best, least = (kind, strength), loss
    fitted, new = _tfidf(best[0], list(known.texts), list(known.new_texts))
    return _logistic(fitted, known.score, new, best[1])


def _tfidf(kind: tuple[str, tuple[int, int]], texts: list[str], new_texts: list[str]) -> tuple[object, object]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=kind[0], ngram_range=kind[1], sublinear_tf=True, min_df=2)
    return vectorizer.fit_transform(texts), vectorizer.transform(new_texts)


def _logistic(inputs: object, score_NM: np.ndarray, new_inputs: object, strength: float) -> np.ndarray:
    """One regression per model; a score between 0 and 1 counts as so much success and so much failure."""
    from sklearn.linear_model import LogisticRegression

    columns = []
    for score_N in score_NM.T:
        rows = np.flatnonzero(np.isfinite(score_N))
        good, bad = rows[score_N[rows] > 0], rows[score_N[rows] < 1]
        if not len(good) or not len(bad):
            columns.append(np.full(new_inputs.shape[0], 1.0 if len(good) else 0.0))  # type: ignore[attr-defined]
            continue
        model = LogisticRegression(C=strength, max_iter=300, solver="liblinear")
        model.fit(
            inputs[np.concatenate([good, bad])],  # type: ignore[index]
            np.repeat([1, 0], [len(good), len(bad)]),
            sample_weight=np.concatenate([score_N[good], 1 - score_N[bad]]),
        )
        columns.append(model.predict_proba(new_inputs)[:, 1])
    return np.stack(columns, axis=1)


def _loss(quality: np.ndarray, score: np.ndarray) -> float:
    known = np.isfinite(score)
    clipped = np.clip(quality[known], 1e-3, 1 - 1e-3)
    return float(-np.mean(score[known] * np.log(clipped) + (1 - score[known]) * np.log(1 - clipped)))


def _means(value_NM: np.ndarray) -> np.ndarray:
    known_NM = np.isfinite(value_NM)
    means_M: np.ndarray = np.where(known_NM, value_NM, 0).sum(0) / np.maximum(known_NM.sum(0), 1)
    return means_M


def _table(score_NM: np.ndarray, cells: Sequence[str], new_cells: Sequence[str]) -> np.ndarray:
    mean_M, cell_N = _means(score_NM), np.array(cells, dtype=str)
    rows = {}
    for cell in np.unique(cell_N):
        known_NM = np.isfinite(score_NM[cell_N == cell])
        total_M = np.where(known_NM, score_NM[cell_N == cell], 0).sum(0)
        rows[cell] = (total_M + SHRINK_OUTCOMES * mean_M) / (known_NM.sum(0) + SHRINK_OUTCOMES)
    return np.stack([rows.get(cell, mean_M) for cell in new_cells])


BASELINES: Mapping[str, Callable[[Known], np.ndarray]] = {
    "always the best": always_best,
    "always the cheapest": always_cheapest,
    "task-name table": task_table,
    "prompt length": prompt_length,
    "TF-IDF + logistic": tfidf_logistic,
    "kNN, k=100": nearest_neighbours,
}
"""Value per prompt and model [B, M]; `always the best` is the one chosen on the training rows."""
