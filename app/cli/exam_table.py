"""What an exam showed of the models that joined, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from app.cli.screen import WholeTable, console
from router_models.joining.onboarding import Report


def show(reports: Sequence[Report], output: Path, *, as_json: bool) -> None:
    """What an exam showed of each model."""
    if as_json:
        typer.echo(json.dumps({"artifact": str(output), "models": [each.as_json() for each in reports]}))
        return
    table = WholeTable("model", "graded\nprompts", "mean score", "expected quality", "most alike", "", box=None)
    for each in reports:
        low, high = each.expected_quality_interval
        notes = [
            *([] if each.is_informative else ["the exam says no more than what is usual among known models"]),
            *([] if each.has_lengths else ["no length is predicted, too few are known: its cost stays open"]),
        ]
        expected = f"{each.expected_quality:.3f} [{low:.3f}, {high:.3f}]"
        table.add_row(
            each.model, f"{each.prompts}", f"{each.mean_score:.3f}", expected, ", ".join(each.alike), "; ".join(notes)
        )
    console().print(table)
