"""A model that joins by an exam: from a few graded answers to its quality on any prompt, without training. NumPy only.

How it works: the old models of an artifact (`router_models.population`) say in which terms models differ, and are the
prior: a newcomer is first taken for one more of their kind. Its graded answers move it from there (Laplace's
approximation). Where old models answered the same questions, their scores tell a hard question from a weak newcomer: on
zeroeval, 50 questions then say about as much as 100 do otherwise. Where the artifact knows kinds of prompts, the
newcomer may depart on each kind from what its ability suggests, as far as old models do.

Exams are often chosen to tell models apart, which makes strong ones look stronger and weak ones weaker, and one part of
an exam may have been chosen in another way than the next. How much, the old models show: they sat the same exam. They
also show how far a model's rate in a part of it is off from what it does elsewhere, which no number of answers mends.

The result is linear in the old models' logits. Quality is the probability averaged over what is not known, so little
evidence means moderate numbers. The standard deviation is that of the rate of acceptable answers on prompts of this
kind: what the exam left open, and what models stray from any such description on groups of like prompts, which is
measured by letting old models join as newcomers.

What it does not do: learn what no old model shows. A newcomer that is unlike all of them is described badly, and after
some thousands of outcomes its own head is better. Nor does an exam on few kinds of prompt say much about the others.

Legend of array suffixes: B prompts, K prompts of an exam, N reference prompts, R old models, G kinds of prompt, E
coordinates that serve, A all coordinates (with factors and kinds), F those without factors, P parts of an exam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from router_models.odds import sigmoid
from router_models.population import (
    LEAST_SCALE,
    LEAST_VARIANCE,
    MODERATION,
    Population,
    Rows,
    described,
    exam_figures,
    exam_noise,
    laplace,
)

# How far an exam's difficulty and sharpness may be from those of the reference prompts: in logits, and as a factor.
# Wide: prompts that were chosen to tell models apart can be several times as sharp.
EXAM_DEVIATION = 3.0
# Old models that join as newcomers when a population is made: each costs about as much as the rest of it.
REHEARSALS = 8
GROUP_PROMPTS = 30


@dataclass(frozen=True)
class Newcomer:
    """A new model as a function of the old models' logits. All fields may be stored as an artifact's tensors."""

    weight_R: np.ndarray
    kind_weight_G: np.ndarray
    bias: float
    root_RF: np.ndarray
    """With the next two: a root of the variance of the logit, as a function of the logits and kinds."""
    kind_root_GF: np.ndarray
    root_bias_F: np.ndarray
    factor_variance: float
    """Of the logit, because the old models' scores are not known when serving."""
    stray_variance: float
    """Of the logit, on groups of like prompts."""

    def predict(self, logit_BR: np.ndarray, kind_BG: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Quality [B], and the standard deviation [B] of the rate of acceptable answers on prompts of this kind."""
        quality_B, slope_B, root_BF = self._moments(logit_BR, kind_BG)
        return quality_B, slope_B * np.sqrt((root_BF**2).sum(1) + self.stray_variance)

    def mean_quality(self, logit_NR: np.ndarray, kind_NG: np.ndarray | None = None) -> tuple[float, float]:
        """Mean quality over reference prompts, and the part of its standard deviation that graded answers would lower.

        An exam may stop when the second figure is small enough.
        """
        quality_N, slope_N, root_NF = self._moments(logit_NR, kind_NG)
        return float(quality_N.mean()), float(np.linalg.norm(slope_N @ root_NF) / len(quality_N))

    def narrows(
        self, logit_KR: np.ndarray, kind_KG: np.ndarray, logit_NR: np.ndarray, kind_NG: np.ndarray
    ) -> np.ndarray:
        """By how much one more graded answer is expected to lower the variance of `mean_quality` [K].

        The variance that an observation of information p (1 - p) takes from a linear function of normal coordinates.
        """
        quality_N, slope_N, root_NF = self._moments(logit_NR, kind_NG)
        quality_K, _, root_KF = self._moments(logit_KR, kind_KG)
        shared_K = root_KF @ (slope_N @ root_NF) / len(quality_N)
        information_K = quality_K * (1 - quality_K)
        narrowed_K: np.ndarray = shared_K**2 * information_K / (1 + information_K * (root_KF**2).sum(1))
        return narrowed_K

    def _moments(self, logit_BR: np.ndarray, kind_BG: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Quality, what one logit more adds to it, and the root of the logit's variance."""
        known_BG = np.zeros((len(logit_BR), len(self.kind_weight_G))) if kind_BG is None else kind_BG
        latent_B = logit_BR @ self.weight_R + known_BG @ self.kind_weight_G + self.bias
        root_BF = logit_BR @ self.root_RF + known_BG @ self.kind_root_GF + self.root_bias_F
        return *moderated(latent_B, (root_BF**2).sum(1) + self.factor_variance), root_BF


def moderated(latent: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quality from a logit of this variance, and what one logit more adds to it."""
    moderation = np.sqrt(1 + MODERATION * variance)
    quality = sigmoid(latent / moderation)
    return quality, quality * (1 - quality) / moderation


def population(rows: Rows, group_N: np.ndarray | None = None, set_G: np.ndarray | None = None) -> Population:
    """The old models as a prior, from their outcomes on reference prompts: an artifact's calibration rows.

    `group_N` numbers groups of about 30 like prompts; without it, those of one kind and of like difficulty form them.
    `set_G` numbers the set that each kind of prompt is from.

    Raises:
        ValueError: there are fewer than two old models, or logits that are not finite.
    """
    models = rows.logit_BR.shape[1]
    if models < 2 or not np.isfinite(rows.logit_BR).all():
        raise ValueError("a newcomer is described by the finite logits of at least two old models")
    plain = replace(described(rows), set_G=set_G)
    chosen = np.unique(np.linspace(0, models - 1, min(REHEARSALS, models)).astype(int)) if models > 2 else ()
    rehearsals = [_Rehearsal(rows.without(int(m)), rows.score_BR[:, int(m)], set_G) for m in chosen]
    kind_variance = _departure(rehearsals, rows.kind_BG, LEAST_VARIANCE)
    number_N = _like_prompts(rows) if group_N is None else np.unique(group_N, return_inverse=True)[1]
    stray_variance = _departure(rehearsals, np.eye(number_N.max() + 1)[number_N], kind_variance)
    return replace(plain, kind_variance=kind_variance, stray_variance=stray_variance)


@dataclass(frozen=True)
class ExamParts:
    """How outcomes in each part of an exam relate to what is expected elsewhere; see `exam_figures`."""

    share_KP: np.ndarray
    """Of which part each prompt is."""
    offset_P: np.ndarray
    common_P: np.ndarray
    own_P: np.ndarray
    noise_P: np.ndarray
    """Variance of what all outcomes in a part share, beyond what they do elsewhere, in squared logits."""

    @classmethod
    def as_drawn(cls, prompts: int) -> ExamParts:
        """One part of prompts drawn at random."""
        return cls(np.ones((prompts, 1)), np.zeros(1), np.ones(1), np.ones(1), np.zeros(1))

    @classmethod
    def of(cls, rows: Rows, old: Population, part_K: np.ndarray | None = None) -> ExamParts:
        """As the old models' scores show them; `part_K` numbers parts that were chosen in different ways."""
        if part_K is None or not len(part_K):
            part_K = np.zeros(len(rows.logit_BR), dtype=int)
        share_KP = np.eye(int(part_K.max(initial=0)) + 1)[part_K]
        found = []
        for share_K in share_KP.T:
            own = rows.take(share_K > 0)
            figures_3 = exam_figures(own, old, old.exam_3, EXAM_DEVIATION)
            noise = max(exam_noise(own, old, figures_3) - old.noise, 0.0)
            found.append((*(figures_3 - old.exam_3 + [0.0, 1.0, 1.0]), noise))
        return cls(share_KP, *np.array(found).T)

    def take(self, rows: np.ndarray) -> ExamParts:
        """The prompts with these indices; their parts stay as the whole exam shows them."""
        return replace(self, share_KP=self.share_KP[rows])


def fit_newcomer(rows: Rows, score_K: np.ndarray, old: Population, parts: ExamParts | None = None) -> Newcomer:
    """The new model that scored `score_K` in [0, 1] on these prompts; with none, what is known before any test.

    Old models' scores on the same prompts count for a lot with few prompts; they may be missing.
    """
    return _fitted(rows, score_K, old, parts or ExamParts.of(rows, old))


def is_admissible(newcomer: Newcomer, untested: Newcomer, rows: Rows, score_B: np.ndarray) -> bool:
    """Whether the exam taught something: on graded prompts held back from it, the Brier score beats the prior's.

    `untested` is `fit_newcomer` of no prompts. Without any prompt held back the answer is no.
    """
    known_B = np.isfinite(score_B)
    tested_B, prior_B = (each.predict(rows.logit_BR, rows.kind_BG)[0][known_B] for each in (newcomer, untested))
    gain_B = (prior_B - score_B[known_B]) ** 2 - (tested_B - score_B[known_B]) ** 2
    return bool(gain_B.sum() > 0)


def _fitted(rows: Rows, score_K: np.ndarray, old: Population, parts: ExamParts) -> Newcomer:
    factor_KQ, unknown_KQ = old.space.factors(rows)
    design_KA = np.column_stack([old.space.serving(rows.logit_BR), factor_KQ, rows.kind_BG])
    mean_A, covariance_AA = _prior(old, kinds=rows.kind_BG.shape[1])
    # A row whose factors are partly unknown is an average over them, so its logit is less sharp.
    unknown_variance_K = unknown_KQ @ old.factor_loading.mean(0) ** 2
    design_KA /= np.sqrt(1 + MODERATION * unknown_variance_K)[:, None]
    share_KP = parts.share_KP
    common_K, own_K = share_KP @ parts.common_P, share_KP @ parts.own_P
    fitted, covariance = laplace(
        np.column_stack([own_K[:, None] * design_KA, share_KP]),
        score_K,
        np.concatenate([mean_A, np.zeros(share_KP.shape[1])]),
        _beside(covariance_AA, np.diag(np.maximum(parts.noise_P, LEAST_VARIANCE))),
        share_KP @ parts.offset_P + (common_K - own_K) * (design_KA @ mean_A),
    )
    size = len(mean_A)
    return _served(fitted[:size], covariance[:size, :size], old)


def _prior(old: Population, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([old.mean, np.zeros(kinds)]), _beside(old.covariance, old.departures(kinds))


def _beside(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The covariance of two independent groups."""
    size = len(first)
    both = np.zeros((size + len(second),) * 2)
    both[:size, :size], both[size:, size:] = first, second
    return both


def _served(fitted_A: np.ndarray, covariance_AA: np.ndarray, old: Population) -> Newcomer:
    """Coordinates as weights on the old models' logits; the factors, unknown when serving, become variance."""
    space = old.space
    size, factors = 1 + space.direction_RP.shape[1], space.loading_RQ.shape[1]
    serving, hidden = np.r_[:size, size + factors : len(fitted_A)], slice(size, size + factors)
    fitted_F, root_FF = fitted_A[serving], np.linalg.cholesky(covariance_AA[np.ix_(serving, serving)])
    weight_R, root_RF = space.direction_RP @ fitted_F[1:size], space.direction_RP @ root_FF[1:size]
    return Newcomer(
        weight_R=weight_R,
        kind_weight_G=fitted_F[size:],
        bias=float(fitted_F[0] - space.center_R @ weight_R),
        root_RF=root_RF,
        kind_root_GF=root_FF[size:],
        root_bias_F=root_FF[0] - space.center_R @ root_RF,
        factor_variance=float((fitted_A[hidden] ** 2).sum() + np.trace(covariance_AA[hidden, hidden])),
        stray_variance=old.stray_variance,
    )


class _Rehearsal:
    """An old model that joins the others as a newcomer, with all its outcomes on the reference prompts."""

    def __init__(self, rows: Rows, score_N: np.ndarray, set_G: np.ndarray | None) -> None:
        self._known_N = np.isfinite(score_N)
        self._rows, self._score_K = rows.take(self._known_N), score_N[self._known_N]
        self._others = replace(described(rows), set_G=set_G)

    def departure(self, share_NG: np.ndarray, kind_variance: float) -> float:
        """Mean squared gap on groups of prompts between its rates and the prediction, in logits, less chance."""
        old = replace(self._others, kind_variance=kind_variance)
        newcomer = _fitted(self._rows, self._score_K, old, ExamParts.as_drawn(len(self._score_K)))
        quality_K = newcomer.predict(self._rows.logit_BR, self._rows.kind_BG)[0]
        share_KG, variance_K = share_NG[self._known_N], quality_K * (1 - quality_K)
        slope_G = np.maximum(variance_K @ share_KG, LEAST_SCALE)
        gap_G = (self._score_K - quality_K) @ share_KG / slope_G
        chance_G = variance_K @ share_KG**2 / slope_G**2
        return float(np.average(gap_G**2 - chance_G, weights=slope_G))


def _departure(rehearsals: Sequence[_Rehearsal], share_NG: np.ndarray, kind_variance: float) -> float:
    """How far models stray on groups of prompts; `share_NG` says how much each prompt is of each group."""
    if not rehearsals or share_NG.shape[1] < 2:
        return LEAST_VARIANCE
    found = [rehearsal.departure(share_NG, kind_variance) for rehearsal in rehearsals]
    return max(float(np.mean(found)), LEAST_VARIANCE)


def _like_prompts(rows: Rows) -> np.ndarray:
    kind_N = rows.kind_BG.argmax(1) if rows.kind_BG.shape[1] else np.zeros(len(rows.kind_BG), dtype=int)
    order_N = np.lexsort((rows.logit_BR.mean(1), kind_N))
    number_N = np.empty(len(order_N), dtype=int)
    number_N[order_N] = np.arange(len(order_N)) // GROUP_PROMPTS
    return number_N
