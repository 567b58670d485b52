"""Mean scores that nobody measured: a model's standing in pools whose prompts it never answered.

How it works: on the logit scale, a model's mean score in a task is taken as a_t + b_t * theta_m, one ability per model.
Models that answered several pools put their scales in relation; a model of one pool only gets its ability there. Both
sides are fitted in turn by ridge regression: abilities towards 0, slopes towards 1, so that what little overlap there
is cannot invent much. This is a one-factor item response model (Rasch 1960, Birnbaum 1968) on tasks instead of items.

Legend of array suffixes: T tasks, R rules, M models.
"""

from __future__ import annotations

import numpy as np

from router_models.odds import logit
from router_models.training.rows import Library

ROUNDS = 60
# In units of squared logits: models within a pool differ by about 1.
ABILITY_RIDGE = 0.3
SLOPE_RIDGE = 3.0


def completed_logits(table_TR: np.ndarray, library: Library) -> np.ndarray:
    """Logit of the mean score of every model in every task [T, M]; measured ones are as measured."""
    tasks, models = len(library.pool_T), len(library.models)
    measured_TM = np.full((tasks, models), np.nan)
    for rule, model in enumerate(library.model_R):
        own_T = library.pool_T == library.pool_R[rule]
        measured_TM[own_T, model] = logit(table_TR[own_T, rule])
    known_TM = np.isfinite(measured_TM)
    value_TM, weight_TM = np.nan_to_num(measured_TM), known_TM.astype(float)
    ability_M, slope_T = np.zeros(models), np.ones(tasks)
    level_T = (value_TM * weight_TM).sum(1) / np.maximum(weight_TM.sum(1), 1)
    for _ in range(ROUNDS):
        left_TM = (value_TM - level_T[:, None]) * weight_TM
        ability_M = (slope_T @ left_TM) / ((slope_T**2) @ weight_TM + ABILITY_RIDGE)
        left_TM = (value_TM - level_T[:, None] - ability_M[None, :]) * weight_TM
        slope_T = 1 + (left_TM @ ability_M) / (weight_TM @ ability_M**2 + SLOPE_RIDGE)
        left_TM = (value_TM - slope_T[:, None] * ability_M[None, :]) * weight_TM
        level_T = left_TM.sum(1) / np.maximum(weight_TM.sum(1), 1)
    completed_TM = np.where(known_TM, value_TM, level_T[:, None] + slope_T[:, None] * ability_M[None, :])
    return np.asarray(completed_TM, dtype=np.float32)
