"""What task and model let expect: mean scores and mean lengths that nobody, or hardly anybody, measured.

How it works: a model's mean in a task is taken as a_t + b_t * theta_m, one number per model over all pools. For scores
on the logit scale a_t says how easy the task is and theta_m how able the model: a one-factor item response model (Rasch
1960, Birnbaum 1968) on tasks instead of items. For log lengths theta_m says how much a model writes. Models that
answered several pools put their scales in relation; a model of one pool only gets its number there. Both sides are
fitted in turn by ridge regression: models' numbers towards 0, slopes towards 1, so that what little overlap there is
cannot invent much.

Legend of array suffixes: T tasks, R rules, M models.
"""

from __future__ import annotations

import numpy as np

from router_models.training.rows import Library

ROUNDS = 60
# In squared logits, or squared log tokens: models within a pool differ by about 1.
ABILITY_RIDGE = 0.3
SLOPE_RIDGE = 3.0


def expected_values(value_TR: np.ndarray, weight_TR: np.ndarray, library: Library) -> np.ndarray:
    """The value of every model in every task [T, M]; how much is known of each goes from 0 (nothing) to 1."""
    tasks, models = len(library.pool_T), len(library.models)
    value_TM, weight_TM = np.zeros((tasks, models)), np.zeros((tasks, models))
    for rule, model in enumerate(library.model_R):
        own_T = library.pool_T == library.pool_R[rule]
        value_TM[own_T, model], weight_TM[own_T, model] = value_TR[own_T, rule], weight_TR[own_T, rule]
    known_T = np.maximum(weight_TM.sum(1), np.finfo(float).tiny)
    ability_M, slope_T = np.zeros(models), np.ones(tasks)
    level_T = (value_TM * weight_TM).sum(1) / known_T
    for _ in range(ROUNDS):
        left_TM = (value_TM - level_T[:, None]) * weight_TM
        ability_M = (slope_T @ left_TM) / ((slope_T**2) @ weight_TM + ABILITY_RIDGE)
        left_TM = (value_TM - level_T[:, None] - ability_M[None, :]) * weight_TM
        slope_T = 1 + (left_TM @ ability_M) / (weight_TM @ ability_M**2 + SLOPE_RIDGE)
        left_TM = (value_TM - slope_T[:, None] * ability_M[None, :]) * weight_TM
        level_T = left_TM.sum(1) / known_T
    return np.asarray(level_T[:, None] + slope_T[:, None] * ability_M[None, :])


def with_measured(expected_TM: np.ndarray, value_TR: np.ndarray, library: Library) -> np.ndarray:
    """What is expected, and the rules' own values where their pools have the task [T, M]."""
    value_TM = expected_TM.astype(np.float32)
    for rule, model in enumerate(library.model_R):
        own_T = library.pool_T == library.pool_R[rule]
        value_TM[own_T, model] = value_TR[own_T, rule]
    return value_TM
