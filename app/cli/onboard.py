"""`thalamus onboard`: a model joins an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import UsageError

if TYPE_CHECKING:
    from router_models.onboarding import Report


def onboard(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Models that join, as the dataset names them.")
    ],
    artifact: Annotated[Path, typer.Option(help="Artifact folder; it stays as it is.")],
    outcomes: Annotated[Path, typer.Option(help="Outcomes dataset in which the models were graded.")],
    output: Annotated[Path, typer.Option(help="Folder to make; its name becomes the artifact's.")],
    aliases: Annotated[
        Path | None, typer.Option(help="JSON {canonical name: {folder: names there}}; then canonical names are given.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split to learn from; without it all prompts.")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="So many graded prompts, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Add models to an artifact by what they scored on some prompts: a new artifact with a column for each.

    Example: `thalamus onboard my-model --artifact router_models/artifacts/public-v1 --outcomes var/outcomes
    --output var/public-v1-mine`
    """
    import json
    from dataclasses import replace

    from app.cli.screen import bars
    from router_models.artifact import ArtifactError, load_artifact, write_artifact

    try:
        from router_models.onboarding import exam_of
        from router_models.onboarding import onboard as join
        from router_models.outcomes import OutcomesError, aliases_of, read_outcomes
    except ModuleNotFoundError as exc:
        raise UsageError(f"onboarding needs the extra `train`: {exc.name} is not installed") from exc

    try:
        if output.exists():
            raise UsageError(f"{output} is there already; name another folder with --output")
        old, name = load_artifact(artifact), outcomes.resolve().name
        names = aliases_of(aliases, name) if aliases else {}
        dataset = read_outcomes(outcomes).renamed(names)
        others = {other: model for other, model in names.items() if model in models and other != model}
        for other in others:
            if other in old.models or other in old.aliases:
                raise UsageError(f"{aliases}: {old.name} knows {other!r} already, and as another model")
        exam = exam_of(old, models, name, dataset.split(split) if split else dataset, shots, seed)
        with bars() as bar:
            extended, reports = join(old, models, exam, output.name, seed, bar("reading prompts", len(exam)))
        write_artifact(output, replace(extended, aliases={**extended.aliases, **others}))
    except (ArtifactError, OutcomesError) as exc:
        raise UsageError(str(exc)) from exc
    if as_json:
        typer.echo(json.dumps({"artifact": str(output), "models": [each.as_json() for each in reports]}))
    else:
        _show(reports)


def _show(reports: Sequence[Report]) -> None:
    from rich.table import Table

    from app.cli.screen import console

    table = Table("model", "graded\nprompts", "mean score", "expected quality", "most alike", "", box=None)
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
