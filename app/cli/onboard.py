"""`thalamus onboard`: models join an artifact, by a live exam or by outcomes that were graded before."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from app.cli.serve import DEFAULT_CONFIG
from app.errors import UsageError

# Of an exam's first model; those that join later have its seed and its items.
SEED, ITEMS = 1, 8
PRECISION, CONCURRENCY = 0.05, 8


def onboard(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Models that join; without any, all untested ones of the catalogue."),
    ] = None,
    config: Annotated[
        Path, typer.Option(help="The gateway's YAML: where the models are, and the artifact.")
    ] = DEFAULT_CONFIG,
    outcomes: Annotated[
        Path | None, typer.Option(help="Instead of a live exam: an outcomes dataset in which they were graded.")
    ] = None,
    artifact: Annotated[Path | None, typer.Option(help="With --outcomes: artifact folder; it stays as it is.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to make; its name becomes the artifact's.")] = None,
    items: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Exam: fresh items of each skill family; later models have the first's.",
            show_default=str(ITEMS),
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=2**31 - 1,
            help="Exam: room of every answer. By default fresh items of skills that the artifact learned have the room "
            "its models had, everything else 1024.",
        ),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Exam: it ends when the expected quality is known to within this; 0: never early.",
            show_default=str(PRECISION),
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Exam: requests in flight per backend.", show_default=str(CONCURRENCY)),
    ] = None,
    max_usd: Annotated[
        float | None, typer.Option(min=0, help="Exam: never spend more than this, earlier runs included.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before sending.")] = False,
    anew: Annotated[
        bool,
        typer.Option(
            "--anew", help="Exam: ask the models named again, as after a new version; answers so far go aside."
        ),
    ] = False,
    aliases: Annotated[
        Path | None, typer.Option(help="With --outcomes: JSON {canonical name: {folder: names there}}.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="With --outcomes: split to learn from.")] = None,
    shots: Annotated[
        int | None, typer.Option(min=1, help="With --outcomes: so many different prompts of each, at random.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the fresh items, and of every draw.", show_default=str(SEED))
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Add models to an artifact: a new one with a column for each, which the configuration then names.

    By default they sit an exam at their endpoints: the artifact's anchors, which the models that it knows answered too,
    and fresh items of the skill families. It says first what it will send and spend; run it again to go on. No prompt
    of yours is sent.

    Example: `thalamus onboard my-model`, or without an endpoint `thalamus onboard my-model --outcomes var/outcomes
    --artifact router_models/artifacts/public-v1 --output var/mine-v1`
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("onboarding needs the extra `collect`: pip install 'thalamus-router[collect]'")
    if outcomes is None:
        from app.cli.exam import Rules, sit_exam

        if artifact or aliases or split or shots:
            raise UsageError("--artifact, --aliases, --split and --shots go with --outcomes")
        if anew and not models:
            raise UsageError("--anew asks models again: name them")
        how = {"seed": seed, "items": items, "max_tokens": max_tokens}
        rules = Rules(
            seed=SEED if seed is None else seed,
            items=ITEMS if items is None else items,
            max_tokens=max_tokens,
            precision=PRECISION if precision is None else precision,
            concurrency=CONCURRENCY if concurrency is None else concurrency,
            max_usd=max_usd,
            agreed=yes,
            anew=frozenset(models or () if anew else ()),
            stated={name: value for name, value in how.items() if value is not None},
        )
        sit_exam(config, models or [], rules, output, as_json=as_json)
    elif not (models and artifact and output):
        raise UsageError("--outcomes needs the models' names, --artifact and --output")
    else:
        of_exams = {
            "--items": items,
            "--max-tokens": max_tokens,
            "--precision": precision,
            "--concurrency": concurrency,
            "--max-usd": max_usd,
            "--anew": anew or None,
        }
        if given := [option for option, value in of_exams.items() if value is not None]:
            raise UsageError(f"--outcomes asks no model anything; leave out {', '.join(given)}")
        draw = _Draw(aliases, split, shots, SEED if seed is None else seed)
        _from_outcomes(models, outcomes, artifact, output, draw, as_json=as_json)


class _Draw:
    """Which outcomes of a dataset are the exam."""

    def __init__(self, aliases: Path | None, split: str | None, shots: int | None, seed: int) -> None:
        self.aliases, self.split, self.shots, self.seed = aliases, split, shots, seed


def _from_outcomes(
    models: Sequence[str], outcomes: Path, artifact: Path, output: Path, draw: _Draw, *, as_json: bool
) -> None:
    from dataclasses import replace

    from app.cli.divided import divided
    from app.cli.exam import still_begun_from
    from app.cli.exam_table import show
    from app.cli.named import how_to_serve, names_in, tell_strangers
    from app.cli.screen import bars
    from app.cli.writable import refuse_taken
    from router_models.joining.exam import exam_of
    from router_models.joining.onboarding import onboard as join
    from router_models.outcomes.dataset import OutcomesError, read_outcomes
    from router_models.storage.artifact import ArtifactError, load_artifact, write_artifact

    try:
        refuse_taken(output)
        old, name = load_artifact(artifact), outcomes.resolve().name
        collected = read_outcomes(outcomes)
        names = names_in(name, collected, draw.aliases, old, apart=models)
        others = {other: model for other, model in names.items() if model in models and other != model}
        dataset = collected.renamed(names)
        tell_strangers(name, [model for model in dataset.models if model not in models], old)
        for other in others:
            if other in old.models or other in old.aliases:
                raise UsageError(f"{draw.aliases}: {old.name} knows {other!r} already, and as another model")
        exam = exam_of(old, models, name, divided(name, dataset, draw.split), draw.shots, draw.seed)
        with bars() as bar:
            extended, reports = join(old, models, exam, output.name, draw.seed, bar("reading prompts", len(exam)))
        about = {**extended.about, **still_begun_from(old, artifact, output)}
        write_artifact(output, replace(extended, about=about, aliases={**extended.aliases, **others}))
    except (ArtifactError, OutcomesError) as exc:
        raise UsageError(str(exc)) from exc
    show(reports, output, as_json=as_json)
    if not as_json:
        typer.echo(how_to_serve(output, [(model, model) for model in models]))
