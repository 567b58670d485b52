"""The live exam of `thalamus onboard`: announce, sit, write the artifact and the profiles, and have the gateway use it.

What it needs stays beside the configuration: `exams/` has every answer (an interrupted exam goes on there, and a model
that joins later does not make the others sit again), `artifacts/` the results, `profiles/` what was seen of each model.
One exam at a time is held there: what a second one writes would not have the models of the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from app.cli.alone import alone
from app.cli.announced import announced, confirm, refuse_unpriced
from app.cli.exam_table import show
from app.cli.interrupt import INTERRUPTED, end_on_signals
from app.cli.screen import bars, console, words
from app.cli.writable import A_COPY, refuse_taken, refuse_unwritable
from app.collect.plan import targets_from
from app.errors import UsageError
from app.exam.hall import Candidate, Hall, Watch, outcomes_of
from app.exam.paper import Paper, paper_of
from app.exam.profile import profile_of, sentence, write_profile
from app.exam.sitting import Sat, Standing
from app.settings import Settings, load_settings
from app.setup.files import adopt
from router_models.joining.exam import LIVE_EXAM, refuse_adapted, refuse_second_exam, sat_exam
from router_models.joining.onboarding import Report, onboard
from router_models.joining.resitting import before_exam, with_scores_of
from router_models.outcomes.dataset import OutcomesError
from router_models.storage.artifact import Artifact, ArtifactError, artifact_name, load_artifact, write_artifact

HOW = ("seed", "items", "max_tokens")
"""What all models of one artifact have to have in common: without it they sat different exams."""
EXAM = "live exam"
"""What the exam is called among an artifact's datasets."""


@dataclass(frozen=True)
class Rules:
    """What bounds an exam."""

    seed: int
    items: int
    max_tokens: int | None
    """Room of every answer; None: see `paper_of`."""
    precision: float
    concurrency: int
    max_usd: float | None
    agreed: bool
    anew: frozenset[str]
    """Models that are asked again, whatever they answered before."""
    stated: Mapping[str, int]
    """Those of HOW that were asked for; the others may be as they were before."""


@dataclass(frozen=True)
class _Base:
    """The artifact that new models are compared with, and the models that joined it by the exam before.

    It has the models that joined by graded outcomes since then, but not those that sat.
    """

    folder: Path
    """Of the one that the first exam began from."""
    artifact: Artifact
    current: Artifact
    """With those that sat."""
    joined: Mapping[str, str]
    """Column by model of the catalogue."""
    rules: Mapping[str, int | None]
    """By which they sat; empty if none did."""
    renamed: Mapping[str, str]
    """Model by column, of those that the catalogue has under that name no more."""


def sit_exam(config: Path, models: Sequence[str], rules: Rules, output: Path | None, *, as_json: bool) -> None:
    """Let models sit the exam and join.

    Raises:
        UsageError: nothing was written; one line for each model that says why.
    """
    settings = load_settings(config)  # what is wrong with it is said before there is a lock beside it
    # A catalogue may be that of other folders too; where it is a link, the file itself is replaced.
    with alone(config.parent, settings.catalog_path.resolve().parent):
        _sit_exam(load_settings(config), models, rules, output, as_json=as_json)


def _sit_exam(settings: Settings, models: Sequence[str], rules: Rules, output: Path | None, *, as_json: bool) -> None:
    config = settings.path
    try:
        base = _base(settings)
        rules = _as_before(rules, base, config)
        base = replace(base, joined={model: base.joined[model] for model in base.joined if model not in rules.anew})
        columns = _columns(settings, base, models, rules.anew)
        output = output or _next_artifact(config.parent)
        _refuse_losses(settings, base, columns)
        refuse_taken(output)
        for beside in (settings.path.parent, settings.catalog_path.parent):
            refuse_unwritable(beside, A_COPY)
        paper = paper_of(base.artifact, rules.seed, rules.items, rules.max_tokens)
        if base.joined:
            paper = replace(paper, more_room=f"for more room {_anew(base, config)}")
        hall = _hall(settings, base, paper, rules, list(columns))
        _refuse_forgotten(hall)
        screen = console(stderr=True)
        _announce(screen, hall, rules)
        sats = _held(screen, hall.begun_anew(), rules)
        joined = [sat for sat in sats if sat.problem is None]
        problems = [_problem(sat) for sat in sats if sat.problem is not None]
        # The catalogue names a column of those that sit anew: without it the gateway would not start.
        if not joined or any(sat.model in rules.anew for sat in sats if sat.problem is not None):
            raise UsageError("\n".join([*problems, "no model joined; nothing was written"]))
        reports = _write(base, paper, joined, columns, rules, output)
    except (ArtifactError, OutcomesError) as exc:
        raise UsageError(str(exc)) from exc
    adopt(config, output, {sat.model: columns[sat.model] for sat in joined})
    _report(screen, config, output, list(zip(joined, reports, strict=True)), rules, base.artifact.name)
    show(reports, output, as_json=as_json)
    for problem in problems:
        print(f"thalamus: {problem}; it did not join", file=sys.stderr)
    if problems:
        raise typer.Exit(1)


def _problem(sat: Sat) -> str:
    again = "; once that is mended, --anew asks it again" if any(fault.is_fatal for fault in sat.faults) else ""
    return f"{sat.model} ({sat.target.urls[0]}): {sat.problem}{again}"


def _base(settings: Settings) -> _Base:
    if settings.artifact is None:
        raise UsageError(f"{settings.path} names no artifact to join; set `artifact`")
    current = load_artifact(settings.artifact)
    refuse_adapted(current)
    before: Mapping[str, Any] | None = current.about.get(LIVE_EXAM)
    if before is None:
        refuse_second_exam(current, EXAM)
        return _Base(settings.artifact, current, current, {}, {}, {})
    folder = (settings.artifact / before["base"]).resolve()
    known = {model.name: model.predicted_as for model in settings.catalog.models}
    still = {model: column for model, column in before["columns"].items() if known.get(model) == column}
    rules = {name: before[name] for name in HOW} if still else {}
    renamed = {column: model for model, column in before["columns"].items() if model not in still}
    # Its answers are kept under the name of the artifact that it began from.
    first = replace(before_exam(current, EXAM), name=artifact_name(folder))
    return _Base(folder, first, current, still, rules, renamed)


def still_begun_from(old: Artifact, folder: Path, output: Path) -> Mapping[str, Any]:
    """Where the live exam of an artifact began, as one made from it says that: with it, others may sit it later."""
    before = old.about.get(LIVE_EXAM)
    return {} if before is None else {LIVE_EXAM: {**before, "base": _from(output, folder / before["base"])}}


def _from(output: Path, base: Path) -> str:
    return os.path.relpath(base.resolve(), output.resolve())


def _as_before(rules: Rules, base: _Base, config: Path) -> Rules:
    """As the models that joined before sat: other questions would not compare the new ones with them.

    Raises:
        UsageError: something else was asked for.
    """
    for name, value in rules.stated.items():
        before = base.rules.get(name, value)
        if before != value:
            option, sat = "--" + name.replace("_", "-"), ", ".join(base.joined)
            had = f"with {before}" if before is not None else "without it, with room as the help says"
            raise UsageError(f"{option} {value}: {sat} sat {had}; leave it out, or {_anew(base, config)}")
    seed, items, max_tokens = (base.rules.get(name, getattr(rules, name)) for name in HOW)
    return replace(rules, seed=seed, items=items, max_tokens=max_tokens)


def _anew(base: _Base, config: Path) -> str:
    """How all models come to sit another exam."""
    return (
        f"let all sit anew: remove `predicted_as` of {', '.join(base.joined)} from the catalogue of {config}, and run "
        "`thalamus onboard` with the option and no names"
    )


def _columns(settings: Settings, base: _Base, models: Sequence[str], anew: Set[str]) -> dict[str, str]:
    """Column by model, of those that are to join and those that joined before."""
    known = {model.name: model for model in settings.catalog.models}
    theirs = {name: known[name].predicted_as for name in known}
    # Those that sat before and sit anew keep their name among the artifact's, and are as good as new.
    theirs |= {name: None for name in anew & set(known) if theirs[name] in (name, f"{name}@{known[name].backend}")}
    for name in models:
        if name not in known:
            raise UsageError(f"the catalogue has no model {name!r}; it has {', '.join(known)}")
        if theirs[name] and name not in base.joined:
            raise UsageError(
                f"{name} is predicted already, as {known[name].predicted_as}; to let it sit all the same, and be "
                f"compared with models that do, remove its `predicted_as` from {settings.catalog_path}"
            )
    new = [name for name in models or known if not theirs[name]]
    if not new:
        raise UsageError(f"every model of {'those' if models else 'the catalogue'} is predicted already")
    for name in models:
        if name in base.joined:
            print(f"thalamus: {name} has joined already, and is not asked again", file=sys.stderr)
    taken = {*base.artifact.models, *base.artifact.aliases}
    fresh = {name: f"{name}@{known[name].backend}" if name in taken else name for name in new}
    return {**base.joined, **fresh}


def _refuse_losses(settings: Settings, base: _Base, columns: Mapping[str, str]) -> None:
    """Raise where the new artifact would lack a column that the catalogue names: the gateway would not start."""
    kept = {*columns.values(), *base.artifact.models, *base.artifact.aliases}
    for model in settings.catalog.models:
        if model.predicted_as and model.predicted_as not in kept:
            was = base.renamed.get(model.predicted_as)
            back = f"rename it back to {was}" if was else "undo that"
            raise UsageError(
                f"{settings.catalog_path}: {model.name} would lose its column {model.predicted_as}, because another "
                f"name sat for it; {back}, or remove its `predicted_as` to let it sit again"
            )


def _refuse_forgotten(hall: Hall) -> None:
    """Raise where a model that sat before would lose its column, because its answers are gone."""
    if forgotten := hall.forgotten():
        raise UsageError(
            f"{forgotten[0]}: the answers of its exam are gone from {hall.folder}; bring them back, or remove its "
            "`predicted_as` from the catalogue to let it sit again"
        )


def _next_artifact(folder: Path) -> Path:
    found = [re.fullmatch(r"mine-v(\d+)", path.name) for path in (folder / "artifacts").glob("mine-v*")]
    newest = max((int(match[1]) for match in found if match), default=0)
    return folder / "artifacts" / f"mine-v{newest + 1}"


def _hall(settings: Settings, base: _Base, paper: Paper, rules: Rules, models: Sequence[str]) -> Hall:
    cards = {model.name: model.card for model in settings.catalog.models}
    targets = targets_from(settings.catalog, models, os.environ)
    with bars() as bar:
        questions = paper.questions(base.artifact, bar("reading the questions", len(paper.counted())))
        done = bar("comparing the models that are known", 1)
        questions.prepare()
        done()
    how = f"{base.artifact.name}-seed-{rules.seed}-items-{rules.items}-room-{rules.max_tokens or 'own'}"
    return Hall(
        paper=paper,
        questions=questions,
        candidates=[
            Candidate(target, cards[target.model].context_tokens, target.model in base.joined) for target in targets
        ],
        folder=settings.path.parent / "exams" / how,
        concurrency=rules.concurrency,
        precision=rules.precision,
        anew=rules.anew,
    )


def _announce(screen: Console, hall: Hall, rules: Rules) -> None:
    """What will be sent and spent at most, and whether that is agreed to."""
    estimates = hall.estimates()
    screen.print(announced("questions, at most", estimates))
    screen.print(f"Spent so far {hall.spent_usd():.4f} USD. An exam ends early once enough is known.", highlight=False)
    for model, (count, day) in hall.answered().items():
        screen.print(f"{model}: its {count} answers of {day} are used; --anew asks again", highlight=False)
    refuse_unpriced(estimates, rules.max_usd)
    confirm(estimates, agreed=rules.agreed, up_to="up to ")


def _held(screen: Console, hall: Hall, rules: Rules) -> list[Sat]:
    """The exams; Ctrl-C and SIGTERM end them with every answer kept."""
    try:
        return asyncio.run(_hold(screen, hall, rules))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(
            f"thalamus: stopped; {hall.kept()} answers are kept, the same command goes on from there", file=sys.stderr
        )
        raise typer.Exit(INTERRUPTED) from None


async def _hold(screen: Console, hall: Hall, rules: Rules) -> list[Sat]:
    end_on_signals()
    with _bars(screen, hall) as watch:
        return await hall.hold(rules.max_usd, watch)


@contextlib.contextmanager
def _bars(screen: Console, hall: Hall) -> Iterator[Watch]:
    """A bar per model that shows its expected quality tighten."""
    columns = (
        words("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        words("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen) as progress:
        of = len(hall.paper.prompts)
        bar = {
            candidate.target.model: progress.add_task(candidate.target.model, total=of, note="")
            for candidate in hall.candidates
            if not candidate.has_sat
        }

        def look(model: str, standing: Standing) -> None:
            progress.update(bar[model], note=f"quality {standing.mean:.2f} ± {standing.half_width:.2f}")

        yield Watch(lambda model: progress.advance(bar[model]), look)


def _write(
    base: _Base, paper: Paper, sats: Sequence[Sat], columns: Mapping[str, str], rules: Rules, output: Path
) -> list[Report]:
    """The new artifact; what each exam showed, in the order of the models."""
    dataset = outcomes_of(paper, sats).renamed({sat.model: columns[sat.model] for sat in sats})
    names = [columns[sat.model] for sat in sats]
    exam = sat_exam(base.artifact, names, EXAM, dataset)
    extended, reports = onboard(base.artifact, names, exam, output.name, rules.seed)
    extended = with_scores_of(
        extended, base.current, EXAM, [columns[sat.model] for sat in sats if sat.model in base.joined]
    )
    live = {
        "base": _from(output, base.folder),
        **{name: getattr(rules, name) for name in HOW},
        "columns": {sat.model: columns[sat.model] for sat in sats},
    }
    write_artifact(output, replace(extended, about={**extended.about, LIVE_EXAM: live}))
    return reports


def _report(
    screen: Console, config: Path, output: Path, found: Sequence[tuple[Sat, Report]], rules: Rules, base: str
) -> None:
    """What was written, and in words what was seen."""
    for sat, report in found:
        profile = profile_of(sat, report, base, rules.seed)
        path = write_profile(config.parent / "profiles", profile)
        screen.print(f"{sat.model}: {sentence(report, profile['skills'])} ({path})", highlight=False)
        for fault in sat.faults:
            screen.print(f"{sat.model}: {fault.sentence}", highlight=False)
    screen.print(f"{output} has them; {config} names it now. A gateway that runs takes it at SIGHUP.", highlight=False)
