"""The old models of an artifact as a prior for new ones: in which terms they differ, and how far. NumPy only.

How it works: what the old models are predicted to score on a prompt says what kind of prompt it is. The logit of every
model is taken to be linear in a constant, in the few directions in which the logits of the old models differ most from
prompt to prompt, and in a few factors. Factors are what the old models' scores on a prompt say beyond what was
predicted: a question that strong models failed is harder than it looks. They are known on prompts that old models
answered, and nowhere else.

An old model's coordinates in these terms are, for the directions, those of its predicted logit; for the factors, how it
moves with what the scores of the others show. Their mean and covariance are the prior.

Legend of array suffixes: B prompts, R old models, G kinds of prompt, P directions, Q factors of old scores, E = 1 + P
coordinates that serve, C = E + Q, X outcomes, A coordinates of a fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from router_models.heads.odds import sigmoid

# Chosen on mmlu_pro, zeroeval and llmrouter_nim9, leaving one model out: 4 to 12 directions and 1 to 4 factors do
# about as well; what hurts is a prior that is wider than the old models are.
MOST_DIRECTIONS = 6
MOST_FACTORS = 2
# The prior is that of the old models as if two more had been seen that differ by one logit in ability and little else.
PRIOR_MODELS = 2.0
PRIOR_ABILITY_VARIANCE = 1.0
PRIOR_OTHER_VARIANCE = 0.05
# The outcomes of all old models on one question are worth about this many independent ones.
OUTCOMES_PER_QUESTION = 3.0
# Before outcomes are seen, a relation between expected and real ones may be anything.
ANY_DEVIATION = 10.0
# How far a newcomer is expected below what its ability suggests on a kind of prompt, in standard deviations of such
# departures: models fail at a format or an instruction more often than they excel at one. Old models of two artifacts
# (71 each) that sat the exam without being known had the least log loss at about 0.6 on llmrouter_nim9, where
# departures are large; on mmlu_pro and zeroeval 0 to 0.6 are level.
SHORTFALL = 0.4
# Squared logits by which an old model's rate in a part of an exam may be off, for a start; it has few outcomes there.
SHIFT_VARIANCE = 9.0
LEAST_OUTCOMES = 10
LEAST_SCALE = 1e-3
LEAST_VARIANCE = 1e-4
NEWTON_STEPS = 25
# Averaging sigmoid(z) over a normal z of variance v gives about sigmoid(z / sqrt(1 + v * this)) (MacKay 1992, eq. 24).
MODERATION = np.pi / 8


@dataclass(frozen=True)
class Rows:
    """Prompts as the old models' heads, which had not seen them, read them; and what the old models scored."""

    logit_BR: np.ndarray
    """Logits of predicted quality, finite."""
    score_BR: np.ndarray
    """In [0, 1]; NaN where there is no outcome."""
    kind_BG: np.ndarray
    """How much each prompt is of each kind; rows sum to 1. No columns where the artifact knows no kinds."""

    @classmethod
    def of(cls, logit_BR: np.ndarray, score_BR: np.ndarray | None = None, kind_BG: np.ndarray | None = None) -> Rows:
        """Rows with what is left out marked as unknown."""
        unknown_BR = np.full(logit_BR.shape, np.nan)
        no_kind_BG = np.zeros((len(logit_BR), 0))
        return cls(
            np.asarray(logit_BR, dtype=float),
            unknown_BR if score_BR is None else np.asarray(score_BR, dtype=float),
            no_kind_BG if kind_BG is None else np.asarray(kind_BG, dtype=float),
        )

    def take(self, rows: np.ndarray) -> Rows:
        """The prompts with these indices, or where this mask is true."""
        return Rows(self.logit_BR[rows], self.score_BR[rows], self.kind_BG[rows])

    def without(self, model: int) -> Rows:
        """As if one old model were not there."""
        return Rows(np.delete(self.logit_BR, model, axis=1), np.delete(self.score_BR, model, axis=1), self.kind_BG)


@dataclass(frozen=True)
class Space:
    """In which terms prompts are described."""

    center_R: np.ndarray
    direction_RP: np.ndarray
    loading_RQ: np.ndarray
    factor_scale_Q: np.ndarray
    explained_Q: np.ndarray
    """How much of each factor's variance the scores of all old models explain."""

    def serving(self, logit_BR: np.ndarray) -> np.ndarray:
        """A constant and the directions [B, E]."""
        return np.column_stack([np.ones(len(logit_BR)), (logit_BR - self.center_R) @ self.direction_RP])

    def factors(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """What old scores say beyond the prediction [B, Q], and how much of it stays unknown, 0 to 1 [B, Q].

        The unknown share is 0 where all old models have outcomes and 1 where none has.
        """
        mean_BQ, remaining_BQ = _posterior(*(part_BR.sum(1) for part_BR in _evidence(rows, self.loading_RQ)))
        known_BQ = (1 - remaining_BQ) / self.explained_Q
        return mean_BQ / self.factor_scale_Q, np.clip(1 - known_BQ, 0, 1)

    def factors_without_each(self, rows: Rows) -> np.ndarray:
        """What the scores of all other old models say, for each of them [B, R, Q]."""
        parts = _evidence(rows, self.loading_RQ)
        mean_BRQ, _ = _posterior(*(part_BR.sum(1, keepdims=True) - part_BR for part_BR in parts))
        scaled_BRQ: np.ndarray = mean_BRQ / self.factor_scale_Q
        return scaled_BRQ


@dataclass(frozen=True)
class Population:
    """The old models as a prior for new ones, and what rehearsals with them showed."""

    space: Space
    coordinate_RC: np.ndarray
    exam_3: np.ndarray
    """Offset, common slope and own slope of the reference prompts themselves: see `exam_figures`."""
    noise: float = 0.0
    """What `exam_noise` is on the reference prompts."""
    kind_variance_G: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Of a model's departure on each kind of prompt, in squared logits."""

    @property
    def mean(self) -> np.ndarray:
        """Coordinates of the mean old model [C]."""
        mean_C: np.ndarray = self.coordinate_RC.mean(0)
        return mean_C

    @property
    def covariance(self) -> np.ndarray:
        """Of the old models' coordinates, drawn a little towards a fixed guess (an inverse Wishart prior) [C, C]."""
        models, size = self.coordinate_RC.shape
        guess_C = np.full(size, PRIOR_OTHER_VARIANCE)
        guess_C[0] = PRIOR_ABILITY_VARIANCE
        centred_RC = self.coordinate_RC - self.mean
        spread_CC = centred_RC.T @ centred_RC + PRIOR_MODELS * np.diag(guess_C)
        covariance_CC: np.ndarray = spread_CC / (models - 1 + PRIOR_MODELS)
        return covariance_CC

    @property
    def kind_mean(self) -> np.ndarray:
        """How a newcomer is expected to depart on each kind, in logits [G]."""
        mean_G: np.ndarray = -SHORTFALL * np.sqrt(self.kind_variance_G)
        return mean_G

    @property
    def factor_loading(self) -> np.ndarray:
        """How much each old model's logit moves with the factors [R, Q]."""
        return self.coordinate_RC[:, -len(self.space.factor_scale_Q) :]


def described(rows: Rows) -> Population:
    """The old models' coordinates, from their outcomes on reference prompts; nothing rehearsed yet."""
    center_R = rows.logit_BR.mean(0)
    centred_BR = rows.logit_BR - center_R
    direction_RP = _directions(centred_BR, min(MOST_DIRECTIONS, max(len(center_R) - 2, 1)))
    direction_RP /= np.maximum((centred_BR @ direction_RP).std(0), LEAST_SCALE)
    space = _with_factors(rows, center_R, direction_RP)
    smooth_RE = np.linalg.lstsq(space.serving(rows.logit_BR), rows.logit_BR, rcond=None)[0].T
    factor_BRQ = space.factors_without_each(rows)
    loading_RQ = np.stack([_loading(rows, model, factor_BRQ[:, model]) for model in range(len(center_R))])
    coordinate_RC = np.column_stack([_sharpness(loading_RQ)[:, None] * smooth_RE, loading_RQ])
    as_expected_3 = np.array([0.0, 1.0, 1.0])
    least_G = np.full(rows.kind_BG.shape[1], LEAST_VARIANCE)
    plain = Population(space, coordinate_RC, as_expected_3, kind_variance_G=least_G)
    exam_3 = exam_figures(rows, plain, as_expected_3, ANY_DEVIATION)
    return replace(plain, exam_3=exam_3, noise=exam_noise(rows, plain, exam_3))


def exam_figures(rows: Rows, old: Population, expected_3: np.ndarray, deviation: float) -> np.ndarray:
    """How outcomes relate to what is expected of old models: logit = offset + common * mean + own * (model - mean).

    Each model is expected to do what its head and the scores of the others suggest; `mean` is the mean model. The own
    slope is large on prompts that tell models apart. Without outcomes it is `expected_3`.
    """
    known_BR = np.isfinite(rows.score_BR)
    design_X3 = _expected(rows, old)[known_BR]
    weight = min(1.0, OUTCOMES_PER_QUESTION / known_BR.shape[1])
    return laplace(design_X3, rows.score_BR[known_BR], expected_3, np.eye(3) * deviation**2, weight=weight)[0]


def exam_noise(rows: Rows, old: Population, figures_3: np.ndarray) -> float:
    """Variance, in squared logits, of what an old model's rate here is off from what `exam_figures` make of it.

    What prompts say together about one model does not become surer with their number: chosen ones may all favour it.
    The excess over chance of the squared shifts that fit the old models' outcomes: Paule and Mandel's estimate, by
    Newton steps from 0. A model that is nearly always right may shift far by chance, and says little.
    """
    known_BR = np.isfinite(rows.score_BR)
    latent_BR = _expected(rows, old) @ figures_3
    shifts = [
        _shift(rows.score_BR[known_BR[:, model], model], latent_BR[known_BR[:, model], model])
        for model in np.flatnonzero(known_BR.sum(0) >= LEAST_OUTCOMES)
    ]
    if len(shifts) < 2:
        return 0.0
    squared_R, chance_R = np.array(shifts).T
    noise = 0.0
    for _ in range(NEWTON_STEPS):
        ratio_R = squared_R / (chance_R + noise)
        noise = max(noise + float((ratio_R.sum() - len(shifts)) / (ratio_R / (chance_R + noise)).sum()), 0.0)
    return noise


def _shift(score_X: np.ndarray, latent_X: np.ndarray) -> tuple[float, float]:
    """The square of what has to be added to these logits, and its variance by chance."""
    prior = np.eye(1) * SHIFT_VARIANCE
    shift, variance = laplace(np.ones((len(score_X), 1)), score_X, np.zeros(1), prior, latent_X)
    return float(shift[0] ** 2), float(variance[0, 0])


def _expected(rows: Rows, old: Population) -> np.ndarray:
    """What is expected of each old model, as the terms of `exam_figures`: 1, the mean model, its own part [B, R, 3]."""
    mean_B = np.column_stack([old.space.serving(rows.logit_BR), old.space.factors(rows)[0]]) @ old.mean
    shift_BR = np.einsum("brq,rq->br", old.space.factors_without_each(rows), old.factor_loading)
    own_BR = _sharpness(old.factor_loading) * rows.logit_BR + shift_BR - mean_B[:, None]
    return np.stack([np.ones_like(own_BR), np.broadcast_to(mean_B[:, None], own_BR.shape), own_BR], axis=-1)


def laplace(
    design_XA: np.ndarray,
    score_X: np.ndarray,
    mean_A: np.ndarray,
    covariance_AA: np.ndarray,
    offset_X: np.ndarray | float = 0.0,
    weight: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Mode and covariance of logistic regression under a normal prior; each outcome counts `weight`."""
    precision_AA = np.linalg.inv(covariance_AA)

    def loss(value_A: np.ndarray) -> float:
        latent_X = design_XA @ value_A + offset_X
        misfit = weight * (np.logaddexp(0, latent_X) - score_X * latent_X).sum()
        return float(misfit + 0.5 * (value_A - mean_A) @ precision_AA @ (value_A - mean_A))

    def curvature(p_X: np.ndarray) -> np.ndarray:
        hessian_AA: np.ndarray = (design_XA * (weight * p_X * (1 - p_X))[:, None]).T @ design_XA + precision_AA
        return hessian_AA

    mode_A, lowest = mean_A, loss(mean_A)
    for _ in range(NEWTON_STEPS):
        p_X = sigmoid(design_XA @ mode_A + offset_X)
        slope_A = weight * design_XA.T @ (p_X - score_X) + precision_AA @ (mode_A - mean_A)
        step_A = np.linalg.solve(curvature(p_X), slope_A)
        # A full step can overshoot where probabilities are near 0 or 1.
        tried = ((size, loss(mode_A - size * step_A)) for size in 0.5 ** np.arange(12))
        size, reached = next(((size, value) for size, value in tried if value < lowest - 1e-9), (0.0, lowest))
        if size == 0.0:
            break
        mode_A, lowest = mode_A - size * step_A, reached
    return mode_A, np.linalg.inv(curvature(sigmoid(design_XA @ mode_A + offset_X)))


def _directions(value_BR: np.ndarray, count: int) -> np.ndarray:
    """The leading principal directions [R, count]."""
    vector_RR = np.linalg.eigh(value_BR.T @ value_BR)[1]
    leading: np.ndarray = vector_RR[:, ::-1][:, :count].copy()
    return leading


def _with_factors(rows: Rows, center_R: np.ndarray, direction_RP: np.ndarray) -> Space:
    surprise_BR = np.nan_to_num(rows.score_BR - sigmoid(rows.logit_BR))
    models = len(center_R)
    # Of length sqrt(R), so that a factor is worth about one logit to the average model.
    loading_RQ = _directions(surprise_BR, min(MOST_FACTORS, models - 1)) * np.sqrt(models)
    answered = rows.take(np.isfinite(rows.score_BR).any(1))
    if not len(answered.score_BR):
        answered = rows
    mean_BQ, remaining_BQ = _posterior(*(part_BR.sum(1) for part_BR in _evidence(answered, loading_RQ)))
    scale_Q = np.maximum(mean_BQ.std(0), LEAST_SCALE)
    explained_Q = np.maximum(1 - remaining_BQ.mean(0), LEAST_SCALE)
    return Space(center_R, direction_RP, loading_RQ, scale_Q, explained_Q)


def _evidence(rows: Rows, loading_RQ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope [B, R, Q] and curvature [B, R, Q, Q] that each old score adds to a prompt's factors, at 0."""
    predicted_BR = sigmoid(rows.logit_BR)
    surprise_BR = np.nan_to_num(rows.score_BR - predicted_BR)
    information_BR = np.where(np.isfinite(rows.score_BR), predicted_BR * (1 - predicted_BR), 0.0)
    product_RQQ = loading_RQ[:, :, None] * loading_RQ[:, None, :]
    return surprise_BR[:, :, None] * loading_RQ, information_BR[:, :, None, None] * product_RQQ


def _posterior(slope: np.ndarray, curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance [..., Q] of factors with a standard normal prior: one Newton step from 0."""
    covariance = np.linalg.inv(curvature + np.eye(slope.shape[-1]))
    return (covariance @ slope[..., None])[..., 0], np.diagonal(covariance, axis1=-2, axis2=-1)


def _loading(rows: Rows, model: int, factor_BQ: np.ndarray) -> np.ndarray:
    """How much an old model's logit moves with the factors that the others' scores show [Q]."""
    known_B = np.isfinite(rows.score_BR[:, model])
    factor_XQ, logit_X, score_X = factor_BQ[known_B], rows.logit_BR[known_B, model], rows.score_BR[known_B, model]
    loading_Q, precision_QQ = np.zeros(factor_XQ.shape[1]), np.eye(factor_XQ.shape[1])
    for _ in range(10):
        p_X = sigmoid(_sharpness(loading_Q) * logit_X + factor_XQ @ loading_Q)
        hessian_QQ = (factor_XQ * (p_X * (1 - p_X))[:, None]).T @ factor_XQ + precision_QQ
        # The sharpness follows the loading, which the Hessian leaves out: full steps can swing.
        loading_Q = loading_Q - 0.7 * np.linalg.solve(hessian_QQ, factor_XQ.T @ (p_X - score_X) + loading_Q)
    return loading_Q


def _sharpness(loading: np.ndarray) -> np.ndarray:
    """By how much logits grow once the factors are known: the head's own are an average over them. [..., Q] to [...]"""
    sharpness: np.ndarray = np.sqrt(1 + MODERATION * (loading**2).sum(-1))
    return sharpness
