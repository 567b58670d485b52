"""The model card, rendered from the manifest and the evaluation; nothing in it is typed by hand."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from router_models.evaluation.contest import OURS, OURS_PROMISED
from router_models.evaluation.held_out import BEST, MINUS_1, MINUS_2, PROMISED_LOSS, UNION
from router_models.evaluation.policies import BEST_SINGLE, CHEAPEST, ORACLE, RANDOM, TASK_TABLE, ZERO
from router_models.storage.artifact import Artifact

# Tasks with fewer prompts are not named as lost.
LEAST_PROMPTS = 20
MOST_LOST_TASKS = 12
_COLUMNS = (
    ("quality", "quality"),
    ("oracle match", "oracle_match"),
    ("... where scores differ", "oracle_match_where_scores_differ"),
    ("cheapest-best match", "cheapest_best_match"),
    ("regret", "regret"),
    ("cost, x best single", "cost_ratio"),
)
# Policies that no difference is listed for: it would say nothing, or what the table says.
_APART = (ORACLE, RANDOM, CHEAPEST, OURS_PROMISED)
_TARGETS = {BEST: "as good as the best single model", MINUS_1: "1 point less", MINUS_2: "2 points less"}


def render_card(artifact: Artifact, report: Mapping[str, Any], command: str) -> str:
    """README.md of the artifact."""
    parts = [f"# {artifact.name}", str(artifact.about.get("about", "")), _what(artifact), _data(artifact)]
    parts.append(_overview(report))
    parts += [_results(name, figures, report) for name, figures in report["sets"].items()]
    parts += [_calibration(report), _robustness(report), _tuning(artifact), _latency(report), _gates(report)]
    parts += [_limits(artifact, report), _reproduce(artifact, report, command)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _what(artifact: Artifact) -> str:
    models = ", ".join(f"`{model}`" for model in artifact.models)
    return f"""## What it predicts

For each of {len(artifact.models)} models the probability that its answer to a prompt is acceptable, with a 90 %
interval of the rate of acceptable answers on prompts of that kind; the mean length of the answer in tokens, with the
interval that holds nine of ten answers; and whether the prompt is unlike all that was learned from. Models, in output
order: {models}.{_mending(artifact)}"""


def _mending(artifact: Artifact) -> str:
    if not artifact.words:
        return ""
    return f"""

A word that neither the tokenizer nor `words.txt` has is read as the commonest word one slip away. `words.txt` holds
{len(artifact.words):,} words of three or more of the texts it learned from, and nothing else of them."""


def _data(artifact: Artifact) -> str:
    about = artifact.about
    lines = [*_bullets(about.get("data", {})), *(f"- {line}" for line in about.get("licences", ()))]
    return "\n".join(["## Data and licences", "", *lines])


def _bullets(value: object, depth: int = 0) -> Iterator[str]:
    """A nested value as a list; what a key means is in its name."""
    indent = "  " * depth
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping) or (isinstance(inner, list) and any(isinstance(i, Mapping) for i in inner)):
                yield f"{indent}- {_words(key)}:"
                yield from _bullets(inner, depth + 1)
            else:
                yield f"{indent}- {_words(key)}: {_plain(inner)}"
    elif isinstance(value, list):
        for inner in value:
            yield from [f"{indent}- {_plain(inner)}"] if not isinstance(inner, Mapping) else _bullets(inner, depth)


def _words(key: object) -> str:
    return str(key).replace("_", " ")


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(inner) for inner in value)
    return str(value)


def _overview(report: Mapping[str, Any]) -> str:
    header = (
        "| set | prompts | models | router model | best single | task-name table | oracle | minus best single "
        "| minus task table | AIQ minus Zero router | cost at best single's quality | at 1 point less |"
    )
    rows = [header, "|---" * 12 + "|"]
    several = {"**all sets**": report["pooled"]} if len(report["sets"]) > 1 else {}
    rows += [_overview_row(name, figures) for name, figures in {**report["sets"], **several}.items()]
    notes = report["notes"]
    said = [_wrapped(notes[name]) for name in ("intervals", "pool", "baselines", "costs", "settings", "aiq", "cost_at")]
    return "\n".join(["## Results", "", *rows, "", *said])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False)


def _overview_row(name: str, figures: Mapping[str, Any]) -> str:
    names = ("quality", "best_single", "task_table", "oracle")
    signed = ("quality_minus_best_single", "quality_minus_task_table", "daiq")
    cells = [name, f"{figures['prompts']:,}", str(figures.get("models", "-"))]
    cells += [_mid(figures[key]) for key in names]
    cells += [_interval(figures[key], signed=True) for key in signed]
    cells += [_interval(figures[key], digits=2) for key in ("cost_at_best_single", "cost_at_minus_1_point")]
    return "| " + " | ".join(cells) + " |"


def _results(name: str, figures: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    seeds = len(report["artifacts"])
    header = "| policy | " + " | ".join(title for title, _ in _COLUMNS) + " |"
    rows = [header, "|---" * (len(_COLUMNS) + 1) + "|"]
    rows += [_row(policy, values) for policy, values in figures["policies"].items()]
    over = f" and {seeds} training seeds" if seeds > 1 else ""
    said = (
        f"{figures['prompts']:,} prompts, on {figures['prompts_where_scores_differ']:,} of which the models' scores "
        f"differ; {figures['models']} models. 95 % intervals over prompts{over}. Best single model, from the "
        f"{figures['best_single_from']}: `{figures['best_single_model']}`."
    )
    if figures["unknown_models"]:
        unknown = ", ".join(f"`{model}`" for model in figures["unknown_models"])
        said += f" Not known to the artifact, and left out: {unknown}."
    if figures["baselines_left_out"]:
        left_out = "; ".join(f"{policy} ({why})" for policy, why in figures["baselines_left_out"].items())
        said += f" Baselines left out: {left_out}."
    return "\n".join([f"### On `{name}`", "", _wrapped(said), "", *rows, "", *_differences(figures), *_costs(figures)])


def _differences(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- {OURS} minus {name}: quality {_interval(difference['quality'], signed=True)}, match where scores differ "
        f"{_interval(difference['oracle_match_where_scores_differ'], signed=True)}"
        for name, difference in figures["differences"].items()
        if name not in _APART
    ]
    share, gap = figures["top_model_share"], _interval(figures["gap_closed"])
    return [*lines, f"- Gap to the oracle closed: {gap}; the model it chooses most gets {share:.0%} of the prompts."]


def _costs(figures: Mapping[str, Any]) -> Iterator[str]:
    costs = figures["costs"]
    if "aiq" not in costs:
        yield "- No costs are compared: none are known, or the best single model is free."
        return
    aiq = costs["aiq"]
    for axis in ("linear", "log"):
        areas = {name: _interval(value) for name, value in aiq[axis]["aiq"].items()}
        kept = ", ".join(f"{name} {areas[name]}" for name in (OURS, TASK_TABLE, ZERO) if name in areas)
        above = _interval(aiq[axis]["minus_zero"][OURS], signed=True, digits=4)
        yield f"- Area below the cost-quality curve, {axis} cost: {kept}; above the Zero router {above}."
    at = costs["cost_at_quality"][UNION]
    reached = "; ".join(
        f"{said} {_interval(at[name]['cost_ratio'], digits=2)} x its cost "
        f"(quality {_interval(at[name]['quality_minus_best_single'], signed=True)})"
        for name, said in _TARGETS.items()
    )
    yield f"- Cost on the other half: {reached}."
    promise = costs["promise"]
    if promise["kept"] is None:
        yield f"- `max_quality_loss: {promise['max_quality_loss']:g}` was not tried: one prompt cannot be halved."
        return
    yield (
        f"- `max_quality_loss: {promise['max_quality_loss']:g}` chosen on one half was kept on the other in "
        f"{promise['kept']:.0%} of {promise['repetitions']} repetitions (mean loss {_interval(promise['loss'])}, cost "
        f"{_interval(promise['cost_ratio'], digits=2)} x); a safe weight was found in {promise['weight_found']:.0%}."
    )


def _row(name: str, policy: Mapping[str, Any]) -> str:
    cells = [_interval(policy[metric]) for _, metric in _COLUMNS]
    return f"| {'**' + name + '**' if name.startswith(OURS) else name} | " + " | ".join(cells) + " |"


def _calibration(report: Mapping[str, Any]) -> str:
    header = (
        "| set | ECE | Brier | ... of the mean score | log loss | abstained | rates inside the 90 % interval "
        "| lengths inside 90 % | inside 80 % | log length error, x usual (RMSE, MAE) |"
    )
    rows = [header, "|---" * 10 + "|"]
    for name, figures in {**report["sets"], "all sets": report["pooled"]}.items():
        calibration, length = figures["calibration"], figures["lengths"]
        ratios = length.get("log_error_of_middle", {})
        cells = [_number(calibration[key]) for key in ("ece", "brier", "brier_of_mean_score", "log_loss")]
        cells += [f"{figures['abstained']:.1%}", _number(figures.get("rate_inside_90_percent_interval"), 2)]
        cells += [_number(length.get(f"inside_{share}_percent_interval"), 2) for share in ("90", "derived_80")]
        cells.append(f"{_number(ratios.get('rmse_ratio'), 2)}, {_number(ratios.get('mae_ratio'), 2)}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    said = (
        "ECE over 15 bins of equal size, all models together. An interval of quality is checked on groups of like "
        "prompts: the share of (group, model) pairs whose observed rate lies inside, chance allowed for. Prompts it "
        f"abstains on go to the best single model. Lengths: {report['notes']['lengths']} In the table, the errors of "
        "that middle."
    )
    return "\n".join(["## Calibration, abstention and lengths", "", _wrapped(said), "", *rows])


def _robustness(report: Mapping[str, Any]) -> str:
    rows = ["| set | change | decisions unchanged by quality | ... with cost | quality, x | spending, x | flagged |"]
    rows.append("|---" * 7 + "|")
    for name, figures in {**report["sets"], "all sets": report["pooled"]}.items():
        for change, values in figures["robustness"].items():
            keys = ("unchanged_by_quality", "unchanged", "quality_ratio", "spend_ratio", "unfamiliar")
            rows.append(f"| {name} | {change} | " + " | ".join(_number(values[key], 2) for key in keys) + " |")
    said = f"Up to 400 prompts of each set, changed. {report['notes']['robustness']}"
    return "\n".join(["## Robustness", "", _wrapped(said), "", *rows])


def _tuning(artifact: Artifact) -> str:
    lines = list(_bullets(artifact.about.get("tuning", {})))
    return "\n".join(["## How it was tuned", "", *lines]) if lines else ""


def _latency(report: Mapping[str, Any]) -> str:
    latency = report["latency_ms"]
    rows = ["| prompt | p50 ms | p99 ms | p50 ms of one core | p99 ms of one core |", "|---|---|---|---|---|"]
    lengths = {"as measured": latency} | {f"{words} words": each for words, each in latency["by_words"].items()}
    for name, each in lengths.items():
        cells = [f"{each[key]:.1f}" for key in ("p50", "p99", "cpu_p50", "cpu_p99")]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    said = 'One prediction at a time, on the machine of the evaluation; "of one core" is processor time.'
    return "\n".join(["## Latency", "", said, "", *rows])


def _gates(report: Mapping[str, Any]) -> str:
    rows = ["| gate | of | figure | bound | verdict | |", "|---|---|---|---|---|---|"]
    for gate in report["gates"]:
        bound = f"{'at least' if gate['at_least'] else 'at most'} {gate['bound']:.4g}"
        figure = _number(gate["figure"], 4)
        rows.append(f"| {gate['name']} | {gate['about']} | {figure} | {bound} | {gate['verdict']} | {gate['note']} |")
    return "\n".join(["## Release gates", "", *rows])


def _limits(artifact: Artifact, report: Mapping[str, Any]) -> str:
    said = [*_never_asked(artifact), *(f"- {limit}" for limit in artifact.about.get("limits", ()))]
    lines = "\n".join([*said, *_worst_tasks(report)])
    return f"""## Limits

- It knows these {len(artifact.models)} models in the versions that were asked, on tasks like those of the data above.
  Elsewhere its probabilities are not calibrated, and no learned router is known to beat the best single model there.
- `max_quality_loss` is kept on average over traffic like the calibration rows ({len(artifact.calibration.score):,}
  prompts), with 95 % confidence, not on every prompt. In the tables it is asked for {PROMISED_LOSS:g}.
{lines}"""


def _never_asked(artifact: Artifact) -> Iterator[str]:
    pools = artifact.about.get("data", {}).get("pools", {})
    cells = sum(len(models) for pool in pools.values() for models in pool.get("never_asked", {}).values())
    if cells:
        yield f"- {cells} pairs of task and model, named above, have no outcome. Their quality and length are what the"
        yield "  difficulty of the task and the model's other tasks let expect."


def _worst_tasks(report: Mapping[str, Any]) -> list[str]:
    behind = [
        (row[BEST_SINGLE] - row[OURS], task, name, row["prompts"])
        for name, figures in report["sets"].items()
        for task, row in figures["by_task"].items()
        if row["prompts"] >= LEAST_PROMPTS
    ]
    lost = sorted((each for each in behind if each[0] > 0), reverse=True)
    if not lost:
        return [f"- On no task with {LEAST_PROMPTS} prompts or more is it below always the best single model."]
    lines = [
        f"- On task `{task}` of `{name}` ({prompts} prompts) it is {loss:.3f} below always the best single model."
        for loss, task, name, prompts in lost[:MOST_LOST_TASKS]
    ]
    more = len(lost) - MOST_LOST_TASKS
    return [*lines, f"- And on {more} more tasks, by less."] if more > 0 else lines


def _reproduce(artifact: Artifact, report: Mapping[str, Any], command: str) -> str:
    commands = "\n".join(filter(None, [*(entry.get("command") for entry in report["artifacts"]), command]))
    return f"## Reproduce\n\n```\n{commands}\n```\n\nCode at commit {artifact.about.get('code_commit', 'unknown')}."


def _interval(value: Sequence[float] | None, digits: int = 3, signed: bool = False) -> str:
    if value is None:
        return "-"
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    low, mid, high = (form.format(part) for part in value)
    return f"{mid} [{low}, {high}]"


def _mid(value: Sequence[float] | None) -> str:
    return "-" if value is None else f"{value[1]:.3f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
