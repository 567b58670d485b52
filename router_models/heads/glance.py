"""One conversation at a glance: what `TryageHead` says by the static encoder alone, in a fifth of its time.

How it works: for a single prompt NumPy's calls cost more than their numbers do. So everything that does not depend on
the prompt is worked out once, many steps become one matrix product, and arrays are one-dimensional. What decides is
computed at once, lengths and intervals when somebody asks for them. Only the models that are served have columns; the
others are carried along where logits are shrunk towards the mean of all. The numbers are those of `TryageHead` up to
the rounding of float32.

On the way, a quality q is kept as 2q - 1, which is the tanh of half its logit; all logits here are halves.

Legend of array suffixes: F inputs and a one, D embedding, K clusters, O outputs of the first product, T tasks, P pools,
Y both, M models that are carried along, R their rules, N places (a pool and a model) without a rule, Q both, C models
that are served, L their rules, X sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log, sqrt, tanh

import numpy as np

from router_models.heads.layout import LEAST_POOL, LEAST_SHARE, Layout
from router_models.heads.odds import LEAST_PROBABILITY
from router_models.heads.tryage import MOST_DEVIATIONS, HeadSettings, Stage, Tensors
from router_models.prediction import LOG_MOST_TOKENS, Z_90
from router_models.reading.surface import NAMES as SURFACE_NAMES

_SURFACE = len(SURFACE_NAMES)
# Where the largest logit of a task lies between these, its powers need no care: float32 ends at e^88, and what is lost
# below e^-87 has less than e^-67 of the largest.
_LOW_TOP, _HIGH_TOP = -20.0, 60.0
_MOST = np.float32(1 - 2 * LEAST_PROBABILITY)


class Glance:
    """The prediction for one conversation: quality and lengths [C], their intervals [C, 2]."""

    __slots__ = ("_head", "_output_O", "_sum_X", "alarm", "quality", "unfamiliar")

    def __init__(
        self, head: GlanceHead, quality_C: np.ndarray, alarm: float, output_O: np.ndarray, sum_X: np.ndarray
    ) -> None:
        """Two arrays hold the rest: glances are remembered by the thousand, and every view of an array is an object."""
        self.quality, self.alarm, self.unfamiliar = quality_C, alarm, alarm > head.threshold
        self._head, self._output_O, self._sum_X = head, output_O, sum_X

    @property
    def quality_interval(self) -> np.ndarray:
        return self._head.interval(self.quality, self.alarm)

    @property
    def output_tokens(self) -> np.ndarray:
        return self._head.lengths.mean(*self._head.mix(self._output_O, self._sum_X))

    @property
    def output_tokens_interval(self) -> np.ndarray:
        return self._head.lengths.ends(*self._head.mix(self._output_O, self._sum_X))

    @property
    def tasks(self) -> np.ndarray:
        """Probability of each task [T]."""
        return self._head.tasks(*self._head.mix(self._output_O, self._sum_X)[:2])


class GlanceHead:
    """Inputs of the static encoder to a glance at the models that are served."""

    def __init__(self, tensors: Tensors, settings: HeadSettings, models: int, served: Sequence[int]) -> None:
        """`models` are those that it was trained on, `served` the columns to predict, in their order."""
        stage: Stage = "full" if len(settings.speeds) == 1 else "static"
        layout = Layout(tensors, models)
        self.threshold = settings.alarm_static if stage == "static" else settings.alarm_full
        self._settings, self._pool_T = settings, layout.pool_T
        self.qualities = _Qualities(tensors, layout, stage, list(served))
        self.lengths = _Lengths(tensors, layout, list(served))
        self._prepare_inputs(tensors)
        self._prepare_outputs(tensors, layout)
        self._tasks = layout.tasks
        same_TT = layout.pool_TP[:, layout.pool_T] + LEAST_SHARE
        self._sum_TX = np.hstack([same_TT, layout.pool_TP + LEAST_POOL, np.ones((layout.tasks, 1), np.float32)])
        self._center_KD = np.ascontiguousarray(tensors["static.center_KD"])
        self._alarm_A = [float(weight) for weight in tensors[f"{stage}.alarm_A"]]

    def _prepare_inputs(self, tensors: Tensors) -> None:
        """The one at the end of the inputs takes the biases along."""
        scale_F = np.append(tensors["static.scale_F"], 1).astype(np.float64)
        self._inverse_F = 1 / scale_F
        self._mean_F = np.append(tensors["static.mean_F"], 0).astype(np.float32)
        self._most_F = (MOST_DEVIATIONS * scale_F).astype(np.float32)
        self._least_F = -self._most_F
        size = len(scale_F) - 1 - _SURFACE
        self._one = np.ones(1, np.float32)
        # Of squares: their sums over the embedding and over the surface, in deviations.
        square_2F = np.zeros((2, len(scale_F)))
        square_2F[0, :size], square_2F[1, size:-1] = self._inverse_F[:size] ** 2, self._inverse_F[size:-1] ** 2
        self._square_2F = square_2F.astype(np.float32)

    def _prepare_outputs(self, tensors: Tensors, layout: Layout) -> None:
        """Of one product: tasks, residuals of pools, residuals of rules, log lengths."""
        tasks, rules = layout.tasks, layout.rules
        whole_FO = np.vstack([tensors["static.weight_FO"], tensors["static.bias_O"]]).astype(np.float64)
        residual_FR = whole_FO[:, tasks : tasks + rules]
        parts = [
            whole_FO[:, :tasks],
            residual_FR @ layout.share_RP / 2,
            self.qualities.mapped(residual_FR),
            whole_FO[:, tasks + rules :][:, self.lengths.rules],
        ]
        self._weight_OF = np.ascontiguousarray(np.hstack(parts).T * self._inverse_F, dtype=np.float32)
        ends = np.cumsum([part.shape[1] for part in parts])
        self._mixed = int(ends[1])
        self._of_rules, self._of_lengths = (slice(*pair) for pair in pairwise(ends[1:].tolist()))

    def read(self, embedding_D: np.ndarray, surface: np.ndarray) -> Glance:
        """What is seen at once."""
        ahead_F = np.concatenate((embedding_D, surface, self._one))
        ahead_F -= self._mean_F
        np.maximum(ahead_F, self._least_F, out=ahead_F)
        np.minimum(ahead_F, self._most_F, out=ahead_F)
        output_O = self._weight_OF.dot(ahead_F)
        logit_T = output_O[: self._tasks]
        top = logit_T.item(logit_T.argmax())
        if not _LOW_TOP < top < _HIGH_TOP:
            logit_T -= np.float32(top)
        weight_T = np.exp(logit_T)
        sum_X = weight_T.dot(self._sum_TX)
        total = sum_X.item(-1)
        entropy = log(total) - float(weight_T.dot(logit_T)) / total
        # The tasks within their pools take the place of their logits, and residuals of pools are beside them.
        np.divide(weight_T, sum_X[: self._tasks], out=logit_T)
        pool_P = sum_X[self._tasks : -1]
        quality_C = self.qualities.of(output_O[: self._mixed], pool_P, output_O[self._of_rules])
        ahead_F *= ahead_F
        alarm = self._alarm(entropy, self._square_2F.dot(ahead_F), embedding_D)
        return Glance(self, quality_C, alarm, output_O, sum_X)

    def mix(self, output_O: np.ndarray, sum_X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of what `read` leaves: tasks within their pools [T], weights of pools up to a factor [P], log lengths [L]."""
        return output_O[: self._tasks], sum_X[self._tasks : -1], output_O[self._of_lengths]

    def _alarm(self, entropy: float, squares: np.ndarray, embedding_D: np.ndarray) -> float:
        """See `TryageHead.alarm`."""
        bias, by_entropy, by_embedding, by_surface, by_distance = self._alarm_A
        of_embedding, of_surface = squares.tolist()
        cosine_K = self._center_KD.dot(embedding_D)
        alarm_logit = (
            bias
            + by_entropy * entropy
            + by_embedding * sqrt(of_embedding / len(embedding_D))
            + by_surface * sqrt(of_surface / _SURFACE)
            + by_distance * (1 - cosine_K.item(cosine_K.argmax()))
        )
        return 0.5 * (1 + tanh(0.5 * alarm_logit))

    def interval(self, quality_C: np.ndarray, alarm: float) -> np.ndarray:
        """90 % interval of the rate of acceptable answers [C, 2]."""
        variance = self._settings.variance_floor + self._settings.variance_unfamiliar * alarm
        half = np.float32(Z_90 * sqrt(variance))
        ends_C2: np.ndarray = np.stack([np.maximum(quality_C - half, 0), np.minimum(quality_C + half, 1)], axis=1)
        return ends_C2

    def tasks(self, within_T: np.ndarray, pool_P: np.ndarray) -> np.ndarray:
        """Probability of each task [T]."""
        weight_T = within_T * pool_P[self._pool_T]
        task_T: np.ndarray = weight_T / weight_T.sum()
        return task_T


class _Qualities:
    """From tasks, pools and residuals to the quality of the models that are served."""

    def __init__(self, tensors: Tensors, layout: Layout, stage: Stage, served: list[int]) -> None:
        trust_P = tensors[f"{stage}.trust_P"]
        self._shrinks = bool((trust_P != 1).any())
        carried = list(range(layout.models)) if self._shrinks else served
        self.rules, place_R, place_N = _places(layout, carried)
        slope_R, offset_R = tensors[f"{stage}.platt_2P"][:, layout.pool_R[self.rules]].astype(np.float64)
        self._slope_R, self._offset_R = slope_R.astype(np.float32), offset_R
        complete_TN = tensors["complete.logit_TM"][:, np.array(carried)[place_N % len(carried)]]
        complete_TN = complete_TN * (layout.pool_T[:, None] == place_N // len(carried)) / 2
        own_TR = layout.pool_T[:, None] == layout.pool_R[self.rules]
        table_TQ = np.hstack([(2 * layout.table_TR[:, self.rules] - 1) * own_TR, complete_TN])
        pool_PQ = np.arange(layout.pools)[:, None] == np.append(np.full_like(place_R, -1), place_N // len(carried))
        self._table_YQ = np.vstack([table_TQ, pool_PQ]).astype(np.float32)
        self._order_PM = np.concatenate([place_R, place_N]).argsort().reshape(layout.pools, -1)
        self._size_R = len(self.rules)
        self._most_R = np.full(self._size_R, _MOST)
        self._least_R = -self._most_R
        self._prepare_mixing(tensors, layout, stage, carried, served)

    def _prepare_mixing(
        self, tensors: Tensors, layout: Layout, stage: Stage, carried: list[int], served: list[int]
    ) -> None:
        self._counts_PM = np.ascontiguousarray(layout.weight_PM[:, carried])
        measured_PC = layout.measured_PM[:, served]
        trust_P, standing_C = tensors[f"{stage}.trust_P"], tensors[f"{stage}.standing_M"][served] / 2
        self._size_M = len(carried)
        self._sums_PX = self._counts_PM
        self._shrunk: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
        if self._shrinks and (trust_P == trust_P[0]).all():
            self._shrunk = _EvenShrinkage(float(trust_P[0]), standing_C, served, self._size_M)
        elif self._shrinks:
            self._sums_PX = np.hstack([self._counts_PM, trust_P[:, None] * measured_PC, measured_PC])
            self._shrunk = _Shrinkage(standing_C, served, self._size_M)
        self._half_C = np.full(len(served), 0.5, np.float32)
        self._most_M = np.full(self._size_M, _MOST)
        self._least_M = -self._most_M

    def mapped(self, residual_FR: np.ndarray) -> np.ndarray:
        """Weights of the residuals of the rules that are carried along, after the map of their pool, as half logits."""
        mapped_FR: np.ndarray = residual_FR[:, self.rules] * self._slope_R / 2
        mapped_FR[-1] += self._offset_R / 2
        return mapped_FR

    def of(self, mixed_Y: np.ndarray, pool_P: np.ndarray, residual_R: np.ndarray) -> np.ndarray:
        """[C], from the tasks within their pools and what the prompt adds to each pool."""
        logit_Q = mixed_Y.dot(self._table_YQ)
        rule_R = logit_Q[: self._size_R]
        np.maximum(rule_R, self._least_R, out=rule_R)
        np.minimum(rule_R, self._most_R, out=rule_R)
        np.arctanh(rule_R, out=rule_R)
        rule_R *= self._slope_R
        rule_R += residual_R
        np.tanh(logit_Q, out=logit_Q)
        value_PM = logit_Q.take(self._order_PM)
        value_PM *= self._counts_PM
        sums_X = pool_P.dot(self._sums_PX)
        mixed_M = pool_P.dot(value_PM)
        mixed_M /= sums_X[: self._size_M]
        np.maximum(mixed_M, self._least_M, out=mixed_M)
        np.minimum(mixed_M, self._most_M, out=mixed_M)
        mixed_C = mixed_M if self._shrunk is None else self._shrunk(mixed_M, sums_X)
        mixed_C *= self._half_C
        mixed_C += self._half_C
        return mixed_C


class _Shrinkage:
    """Pulls models towards their usual standing, by each pool's own trust: see `shrunk_logit`."""

    def __init__(self, standing_C: np.ndarray, served: list[int], models: int) -> None:
        self._standing_C, self._served, self._size_M = standing_C, np.array(served), models
        self._share_M = np.full(models, 1 / models, np.float32)

    def __call__(self, mixed_M: np.ndarray, sums_X: np.ndarray) -> np.ndarray:
        """[C]."""
        size_M, size_C = self._size_M, len(self._served)
        logit_M = np.arctanh(mixed_M)
        usual_C = self._standing_C + logit_M.dot(self._share_M)
        own_C: np.ndarray = logit_M.take(self._served)
        own_C -= usual_C
        own_C *= sums_X[size_M : size_M + size_C]
        own_C /= sums_X[size_M + size_C :]
        own_C += usual_C
        np.tanh(own_C, out=own_C)
        return own_C


class _EvenShrinkage:
    """The same where all pools are trusted alike: one product does it."""

    def __init__(self, trust: float, standing_C: np.ndarray, served: list[int], models: int) -> None:
        own_CM = np.eye(models)[served]
        self._mean_CM = (trust * own_CM + (1 - trust) / models).astype(np.float32)
        self._standing_C = (1 - trust) * standing_C

    def __call__(self, mixed_M: np.ndarray, _: np.ndarray) -> np.ndarray:
        """[C]."""
        logit_C: np.ndarray = self._mean_CM.dot(np.arctanh(mixed_M, out=mixed_M))
        logit_C += self._standing_C
        np.tanh(logit_C, out=logit_C)
        return logit_C


class _Lengths:
    """From tasks, pools and what the prompt adds to the lengths of the models that are served."""

    def __init__(self, tensors: Tensors, layout: Layout, served: list[int]) -> None:
        self.rules, self._place_L, _ = _places(layout, served)
        self._table_TL = np.ascontiguousarray(layout.log_tokens_TR[:, self.rules])
        counts_PM = layout.counts(tensors["tokens.known_R"])
        self._counts_PC = np.ascontiguousarray(counts_PM[:, served])
        self._nothing_PC = np.zeros_like(self._counts_PC)
        known_M: np.ndarray = counts_PM.max(0) > 1e-3
        spread_C3 = np.where(known_M[:, None], tensors["tokens.spread_M3"], np.nan)[served]
        self._mean_C, self._ends_C2 = np.ascontiguousarray(spread_C3[:, 0]), spread_C3[:, 1:]
        self._most_C = np.full_like(self._mean_C, LOG_MOST_TOKENS)

    def mean(self, within_T: np.ndarray, pool_P: np.ndarray, log_tokens_L: np.ndarray) -> np.ndarray:
        """[C]."""
        log_C = self._log_tokens(within_T, pool_P, log_tokens_L)
        log_C += self._mean_C
        np.minimum(log_C, self._most_C, out=log_C)
        np.exp(log_C, out=log_C)
        return log_C

    def ends(self, within_T: np.ndarray, pool_P: np.ndarray, log_tokens_L: np.ndarray) -> np.ndarray:
        """Of nine of ten answers [C, 2]."""
        log_C2 = self._log_tokens(within_T, pool_P, log_tokens_L)[:, None] + self._ends_C2
        ends_C2: np.ndarray = np.exp(np.minimum(log_C2, LOG_MOST_TOKENS))
        return ends_C2

    def _log_tokens(self, within_T: np.ndarray, pool_P: np.ndarray, log_tokens_L: np.ndarray) -> np.ndarray:
        """Mean over pools [C]; a number without a meaning where no length was ever known."""
        value_L = within_T.dot(self._table_TL)
        value_L += log_tokens_L
        value_PC = self._nothing_PC.copy()
        value_PC.reshape(-1)[self._place_L] = value_L
        value_PC *= self._counts_PC
        log_C: np.ndarray = pool_P.dot(value_PC)
        log_C /= pool_P.dot(self._counts_PC)
        return log_C


def _places(layout: Layout, models: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rules of these models, their places (pool times models, plus model), and the places without a rule."""
    position = {model: number for number, model in enumerate(models)}
    rules = [rule for rule, model in enumerate(layout.model_R.tolist()) if model in position]
    place_R = [int(layout.pool_R[rule]) * len(models) + position[int(layout.model_R[rule])] for rule in rules]
    place_N = sorted(set(range(layout.pools * len(models))) - set(place_R))
    return np.array(rules, np.intp), np.array(place_R, np.intp), np.array(place_N, np.intp)
