"""`thalamus collect`: run a prompt set over models, grade the answers, write an outcomes dataset."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.interrupt import INTERRUPTED, end_on_signals
from app.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from app.collect.client import ChatClient
    from app.collect.graders import Command, Graded
    from app.collect.judge import Judge, Judging
    from app.collect.judge_report import Report
    from app.collect.plan import Estimate, Plan, Prompt, Target
    from app.collect.progress import Progress
    from app.collect.runner import Budget, Stopped


@dataclass(frozen=True)
class _How:
    """What bounds a run, and what grades where a prompt says "command"."""

    command: Command | None
    concurrency: int
    max_usd: float | None


@dataclass(frozen=True)
class _Work:
    """What is to be done, and what is done of it."""

    plan: Plan
    progress: Progress
    how: _How
    judging: Judging | None
    reference: str | None = None
    """What --reference names."""

    def estimates(self) -> list[Estimate]:
        """What is still to be sent, per model; a judge's own row comes last."""
        of_judge = [self.judging.estimate()] if self.judging else []
        named = [replace(estimate, model=f"{estimate.model} (judge)") for estimate in of_judge]
        return [*self.plan.estimates(self.progress.replies), *named]

    def requests_left(self) -> int:
        """At most."""
        return sum(estimate.requests for estimate in self.estimates())

    def requests_done(self) -> int:
        return len(self.progress.replies) + (len(self.judging.verdicts.replies) if self.judging else 0)

    def spent_usd(self) -> float:
        from app.collect.runner import spent_usd

        return spent_usd(self.plan, self.progress) + (self.judging.spent_usd() if self.judging else 0.0)


def collect(
    prompts: Annotated[
        list[str],
        typer.Option(
            help="A .jsonl file (one JSON object a line), a dataset folder, or families:NAME,NAME@seed=1,count=200"
            "[,wording=unseen]."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the dataset; run again with the same one to resume.")],
    models: Annotated[str, typer.Option(help="Names, separated by commas; the whole catalogue if absent.")] = "",
    catalog: Annotated[
        Path | None, typer.Option(help="Catalogue that says where models are and what they cost.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Instead of a catalogue: one OpenAI-compatible address.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Environment variable with the key for --url.")] = None,
    grader: Annotated[
        str | None, typer.Option(help="For prompts that name none; `command` is --grader-command, `judge` is --judge.")
    ] = None,
    grader_command: Annotated[str | None, typer.Option(help="Program that reads JSON and prints a score.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Model that compares every answer with the reference model's, twice; of --catalog or --url."),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Model the judge compares with; the first if absent.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Room of every answer, instead of each prompt's.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests in flight per backend.")] = 8,
    max_usd: Annotated[float | None, typer.Option(min=0, help="Never spend more than this.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before sending.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Ask models a prompt set, grade the answers, write an outcomes dataset. Says first what it will send and spend.

    Prompts with a grader of their own keep its score when there is a judge; they then say how far the judge is right.

    What a line of prompts has, with an example for each grader, is in deploy/README.md under "Prompts of your own".
    A prompt may say its `split`; where none does, `train` and `evaluate` draw them by the prompts' texts.

    Example: `thalamus collect --prompts families:sql,dates@seed=1,count=200 --catalog configs/catalog.yaml --models a,b
    --output outcomes/`, or for open questions `thalamus collect --prompts open.jsonl --catalog configs/catalog.yaml
    --models a,b,c --grader judge --judge d --output open/`
    """
    from app.cli.collected import last_line, print_faults, print_figures, print_report
    from app.cli.screen import console
    from app.collect.dataset import figures_of, missing_outcomes, outcomes_table, prompts_table, write_failures
    from app.collect.graders import Command
    from app.collect.judge_report import write_report
    from app.collect.progress import Progress
    from router_models.outcomes.dataset import OutcomesDataset, write_outcomes

    how = _How(Command(_words(grader_command)) if grader_command else None, concurrency, max_usd)
    targets = _targets(_names(models), catalog, url, key_env)
    judge_target = _targets([judge], catalog, url, key_env)[0] if judge else None
    plan = _plan(_prompts(prompts, max_tokens), targets, grader, how, judge=judge_target is not None)
    the_judge = _judge(plan, judge_target, reference)
    table = prompts_table(plan.prompts)  # a prompt that it could not hold is known before anything is paid for
    screen = console(stderr=True)
    with Progress(output, plan.header()) as progress, _judging(the_judge, output, plan, progress) as judging:
        work = _Work(plan, progress, how, judging, reference)
        _announce(screen, work, agreed=yes)
        graded, stopped = _run(screen, work)
        report = _judged(judging, graded, ended_early=stopped is not None)
        missing = missing_outcomes(plan, progress, graded, stopped)
        write_failures(output, missing)
        if stopped and not graded.scores:
            raise UsageError(stopped)
        if report:
            write_report(output, report)
        write_outcomes(output, OutcomesDataset(table, outcomes_table(plan, progress.replies, graded)))
        figures = figures_of(plan, progress, graded)
        print_faults(plan, progress)
    if as_json:
        judged = {"judge": asdict(report)} if report else {}
        print(json.dumps({"output": str(output), "missing": len(missing), "models": figures, **judged}))
    else:
        print_figures(figures)
        if report:
            print_report(report)
        print(last_line(output, len(figures) * len(plan.prompts) - len(missing), len(missing)))
    if stopped:
        raise UsageError(f"ended before everything was asked: {stopped}")
    if not graded.scores:
        what = "no answer was graded" if progress.replies else "no request was answered"
        raise UsageError(f"{what}; the reasons are in {output / 'failures.jsonl'}")


def _words(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as exc:
        raise UsageError(f"--grader-command: expected a command as a shell reads it; {exc}") from exc
    if not words:
        raise UsageError("--grader-command: expected a command as a shell reads it; there is no word in it")
    if shutil.which(words[0]) is None:
        raise UsageError(f"--grader-command: there is no program {words[0]} to run")
    return words


def _names(models: str) -> list[str]:
    return [name.strip() for name in models.split(",") if name.strip()]


def _targets(models: Sequence[str], catalog: Path | None, url: str | None, key_env: str | None) -> tuple[Target, ...]:
    from app.collect.plan import targets_at, targets_from

    if (catalog is None) == (url is None):
        raise UsageError("say where the models are: either --catalog FILE or --url ADDRESS")
    if key_env and url is None:
        raise UsageError("--key-env is for --url; with --catalog each backend's key_env names its variable")
    if url is not None:
        if key_env and key_env not in os.environ:
            raise UsageError(f"--key-env names {key_env}, which is not set")
        return targets_at(url, models, os.environ[key_env] if key_env else None)
    assert catalog is not None  # noqa: S101 - for the type checker: one of the two is there
    from app.forms.catalog_file import load_catalog

    return targets_from(load_catalog(catalog), models, os.environ)


def _prompts(sources: Sequence[str], max_tokens: int | None) -> list[Prompt]:
    from app.collect.importers import once, read_prompts

    read = [prompt for source in sources for prompt in read_prompts(source)]
    prompts = once(read if max_tokens is None else [replace(prompt, max_tokens=max_tokens) for prompt in read])
    if again := len(read) - len(prompts):
        print(f"{again:,} of {len(read):,} prompts come again; each counts once", file=sys.stderr)
    sent = [prompt for prompt in prompts if prompt.can_be_sent]
    if with_tools := len(prompts) - len(sent):
        without = "of which only names and results were kept, so they cannot be asked again; they are left out"
        print(f"{with_tools:,} of {len(prompts):,} prompts have tools, {without}", file=sys.stderr)
    return sent


def _plan(
    prompts: Sequence[Prompt], targets: tuple[Target, ...], grader: str | None, how: _How, *, judge: bool
) -> Plan:
    from app.collect.graders import with_graders
    from app.collect.plan import Plan

    return Plan(with_graders(prompts, grader, how.command, judge=judge), targets)


def _judge(plan: Plan, target: Target | None, reference: str | None) -> Judge | None:
    from app.collect.judge import judge_for

    if target is None and reference is not None:
        raise UsageError("--reference is what a judge compares with; give --judge")
    return None if target is None else judge_for(plan.targets, target, reference)


@contextlib.contextmanager
def _judging(judge: Judge | None, output: Path, plan: Plan, answers: Progress) -> Iterator[Judging | None]:
    from app.collect.judge import Judging
    from app.collect.progress import Progress

    if judge is None:
        yield None
        return
    with Progress(output / judge.folder, judge.header()) as verdicts:
        yield Judging(judge, plan, answers, verdicts)


def _announce(screen: Console, work: _Work, *, agreed: bool) -> None:
    """What will be sent and spent at most, per model, and whether that is agreed to."""
    from app.cli.announced import announced, confirm, in_all, refuse_unpriced

    estimates = work.estimates()
    screen.print(announced("requests", estimates))
    screen.print(in_all(estimates, work.requests_done()), highlight=False)
    if left_out := ", ".join(sorted(work.progress.left_out)):
        screen.print(f"Answers of {left_out} are kept, and are in the dataset once asked for again.", highlight=False)
    if work.judging and work.judging.judge.target.model in [target.model for target in work.plan.targets]:
        note = f"{work.judging.judge.target.model} will judge its own answers too; a model tends to prefer those."
        screen.print(note, highlight=False)
    refuse_unpriced(estimates, max_usd := work.how.max_usd)
    if max_usd is not None:
        screen.print(f"Spent so far {work.spent_usd():.4f} USD; stops before {max_usd:.4f}.", highlight=False)
    confirm(estimates, agreed=agreed)


def _run(screen: Console, work: _Work) -> tuple[Graded, str | None]:
    """Ask, judge and grade; if not everything was asked, why. Ctrl-C and SIGTERM end it with what is done kept."""
    try:
        return asyncio.run(_ask_and_grade(screen, work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        done = work.requests_done()
        all_of_it = done + work.requests_left()
        print(
            f"thalamus: stopped with {done} of {all_of_it} done; the same command goes on from there", file=sys.stderr
        )
        raise typer.Exit(INTERRUPTED) from None


async def _ask_and_grade(screen: Console, work: _Work) -> tuple[Graded, str | None]:
    import aiohttp

    from app.collect.client import ChatClient
    from app.collect.graders import grade_replies
    from app.collect.runner import Budget, Runner

    end_on_signals()
    plan, progress, how = work.plan, work.progress, work.how
    budget = Budget(how.max_usd, work.spent_usd())
    # Bounded by the runner's workers; redirects and the environment's proxies stay unused.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        client = ChatClient(session)
        with _bars(screen, plan, progress) as (asked, graded):
            asking = Runner(plan, progress, client, how.concurrency, budget, asked).run()
            stopped = await _why_early(asking)
            grades = await grade_replies(plan.prompts, progress, how.command, graded)
        if stopped:
            return grades, f"{stopped}{_advice(work, stopped)}"
        if work.judging:
            stopped = await _why_early(_hear_judge(screen, work.judging, client, how.concurrency, budget))
    return grades, str(stopped) if stopped else None


async def _why_early(asking: Awaitable[None]) -> Stopped | None:
    """What ended it before everything was asked, if anything did."""
    from app.collect.runner import Stopped

    try:
        await asking
    except Stopped as stopped:
        return stopped
    return None


def _advice(work: _Work, stopped: Stopped) -> str:
    """How it goes on without the models that ended it; empty where it would not."""
    rest = [target.model for target in work.plan.targets if target.model not in stopped.models]
    needed = {work.reference, work.judging.judge.target.model} if work.judging else set()
    if not stopped.models or len(rest) < (2 if work.judging else 1) or needed.intersection(stopped.models):
        return ""
    if work.judging and set(work.judging.judge.target.urls) <= set(stopped.urls):
        return ""  # it would get no further than these models
    return (
        f". To go on without {', '.join(stopped.models)}: the same command with --models {shlex.quote(','.join(rest))}"
    )


async def _hear_judge(screen: Console, judging: Judging, client: ChatClient, concurrency: int, budget: Budget) -> None:
    from app.cli.screen import progress

    failed = 0
    with progress(screen) as shown:
        bar = shown.add_task("judge", total=judging.estimate().requests)

        def judged(_: str, answered: bool) -> None:
            nonlocal failed
            failed += not answered
            shown.update(bar, advance=1, description=f"judge, {failed} failed" if failed else "judge")

        await judging.ask(client, concurrency, budget, judged)


def _judged(judging: Judging | None, graded: Graded, *, ended_early: bool) -> Report | None:
    """Add the judge's scores to the grades, and say what is to be known of them."""
    from app.collect.judge_report import report_of

    if judging is None:
        return None
    rulings = judging.rulings()
    judging.grade(rulings, graded, ended_early=ended_early)
    return report_of(judging, rulings, graded)


@contextlib.contextmanager
def _bars(
    screen: Console, plan: Plan, progress: Progress
) -> Iterator[tuple[Callable[[str, bool], None], Callable[[int], None]]]:
    """A progress bar per model and one for grading: what to call when a request or some grades are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from app.cli.screen import words
    from app.collect.graders import JUDGE

    columns = (
        words("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        words("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=screen) as shown:
        bars: dict[str, Any] = {}
        failed = dict.fromkeys((target.model for target in plan.targets), 0)
        for target in plan.targets:
            done = sum(reply.model == target.model for reply in progress.replies.values())
            bars[target.model] = shown.add_task(target.model, total=len(plan.prompts), completed=done, note="")
        by_rule = sum(prompt.grader != JUDGE for prompt in plan.prompts)
        grading = shown.add_task("grading", total=by_rule * len(plan.targets), note="")

        def asked(model: str, answered: bool) -> None:
            failed[model] += not answered
            shown.update(bars[model], advance=1, note=f"{failed[model]} failed" if failed[model] else "")

        def graded(count: int) -> None:
            shown.update(grading, advance=count)

        yield asked, graded
