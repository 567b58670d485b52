"""Pools, tasks and rules: which outcome column belongs to which model under which scoring rule, and how pools mix.

How it works: a pool is one set of prompts under one scoring rule, answered by some of the models; a rule is one model
within one pool. A model's figure for a prompt is the mean over pools, weighted by how much the prompt looks like each.
Where a model was not measured in a pool, its mean scores there were completed in training, and what the prompt adds to
its task is that which all measured models of the pool share.

Legend of array suffixes: B prompts, T tasks, P pools, R rules, M models, Q pools times models.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from router_models.heads.odds import sigmoid

# Beside a pool in which a model was measured, one in which its scores are completed counts this much.
COMPLETED_WEIGHT = 0.1
LEAST_POOL = np.float32(1e-6)
LEAST_SHARE = np.float32(1e-12)


class Layout:
    """Which task and which rule belongs to which pool and model, and the tables over them."""

    def __init__(self, tensors: Mapping[str, np.ndarray], models: int) -> None:
        self.pool_T, self.pool_R = tensors["layout.pool_T"], tensors["layout.pool_R"]
        self.model_R, self.models = tensors["layout.model_R"], models
        self.tasks, self.rules = len(self.pool_T), len(self.pool_R)
        self.pools = int(self.pool_T.max()) + 1
        self.table_TR, self.log_tokens_TR = tensors["table.quality_TR"], tensors["table.log_tokens_TR"]
        self.tables_T2R = np.concatenate([self.table_TR, self.log_tokens_TR], axis=1)
        share_PR = np.eye(self.pools, dtype=np.float32)[self.pool_R].T
        self.share_RP = np.ascontiguousarray((share_PR / share_PR.sum(1, keepdims=True)).T)
        self.pool_TP = np.eye(self.pools, dtype=np.float32)[self.pool_T]
        self._pool_PT = np.ascontiguousarray(self.pool_TP.T)
        self.place_R = self.pool_R * models + self.model_R
        measured_PM = np.zeros(self.pools * models, dtype=np.float32)
        measured_PM[self.place_R] = 1
        self.measured_PM = measured_PM.reshape(self.pools, models)
        self._complete_TQ = self._completed(tensors["complete.logit_TM"])
        self.weight_PM = np.maximum(self.measured_PM, np.float32(COMPLETED_WEIGHT))
        self._is_plain = self.pools == 1 and self.rules == models

    def _completed(self, complete_TM: np.ndarray) -> np.ndarray:
        """Every pool's tasks in its own block of columns [T, P * M]."""
        blocks_TPM = self.pool_TP[:, :, None] * complete_TM[:, None, :]
        blocks_TQ: np.ndarray = blocks_TPM.reshape(self.tasks, -1)
        return blocks_TQ

    def within_pools(self, task_BT: np.ndarray) -> np.ndarray:
        """Probability of each task given its pool [B, T]."""
        pool_BP = task_BT @ self.pool_TP
        within_BT: np.ndarray = task_BT / (pool_BP @ self._pool_PT + LEAST_SHARE)
        return within_BT

    def mix(self, logit_BR: np.ndarray, own_BP: np.ndarray, task_BT: np.ndarray, within_BT: np.ndarray) -> np.ndarray:
        """Quality of every model [B, M]: over pools, as much as the prompt looks like each.

        `own_BP` is what the prompt adds to its task for the models of a pool on average, `within_BT` what
        `within_pools` makes of the tasks.
        """
        if self._is_plain:
            return sigmoid(self._by_model(logit_BR))
        value_BQ = within_BT @ self._complete_TQ + own_BP.repeat(self.models, axis=1)
        value_BQ[:, self.place_R] = logit_BR
        return self._over_pools(sigmoid(value_BQ), task_BT, self.weight_PM)

    def mix_known(self, value_BR: np.ndarray, task_BT: np.ndarray, counts_PM: np.ndarray) -> np.ndarray:
        """Mean of the rules of each model [B, M], as far as `counts_PM` (see `counts`) lets them count.

        A model of which no rule counts gets some finite number that means nothing.
        """
        if self._is_plain:
            return self._by_model(value_BR)
        value_BQ = np.zeros((len(task_BT), self.pools * self.models), np.float32)
        value_BQ[:, self.place_R] = value_BR
        return self._over_pools(value_BQ, task_BT, counts_PM)

    def over_own_pools(self, value_P: np.ndarray, task_BT: np.ndarray) -> np.ndarray:
        """Mean of a number of each pool over the pools in which a model was measured [B, M]."""
        pool_BP = task_BT @ self.pool_TP + LEAST_POOL
        mean_BM: np.ndarray = (pool_BP * value_P) @ self.measured_PM / (pool_BP @ self.measured_PM)
        return mean_BM

    def counts(self, known_R: np.ndarray) -> np.ndarray:
        """How much each pool may count for each model [P, M]: nothing where a rule is not known."""
        counts_Q = np.full(self.pools * self.models, 1e-9, np.float32)
        counts_Q[self.place_R] = np.maximum(known_R, np.float32(1e-9))
        return counts_Q.reshape(self.pools, self.models)

    def _by_model(self, value_BR: np.ndarray) -> np.ndarray:
        value_BM = np.empty_like(value_BR)
        value_BM[:, self.model_R] = value_BR
        return value_BM

    def _over_pools(self, value_BQ: np.ndarray, task_BT: np.ndarray, counts_PM: np.ndarray) -> np.ndarray:
        # Every pool counts a little: a model measured elsewhere only must not come out as 0 / 0.
        pool_BP = task_BT @ self.pool_TP + LEAST_POOL
        counted_BPM = value_BQ.reshape(len(task_BT), self.pools, self.models) * counts_PM
        # One product over pools instead of a sum of products: a third of the time for a single prompt.
        mixed_BM: np.ndarray = (pool_BP[:, None, :] @ counted_BPM)[:, 0, :] / (pool_BP @ counts_PM)
        return mixed_BM
