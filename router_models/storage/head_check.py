"""Whether the tensors of a head fit together, so that serving never meets a shape it did not expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from router_models.heads.correction import PREFIX, Correction, Stretch
from router_models.heads.joined import LENGTHS, STORED, joined_count
from router_models.heads.tryage import ALARM_FIGURES, Speed, Tensors, stages

_SHARED = (
    "layout.pool_T",
    "layout.pool_R",
    "layout.model_R",
    "table.quality_TR",
    "table.log_tokens_TR",
    "complete.logit_TM",
    "tokens.known_R",
    "tokens.spread_M3",
)
_PER_ENCODER = ("mean_F", "scale_F", "weight_FO", "bias_O", "center_KD")
_PER_STAGE = ("platt_2P", "trust_P", "standing_M", "alarm_A")
# What serving lays out of it takes four bytes for each task, pool and model: 16 MiB at most.
MOST_PLACES = 4 << 20
# Sizes with these letters are the same in all of an artifact; others within one encoder or stage.
_GLOBAL_LETTERS = "TPRMO"


def misfit(tensors: Tensors, speeds: Sequence[Speed], models: int) -> str | None:
    """What is wrong with the tensors of a head for these encoders and so many models; None if nothing is."""
    if tuple(speeds) not in (("static",), ("transformer",), ("static", "transformer")):
        return f"its encoders are {list(speeds)}; expected static, transformer or both"
    wanted = {*_SHARED, *(f"{speed}.{name}" for speed in speeds for name in _PER_ENCODER)}
    wanted |= {f"{stage}.{name}" for stage in stages(speeds) for name in _PER_STAGE}
    for part in (Correction, Stretch):
        names = {PREFIX + each.name for each in fields(part)}
        there = names & set(tensors)
        wanted |= names if there else set()
        if any(tensors[name].shape[-1:] != (models,) for name in there if name.endswith("C")):
            return f"its adaptation is not about {models} models"
    if joined := joined_count(tensors):
        wanted |= {*STORED.values(), *LENGTHS}
        models -= joined
    if wanted != set(tensors):
        return f"tensor {min(wanted ^ set(tensors))} is {'missing' if wanted - set(tensors) else 'not expected'}"
    return _wrong_sizes(tensors, models) or _wrong_layout(tensors, models)


def _wrong_sizes(tensors: Tensors, models: int) -> str | None:
    sizes = {"M": models}
    for name in sorted(tensors, key=lambda name: (not name.startswith("layout"), name)):
        letters, shape = name.rpartition("_")[2], tensors[name].shape
        if len(shape) != len(letters):
            return f"tensor {name} has shape {shape}"
        for letter, size in zip(letters, shape, strict=True):
            key = letter if letter in _GLOBAL_LETTERS else f"{name.partition('.')[0]}.{letter}"
            expected = int(letter) if letter.isdigit() else sizes.setdefault(key, size)
            if size != expected or size == 0:
                return f"tensor {name} has shape {shape}; {letter} should be {expected}"
    return None


def _wrong_layout(tensors: Tensors, models: int) -> str | None:
    pool_T, pool_R, model_R = (tensors[f"layout.{name}"] for name in ("pool_T", "pool_R", "model_R"))
    if any(tensor.dtype != np.int32 for name, tensor in tensors.items() if name.startswith("layout.")):
        return "its layout holds something else than int32"
    pools, rules = int(pool_T.max()) + 1, len(pool_R)
    if min(pool_T.min(), pool_R.min(), model_R.min()) < 0 or pool_R.max() >= pools or model_R.max() >= models:
        return "its layout names a pool or a model that it does not have"
    # Before anything is made that has as many parts as a number in the file says.
    if pools > min(len(pool_T), rules):
        return "its layout has a pool without models or without tasks"
    if len(pool_T) * max(pools * models, len(pool_T)) > MOST_PLACES:
        return f"its layout has more than {MOST_PLACES} places of a model within a task"
    if set(pool_R.tolist()) != set(range(pools)) or set(pool_T.tolist()) != set(range(pools)):
        return "its layout has a pool without models or without tasks"
    if len({*zip(pool_R.tolist(), model_R.tolist(), strict=True)}) != rules or set(model_R.tolist()) != {
        *range(models)
    }:
        return "its layout has a rule twice, or a model without one"
    return next(filter(None, (_wrong_tensor(name, tensors) for name in sorted(tensors))), None)


def _wrong_tensor(name: str, tensors: Tensors) -> str | None:
    tensor, kind = tensors[name], name.rpartition(".")[2]
    pools, rules = int(tensors["layout.pool_T"].max()) + 1, len(tensors["layout.pool_R"])
    expected, found = None, 0
    if kind == "weight_FO":
        expected, found = len(tensors["layout.pool_T"]) + 2 * rules, tensor.shape[1]
    elif kind in ("platt_2P", "trust_P"):
        expected, found = pools, tensor.shape[-1]
    elif kind == "alarm_A":
        encoders = 1 if name.startswith("static") else sum(key.endswith(".mean_F") for key in tensors)
        expected, found = 1 + len(ALARM_FIGURES) * encoders, len(tensor)
    elif kind == "scale_F" and tensor.min() <= 0:
        return f"tensor {name} holds a scale that is not above 0"
    return None if expected in (None, found) else f"tensor {name} has size {found}; expected {expected}"
