"""A model that joins by an exam: from a few graded answers to its quality on any prompt, without training. NumPy only.

How it works: the old models of an artifact (`router_models.heads.population`) say in which terms models differ, and
are the prior: a newcomer is first taken for one more of their kind. Its graded answers move it from there (Laplace's
approximation). Where old models answered the same questions, their scores tell a hard question from a weak newcomer: on
zeroeval, 50 questions then say about as much as 100 do otherwise. Where the artifact knows kinds of prompts, the
newcomer may depart on each kind from what its ability suggests, as far as old models do on kinds of the same set, and
is expected to do a little worse: where it was not asked, ability alone promises too much.

Exams are often chosen to tell models apart, which makes strong ones look stronger and weak ones weaker, and one part of
an exam may have been chosen in another way than the next. How much, the old models show: they sat the same exam. They
also show how far a model's rate in a part of it is off from what it does elsewhere, which no number of answers mends.

The result is linear in the old models' logits. Quality is the probability averaged over what is not known, so little
evidence means moderate numbers. The standard deviation is that of the rate of acceptable answers on prompts of this
kind: what the exam left open. How far models depart is measured by letting old models join as newcomers.

What it does not do: learn what no old model shows. A newcomer that is unlike all of them is described badly, and after
some thousands of outcomes its own head is better. Nor does an exam on few kinds of prompt say much about the others.

Legend of array suffixes: B prompts, K prompts of an exam, N reference prompts, R old models, G kinds of prompt, E
coordinates that serve, A all coordinates (with factors and kinds), F those without factors, P parts of an exam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from router_models.heads.odds import sigmoid
from router_models.heads.population import (
    LEAST_SCALE,
    LEAST_VARIANCE,
    MODERATION,
    SHORTFALL,
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
# When a population is made, every old model joins the others as a newcomer, in terms found on about this many prompts:
# with twice as many it takes 1.5 times as long, and departures come out the same.
REHEARSED_PROMPTS = 500
# What a fit takes for departure depends on how far models are thought to depart; after four rounds that is settled.
ROUNDS = 4
LEAST_INFORMATION = 1.0


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

    def predict(self, logit_BR: np.ndarray, kind_BG: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Quality [B], and the standard deviation [B] of the rate of acceptable answers on prompts of this kind."""
        quality_B, slope_B, root_BF = self._moments(logit_BR, kind_BG)
        return quality_B, slope_B * np.linalg.norm(root_BF, axis=1)

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


def population(rows: Rows, set_G: np.ndarray | None = None) -> Population:
    """The old models as a prior, from their outcomes on reference prompts: an artifact's calibration rows.

    `set_G` numbers the set that each kind of prompt is from: formats and ways of grading differ between sets, and in
    some of them models depart much further than in others.

    Raises:
        ValueError: there are fewer than two old models, or logits that are not finite.
    """
    models = rows.logit_BR.shape[1]
    if models < 2 or not np.isfinite(rows.logit_BR).all():
        raise ValueError("a newcomer is described by the finite logits of at least two old models")
    plain, kinds = described(rows), rows.kind_BG.shape[1]
    if models == 2 or kinds < 2:
        return plain
    rehearsals = [_Rehearsal(rows, model) for model in range(models)]
    return replace(plain, kind_variance_G=_departures(rehearsals, np.zeros(kinds) if set_G is None else set_G))


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
    mean_A = np.concatenate([old.mean, old.kind_mean])
    covariance_AA = _beside(old.covariance, np.diag(old.kind_variance_G))
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
    )


class _Rehearsal:
    """An old model that joins the others as a newcomer, with all its outcomes on the reference prompts."""

    def __init__(self, rows: Rows, model: int) -> None:
        others, score_N = rows.without(model), rows.score_BR[:, model]
        every = max(len(score_N) // REHEARSED_PROMPTS, 1)
        self._others = described(others.take(np.arange(0, len(score_N), every)))
        known_N = np.isfinite(score_N)
        self._rows, self._score_K = others.take(known_N), score_N[known_N]

    def departures(self, kind_variance_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The squared departure on each kind, in logits and less chance, and what is known of it [G].

        A departure is what the fit takes for one, and what is left of the gap between rates and prediction.
        """
        old = replace(self._others, kind_variance_G=kind_variance_G)
        newcomer = _fitted(self._rows, self._score_K, old, ExamParts.as_drawn(len(self._score_K)))
        share_KG = self._rows.kind_BG
        quality_K = newcomer.predict(self._rows.logit_BR, share_KG)[0]
        variance_K = quality_K * (1 - quality_K)
        known_G = variance_K @ share_KG
        slope_G = np.maximum(known_G, LEAST_SCALE)
        departure_G = newcomer.kind_weight_G + (self._score_K - quality_K) @ share_KG / slope_G
        chance_G = variance_K @ share_KG**2 / slope_G**2
        return departure_G**2 - chance_G, np.where(known_G < LEAST_INFORMATION, 0.0, known_G)

    def measured(self, in_set_SG: np.ndarray) -> np.ndarray:
        """The kinds of sets that its prompts are from: prompts of other sets may look a little like theirs [G]."""
        share_S = in_set_SG @ self._rows.kind_BG.mean(0)
        measured_G: np.ndarray = (share_S >= 0.5 / len(share_S)) @ in_set_SG
        return measured_G


def _departures(rehearsals: Sequence[_Rehearsal], set_G: np.ndarray) -> np.ndarray:
    """Variance of departures on each kind, the same for all kinds of a set [G]."""
    in_set_SG = np.unique(set_G)[:, None] == set_G
    measured_RG = np.array([rehearsal.measured(in_set_SG) for rehearsal in rehearsals])
    variance_G = np.full(len(set_G), LEAST_VARIANCE)
    for _ in range(ROUNDS):
        squared_RG, known_RG = np.stack([each.departures(variance_G) for each in rehearsals], axis=1)
        known_RG = known_RG * measured_RG
        squared_G, known_G = (squared_RG * known_RG).sum(0), known_RG.sum(0)
        variance_S = in_set_SG @ squared_G / np.maximum(in_set_SG @ known_G, LEAST_SCALE)
        # Squares about zero hold the expected shortfall too.
        variance_G = np.maximum(variance_S / (1 + SHORTFALL**2), LEAST_VARIANCE) @ in_set_SG
    return variance_G
