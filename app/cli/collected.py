"""What `thalamus collect` shows in the end: figures, what is wrong with endpoints, and how far a judge is right."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.cli.screen import WholeTable, console
from app.collect.judge_report import Rate, Report, counts, rates, remarks
from app.collect.plan import Plan
from app.collect.progress import Progress
from app.exam.faults import Sample, faults_in


def print_figures(figures: Sequence[dict[str, Any]]) -> None:
    """A row for each model."""
    table = WholeTable(
        "model", "outcomes", "missing", "mean score", "USD", "mean latency s", "mean output tokens", "school grade"
    )
    for row in figures:
        table.add_row(
            *(
                "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
                for value in row.values()
            )
        )
    console().print(table)


def print_faults(plan: Plan, progress: Progress) -> None:
    """What the answers of a model show of its endpoint. One's own questions may all have one answer: that is none."""
    prompts = {prompt.prompt_id: prompt for prompt in plan.prompts}
    for target in plan.targets:
        replies = [reply for reply in progress.replies.values() if reply.model == target.model]
        failures = [reason for (_, model), reason in progress.failures.items() if model == target.model]
        for fault in faults_in(Sample(prompts, replies, failures)):
            if fault.name != "constant":
                print(f"thalamus: {target.model}: {fault.sentence}", file=sys.stderr)


def print_report(report: Report) -> None:
    """How far the judge can be trusted: counts, rates with intervals, bias per model, and what to make of them."""
    table = WholeTable("judge", "value", "90 % interval", "pairs")
    for name, rate in rates(report):
        table.add_row(name, *_cells(rate))
    print(counts(report))
    console().print(table)
    print("\n".join(remarks(report)))


def _cells(rate: Rate) -> tuple[str, str, str]:
    value = "-" if rate.value is None else f"{rate.value:.3f}"
    interval = "-" if rate.low is None or rate.high is None else f"{rate.low:.3f} to {rate.high:.3f}"
    return value, interval, str(rate.of)


def last_line(output: Path, outcomes: int, missing: int) -> str:
    """Where the dataset is, and whether all of it is there."""
    if not missing:
        return f"{outcomes} outcomes in {output}, none missing."
    return f"{outcomes} outcomes in {output}; {missing} are missing, reasons in {output / 'failures.jsonl'}."
