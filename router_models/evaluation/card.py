"""The model card, rendered from the manifest and the evaluation; nothing in it is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router_models.artifact import Artifact
from router_models.evaluation.evaluate import OURS, PROMISED_LOSS

_COLUMNS = (
    ("quality", "quality"),
    ("oracle match", "oracle_match"),
    ("... where scores differ", "oracle_match_where_scores_differ"),
    ("cheapest-best match", "cheapest_best_match"),
    ("regret", "regret"),
    ("USD per 1,000 requests", "cost_usd"),
)


def render_card(artifact: Artifact, report: Mapping[str, Any], command: str) -> str:
    """README.md of the artifact."""
    parts = [f"# {artifact.name}", str(artifact.about["about"]), _what(artifact), _data(artifact)]
    for split, figures in report["splits"].items():
        parts.append(_results(split, figures, len(report["artifacts"])))
    parts += [_calibration(artifact, report), _tuning(artifact), _latency(report), _limits(artifact, report)]
    commands = "\n".join(filter(None, [*(entry.get("command") for entry in report["artifacts"]), command]))
    parts.append(f"## Reproduce\n\n```\n{commands}\n```\n\nCode at commit {artifact.about['code_commit']}.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _what(artifact: Artifact) -> str:
    models = ", ".join(f"`{model}`" for model in artifact.models)
    return f"""## What it predicts

For each of {len(artifact.models)} models the probability that its answer to a prompt is acceptable, with a 90 %
interval of the rate of acceptable answers on prompts of that kind, and the length of the answer in tokens, with the
interval that holds nine of ten answers. Models, in output order: {models}.

Members: {", ".join(artifact.settings.members)}; residual weight {artifact.settings.residual_weight:g}."""


def _data(artifact: Artifact) -> str:
    data = artifact.about["data"]
    licences = "\n".join(f"- {line}" for line in artifact.about["licences"])
    return f"""## Data and licences

Split `{data["split"]}` of `{data["folder"]}`: {data["outcomes"]:,} graded outcomes; fitted on
{data["prompts_fitted"]:,} prompts, calibrated on {data["prompts_set_aside"]:,} others. SHA-256 {data["sha256"]}.

{licences}"""


def _results(split: str, figures: Mapping[str, Any], seeds: int) -> str:
    over = f"prompts and {seeds} training seeds" if seeds > 1 else "prompts"
    header = "| policy | " + " | ".join(title for title, _ in _COLUMNS) + " |"
    rows = [header, "|---" * (len(_COLUMNS) + 1) + "|"]
    rows += [_row(name, policy) for name, policy in figures["policies"].items()]
    lines = [
        f"- {OURS} minus {name}: quality {_interval(difference['quality'], signed=True)}, "
        f"match where scores differ {_interval(difference['oracle_match_where_scores_differ'], signed=True)}"
        for name, difference in figures["differences"].items()
        if name != "oracle"
    ]
    said = (
        f"{figures['prompts']:,} prompts, on {figures['prompts_where_scores_differ']:,} of which the models' scores "
        f"differ. Intervals: 95 %, paired bootstrap over {over}, 2,000 draws."
    )
    return "\n".join([f"## Results on `{split}`", "", said, "", *rows, "", *lines])


def _row(name: str, policy: Mapping[str, Any]) -> str:
    cells = []
    for _, metric in _COLUMNS:
        scale, digits = (1_000.0, 4) if metric == "cost_usd" else (1.0, 3)
        cells.append(_interval(policy[metric], scale=scale, digits=digits))
    return f"| {'**' + name + '**' if name.startswith(OURS) else name} | " + " | ".join(cells) + " |"


def _interval(value: Mapping[str, Any], scale: float = 1.0, digits: int = 3, signed: bool = False) -> str:
    if value["mean"] is None:
        return "-"
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    mean, low, high = (form.format(scale * value[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _calibration(artifact: Artifact, report: Mapping[str, Any]) -> str:
    settings = artifact.settings
    rows = ["| split | ECE | Brier | Brier of the mean score | rates inside the 90 % interval | lengths inside |"]
    rows.append("|---" * 6 + "|")
    for split, figures in report["splits"].items():
        calibration, length = figures["calibration"], figures["length"]
        rows.append(
            f"| {split} | {calibration['ece']:.3f} | {calibration['brier']:.3f} | "
            f"{calibration['brier_of_base_rates']:.3f} | {calibration['rate_inside_90_percent_interval']:.2f} | "
            f"{_number(length['inside_90_percent_interval'])} |"
        )
    table = "\n".join(rows)
    return f"""## Calibration

One map for all models: sigmoid({settings.platt_slope:.3f} x logit {settings.platt_offset:+.3f}). ECE over 15 bins of
equal size. An interval of quality is checked on groups of like prompts: the share of (group, model) pairs whose
observed rate lies inside, chance allowed for.

{table}"""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _tuning(artifact: Artifact) -> str:
    tuning = artifact.about["tuning"]
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in tuning["held_out_loss"].items())
    weights = ", ".join(f"{w}: {quality:.4f}" for w, quality in tuning["held_out_quality_by_residual_weight"].items())
    return f"""## How it was tuned

On groups of like prompts held out inside the training rows (grouped by {tuning["grouped_by"]}). Cross-entropy there:
{losses}; of the members that were kept, averaged: {tuning["held_out_loss_of_average"]:.4f}. Quality by residual weight:
{weights}."""


def _latency(report: Mapping[str, Any]) -> str:
    latency = report["latency_ms"]
    return f"""## Latency

One prompt, one thread, on the machine of the evaluation: p50 {latency["p50"]:.1f} ms, p99 {latency["p99"]:.1f} ms over
{latency["prompts"]} prompts."""


def _limits(artifact: Artifact, report: Mapping[str, Any]) -> str:
    lines = "\n".join([*(f"- {limit}" for limit in artifact.about.get("limits", ())), _worst_tasks(report)])
    return f"""## Limits

- It knows these {len(artifact.models)} models in the versions that were asked, on tasks like those of the data above.
  Elsewhere its probabilities are not calibrated, and no learned router is known to beat the best single model there.
- It reads at most 64 tokens of a prompt: a task that is named only in the middle of a long text is not seen.
- `max_quality_loss` is kept on average over traffic like the calibration rows ({len(artifact.calibration.score):,}
  prompts), with 95 % confidence, not on every prompt. In the tables it is asked for {PROMISED_LOSS:g}.
{lines}"""


def _worst_tasks(report: Mapping[str, Any]) -> str:
    found: list[str] = []
    for split, figures in report["splits"].items():
        behind = {
            task: row["always the best"] - row[OURS] for task, row in figures["by_task"].items() if row["prompts"] >= 20
        }
        found += [
            f"- On task `{task}` of `{split}` it is {loss:.3f} below always choosing the best model."
            for task, loss in sorted(behind.items(), key=lambda item: -item[1])
            if loss > 0
        ]
    return "\n".join(found) if found else "- On no task with 20 prompts or more is it below always the best model."
