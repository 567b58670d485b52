"""Figures of one set, or of all sets put together, as JSON-ready values; every interval is [low, mid, high].

How it works: a set is one stratum, and pooled figures are over several; both follow the same rules. Means are over all
prompts. Areas below cost-quality hulls are taken set by set, over each set's own range of costs, and averaged by number
of prompts, as are the losses of a promise and the share of the model chosen most. One setting is chosen for all sets
where costs at a quality are pooled.

Legend of array suffixes: S seeds, B prompts, R draws, W settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from router_models.evaluation import metrics
from router_models.evaluation.areas import AXES, average
from router_models.evaluation.bootstrap import NOTHING, Against, Draws, Estimate, interval, ratio
from router_models.evaluation.contest import COVERAGES, OURS, Stratum
from router_models.evaluation.frontier import Curve
from router_models.evaluation.held_out import BEST, FORMS, MINUS_1, UNION, cost_at_quality, pooled_promise
from router_models.evaluation.lengths import Lengths
from router_models.evaluation.metrics import METRICS
from router_models.evaluation.policies import BEST_SINGLE, CHEAPEST, ORACLE, RANDOM, TASK_TABLE, ZERO
from router_models.evaluation.pricing import MOST_UNPRICED, REGRET_WEIGHTS, Priced
from router_models.evaluation.robustness import Shaken

COST_RATIO = "cost_ratio"


def figures(strata: Sequence[Stratum], shaken: Sequence[Mapping[str, Shaken]]) -> dict[str, Any]:
    """Everything that one set and several have in common. `shaken` belongs to `strata`, one by one."""
    draws = Draws.joined([stratum.draws for stratum in strata])
    results = _joined(strata)
    policies = {name: _estimates(result, strata, draws) for name, result in results.items()}
    differences = {
        name: _estimates(_difference(results[OURS], result), strata, draws)
        for name, result in results.items()
        if name != OURS
    }
    most_chosen = {name: _by_prompts(strata, [s.most_chosen[name] for s in strata]) for name in results}
    costs = _cost_figures([stratum for stratum in strata if stratum.priced])
    calibration = _calibration(strata)
    quality = {name: policy["quality"] for name, policy in policies.items()}
    return {
        "prompts": sum(stratum.prompts for stratum in strata),
        "quality": quality[OURS],
        "best_single": quality[BEST_SINGLE],
        "task_table": quality.get(TASK_TABLE),
        "random": quality[RANDOM],
        "cheapest": quality.get(CHEAPEST),
        "oracle": quality[ORACLE],
        "quality_minus_best_single": differences[BEST_SINGLE]["quality"],
        "quality_minus_task_table": differences[TASK_TABLE]["quality"] if TASK_TABLE in differences else None,
        "gap_closed": _gap_closed(results, draws).as_list(),
        "daiq": costs["daiq"],
        "cost_at_best_single": costs["cost_at_best_single"],
        "cost_at_minus_1_point": costs["cost_at_minus_1_point"],
        "ece": calibration["ece"],
        "abstained": float(np.mean(np.concatenate([_unfamiliar(stratum) for stratum in strata]))),
        "top_model_share": most_chosen[OURS],
        "prompts_with_a_choice": sum(int(stratum.trial.truth.has_choice.sum()) for stratum in strata),
        "prompts_where_scores_differ": sum(int(stratum.trial.truth.differs.sum()) for stratum in strata),
        "baselines_left_out": {name: why for stratum in strata for name, why in stratum.left_out.items()},
        "policies": policies,
        "differences": differences,
        "share_of_most_chosen": most_chosen,
        "costs": costs,
        "calibration": calibration,
        "lengths": Lengths.joined([stratum.lengths[0] for stratum in strata]).figures(),
        "robustness": _robustness(shaken),
        "coverage": _coverage(strata, draws),
    }


def _joined(strata: Sequence[Stratum]) -> dict[str, dict[str, np.ndarray]]:
    """Results of the policies that all sets have, prompt by prompt [S, B]; costs of several sets as multiples."""
    names = [name for name in strata[0].results if all(name in stratum.results for stratum in strata)]
    joined = {}
    for name in names:
        joined[name] = {m: np.concatenate([s.results[name][m] for s in strata], axis=1) for m in METRICS}
        joined[name]["cost_usd"] = np.concatenate([_spent(s, name) for s in strata], axis=1)
        joined[name][COST_RATIO] = np.concatenate([_in_units(s, name) for s in strata], axis=1)
        if len(strata) > 1:
            del joined[name]["cost_usd"]
    return joined


def _spent(stratum: Stratum, name: str) -> np.ndarray:
    """What a policy's choices cost [S, B]; NaN throughout where too many of them have no cost."""
    spent_SB = stratum.results[name]["cost_usd"]
    return spent_SB if np.isnan(spent_SB).mean() <= MOST_UNPRICED else np.full_like(spent_SB, np.nan)


def _in_units(stratum: Stratum, name: str) -> np.ndarray:
    unit_usd = stratum.priced.unit_usd if stratum.priced else float("nan")
    multiple_SB: np.ndarray = _spent(stratum, name) / unit_usd
    return multiple_SB


def _estimates(result: Mapping[str, np.ndarray], strata: Sequence[Stratum], draws: Draws) -> dict[str, Any]:
    return {
        metric: (_cost_ratio(values, strata) if metric == COST_RATIO else draws.mean(values)).as_list()
        for metric, values in result.items()
    }


def _cost_ratio(multiple_SB: np.ndarray, strata: Sequence[Stratum]) -> Estimate:
    """Of mean costs; what the best single model costs is drawn anew with the prompts, set by set."""
    ends = np.cumsum([stratum.prompts for stratum in strata])[:-1]
    parts = zip(strata, np.split(multiple_SB, ends, axis=1), strict=True)
    return ratio([Against(stratum.draws, values_SB, _unit(stratum)) for stratum, values_SB in parts])


def _unit(stratum: Stratum) -> np.ndarray:
    """What the best single model cost, as a multiple of its mean [B]; NaN where no cost is known."""
    unit_B: np.ndarray = _in_units(stratum, BEST_SINGLE)[0]
    return unit_B


def _difference(ours: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The router model minus another policy, paired by prompt."""
    return {metric: ours[metric] - other[metric] for metric in ours}


def _by_prompts(strata: Sequence[Stratum], value: Sequence[float]) -> float:
    return float(np.average(value, weights=[stratum.prompts for stratum in strata]))


def _unfamiliar(stratum: Stratum) -> np.ndarray:
    mean_B: np.ndarray = np.mean([prediction.unfamiliar for prediction in stratum.predictions], axis=0)
    return mean_B


def _gap_closed(results: Mapping[str, Mapping[str, np.ndarray]], draws: Draws) -> Estimate:
    """(Q - Q of the best single model) / (Q of the oracle - Q of the best single model)."""
    quality_KB = np.stack([results[name]["quality"].mean(0) for name in (OURS, BEST_SINGLE, ORACLE)])
    ours, single, most = quality_KB.mean(1)
    if most - single < metrics.TIE:
        return NOTHING
    ours_R, single_R, most_R = draws.means(quality_KB).T
    gap_R = np.where(most_R > single_R, most_R - single_R, np.nan)
    return interval((ours_R - single_R) / gap_R, float((ours - single) / (most - single)))


def _calibration(strata: Sequence[Stratum]) -> dict[str, Any]:
    """Over all (prompt, model) pairs of the pool that have an outcome; means over seeds."""
    score = np.concatenate([stratum.trial.truth.score.ravel() for stratum in strata])
    seeds = [
        np.concatenate([stratum.predictions[seed].quality.ravel() for stratum in strata])
        for seed in range(len(strata[0].predictions))
    ]
    rate = np.full_like(score, np.nanmean(score))
    return {
        "ece": _mean([metrics.expected_calibration_error(quality, score) for quality in seeds]),
        "brier": _mean([metrics.brier(quality, score) for quality in seeds]),
        "log_loss": _mean([metrics.log_loss(quality, score) for quality in seeds]),
        "brier_of_mean_score": metrics.brier(rate, score),
        "log_loss_of_mean_score": metrics.log_loss(rate, score),
        "reliability": metrics.reliability(seeds[0], score),
    }


def _mean(values: Sequence[float]) -> float | None:
    """Over seeds; None where nothing was predicted."""
    mean = float(np.mean(values))
    return mean if np.isfinite(mean) else None


def _robustness(shaken: Sequence[Mapping[str, Shaken]]) -> dict[str, Any]:
    return {name: Shaken.joined([part[name] for part in shaken]).figures() for name in shaken[0]}


def _coverage(strata: Sequence[Stratum], draws: Draws) -> list[dict[str, Any]]:
    """Quality where only the prompts with the widest margin are routed, the others going to the best single model."""
    quality_CB = np.concatenate([stratum.coverage for stratum in strata], axis=1)
    return [
        {"routed": share, "quality": draws.mean(quality_B).as_list()}
        for share, quality_B in zip(COVERAGES, quality_CB, strict=True)
    ]


def _cost_figures(strata: Sequence[Stratum]) -> dict[str, Any]:
    """What depends on costs; all null where no set has any."""
    if not strata:
        return {"daiq": None, "cost_at_best_single": None, "cost_at_minus_1_point": None}
    parts = [stratum.priced for stratum in strata if stratum.priced]
    names = [name for name in parts[0].curves if all(name in part.curves for part in parts)]
    sizes = [int(part.rows.sum()) for part in parts]
    best = _side_by_side([part.best for part in parts])
    curves = {name: _side_by_side([part.curves[name] for part in parts]) for name in names}
    ours = {form: cost_at_quality(curves[OURS], best, sizes, form) for form in FORMS}
    areas = _areas(strata, names)
    return {
        "daiq": areas["linear"]["minus_zero"][OURS],
        "cost_at_best_single": ours[UNION][BEST]["cost_ratio"],
        "cost_at_minus_1_point": ours[UNION][MINUS_1]["cost_ratio"],
        "sets": [stratum.trial.name for stratum in strata],
        "prompts_with_costs": sum(sizes),
        "aiq": areas,
        "cost_at_quality": ours,
        "cost_at_best_single_of": {
            name: cost_at_quality(curve, best, sizes)[BEST] for name, curve in curves.items() if name != OURS
        },
        "regret_at": _regret(parts, strata, names),
        "promise": pooled_promise([part.promise for part in parts]).figures(),
    }


def _side_by_side(curves: Sequence[Curve]) -> Curve:
    return Curve(
        np.concatenate([curve.quality for curve in curves], axis=1),
        np.concatenate([curve.cost for curve in curves], axis=1),
    )


def _regret(parts: Sequence[Priced], strata: Sequence[Stratum], names: Sequence[str]) -> dict[str, Any]:
    """By policy and weight on the linear penalty."""
    draws = Draws.joined([s.draws.only(part.rows) for s, part in zip(strata, parts, strict=True)])
    return {
        name: {
            f"{weight:g}": draws.mean(np.concatenate([part.regret[name][weight] for part in parts], axis=1)).as_list()
            for weight in REGRET_WEIGHTS
        }
        for name in names
    }


def _areas(strata: Sequence[Stratum], names: Sequence[str]) -> dict[str, Any]:
    """Areas below the cost-quality hulls, and above the Zero router's, on linear and on logarithmic cost."""
    weights = [int(stratum.priced.rows.sum()) for stratum in strata if stratum.priced]
    report: dict[str, Any] = {}
    for axis in AXES:
        area = {name: average([stratum.areas[axis][name] for stratum in strata], weights) for name in (*names, ZERO)}
        zero, zero_R = area.pop(ZERO)
        report[axis] = {
            "aiq": {name: interval(area_R, mid).as_list() for name, (mid, area_R) in area.items()}
            | {ZERO: interval(zero_R, zero).as_list()},
            "minus_zero": {
                name: interval(area_R - zero_R, mid - zero).as_list() for name, (mid, area_R) in area.items()
            },
        }
    above, above_R = average([stratum.above_zero_router for stratum in strata], weights)
    report["quality_minus_zero_router_at_our_cost"] = interval(above_R, above).as_list()
    if len(strata) == 1 and strata[0].priced:
        report["range_usd"] = [strata[0].priced.unit_usd * end for end in strata[0].priced.ends]
    return report
