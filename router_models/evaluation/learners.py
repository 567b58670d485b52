"""Baselines that learn: hand features, TF-IDF, nearest neighbours, soft clusters. All read the router model's text.

Legend of array suffixes: B prompts to measure, N training prompts, M models, D inputs, K clusters.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from router_models.evaluation.metrics import log_loss
from router_models.evaluation.policies import TABLES, Known, cell_means, column_means

HAND, TFIDF, NEIGHBOURS, CLUSTERS = "hand features", "TF-IDF + logistic", "kNN, k=100", "K-means, 64 clusters"
COUNT_OF_NEIGHBOURS = 100
NEIGHBOUR_STEP = 0.1
COUNT_OF_CLUSTERS, VOTING_CLUSTERS, CLUSTER_SHARPNESS = 64, 3, 9.0
# What TF-IDF + logistic is tuned over, on some of the training rows, a fifth of them held out, and the models with most
# outcomes; then it learns from all.
TFIDF_KINDS: tuple[tuple[str, tuple[int, int]], ...] = (("word", (1, 2)), ("char_wb", (3, 5)))
TFIDF_STRENGTHS = (0.25, 1.0, 4.0)
TUNED_MODELS, TUNED_ROWS = 4, 2_500
FEW_TEXTS = 100
# The held-out loss no longer falls after these many steps.
STEPS = 25
HAND_STRENGTH = 1.0


class NothingToLearnError(ValueError):
    """A baseline finds nothing in the training prompts; the message says what is missing."""


def hand_features(known: Known) -> np.ndarray:
    """Logistic regressions on what a question's surface shows."""
    from router_models.reading.surface import surface_features

    table_ND, new_BD = (
        np.stack([surface_features(text.question) for text in texts]) for texts in (known.texts, known.new_texts)
    )
    mean_D, scale_D = table_ND.mean(0), np.maximum(table_ND.std(0), 1e-6)
    # A share that was always 0 in training must not decide alone.
    new_BD = np.clip((new_BD - mean_D) / scale_D, -6, 6)
    return _logistic((table_ND - mean_D) / scale_D, known.score, new_BD, HAND_STRENGTH)


def tfidf_logistic(known: Known) -> np.ndarray:
    """Logistic regressions on TF-IDF of words or characters, the better of them and their strength on held-out rows."""
    order_N = np.random.default_rng(0).permutation(len(known.texts))[:TUNED_ROWS]
    held_out, fitted = np.split(order_N, [max(len(order_N) // 5, 1)])
    fullest = np.argsort(-np.isfinite(known.score).sum(0), kind="stable")[:TUNED_MODELS]
    tables = [found for kind in TFIDF_KINDS if (found := _tfidf(kind, known)) is not None]
    if not tables:
        raise NothingToLearnError("the training prompts have no words")
    best, least = (tables[0], TFIDF_STRENGTHS[0]), np.inf
    for inputs in tables:
        for strength in TFIDF_STRENGTHS:
            score = known.score[:, fullest]
            quality = _logistic(inputs[0][fitted], score[fitted], inputs[0][held_out], strength)
            loss = log_loss(quality, score[held_out])
            if loss < least:
                best, least = (inputs, strength), loss
    (table, new), strength = best
    return _logistic(table, known.score, new, strength)


def _tfidf(kind: tuple[str, tuple[int, int]], known: Known) -> tuple[Any, Any] | None:
    """Of the training and the new prompts; None where the training prompts have nothing of this kind."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts, new_texts = (["\n".join(text) for text in texts] for texts in (known.texts, known.new_texts))
    # What occurs once teaches nothing, unless there is little else.
    least = 2 if len(texts) >= FEW_TEXTS else 1
    vectorizer = TfidfVectorizer(
        analyzer=kind[0], ngram_range=kind[1], sublinear_tf=True, min_df=least, dtype=np.float32
    )
    try:
        return vectorizer.fit_transform(texts), vectorizer.transform(new_texts)
    except ValueError:
        # Its only complaint about texts: no words of two letters, or none that occurs often enough.
        return None


def _logistic(inputs: Any, score_NM: np.ndarray, new_inputs: Any, strength: float) -> np.ndarray:
    """One regression per model; a score between 0 and 1 counts as so much success and so much failure."""
    columns = []
    for score_N in score_NM.T:
        rows = np.flatnonzero(np.isfinite(score_N))
        good, bad = rows[score_N[rows] > 0], rows[score_N[rows] < 1]
        if len(good) and len(bad):
            columns.append(_fitted(inputs, score_N, (good, bad), strength).predict_proba(new_inputs)[:, 1])
        else:
            # All right, all wrong, or nothing known.
            columns.append(np.full(new_inputs.shape[0], score_N[rows].mean() if len(rows) else np.nan))
    return np.stack(columns, axis=1)


def _fitted(inputs: Any, score_N: np.ndarray, rows: tuple[np.ndarray, np.ndarray], strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    good, bad = rows
    model = LogisticRegression(C=strength, max_iter=STEPS)
    with _unfinished():
        return model.fit(
            inputs[np.concatenate([good, bad])],
            np.repeat([1, 0], [len(good), len(bad)]),
            sample_weight=np.concatenate([score_N[good], 1 - score_N[bad]]),
        )


@contextlib.contextmanager
def _unfinished() -> Iterator[None]:
    """Stopping early is meant, and so are fewer clusters where prompts are alike: no warning for either."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def nearest_neighbours(known: Known) -> np.ndarray:
    """Mean score of the hundred nearest training prompts by embedding, the nearest counting most."""
    mean_M = column_means(known.score, empty=0.0)
    score_NM = np.where(np.isfinite(known.score), known.score, mean_M)
    return _nearest(known.new_embedding, known.embedding, score_NM, COUNT_OF_NEIGHBOURS, 1 / NEIGHBOUR_STEP)


def soft_clusters(known: Known) -> np.ndarray:
    """Mean scores in the three nearest of 64 clusters of training prompts, each pulled towards the models' means."""
    from sklearn.cluster import KMeans

    count = min(COUNT_OF_CLUSTERS, max(1, len(known.embedding) // 5))
    with _unfinished():
        cluster_N = KMeans(count, n_init=1, random_state=0).fit_predict(known.embedding)
    center_KD = np.stack([known.embedding[cluster_N == cluster].mean(0) for cluster in np.unique(cluster_N)])
    center_KD /= np.maximum(np.linalg.norm(center_KD, axis=1, keepdims=True), 1e-9)
    mean_M = column_means(known.score, empty=0.0)
    score_KM = np.stack([cell_means(known.score[cluster_N == cluster], mean_M) for cluster in np.unique(cluster_N)])
    return _nearest(known.new_embedding, center_KD, score_KM, VOTING_CLUSTERS, CLUSTER_SHARPNESS)


def _nearest(
    new_BD: np.ndarray, stored_ND: np.ndarray, score_NM: np.ndarray, count: int, sharpness: float
) -> np.ndarray:
    """Mean score of the most similar rows, weighted by exp(sharpness x similarity) [B, M]."""
    count, value_BM = min(count, len(stored_ND)), np.empty((len(new_BD), score_NM.shape[1]))
    for row, embedding_D in enumerate(new_BD):
        similarity_N = stored_ND @ embedding_D
        nearest = np.argpartition(-similarity_N, count - 1)[:count]
        weight = np.exp(sharpness * (similarity_N[nearest] - similarity_N[nearest].max()))
        value_BM[row] = weight @ score_NM[nearest] / weight.sum()
    return value_BM


BASELINES: Mapping[str, Callable[[Known], np.ndarray]] = {
    **TABLES,
    HAND: hand_features,
    TFIDF: tfidf_logistic,
    NEIGHBOURS: nearest_neighbours,
    CLUSTERS: soft_clusters,
}
"""All that predict, each a value per prompt and model [B, M]."""


def values(known: Known, advance: Callable[[], object]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What each of `BASELINES` says, and why some are left out; `advance` is called after each."""
    said, left_out = {}, {}
    for name, policy in BASELINES.items():
        try:
            said[name] = policy(known)
        except ImportError as exc:
            left_out[name] = f"{exc.name} is not installed"
        except NothingToLearnError as exc:
            left_out[name] = str(exc)
        advance()
    return said, left_out
