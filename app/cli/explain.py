"""`thalamus explain`: the decision for one prompt, as a table or as a picture. Asks no backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.serve import DEFAULT_CONFIG
from app.errors import CallerError, InvalidRequest, UsageError

if TYPE_CHECKING:
    from app.domain.preferences import Asked
    from app.domain.request import Request
    from app.savings.expectation import Expectation
    from app.settings import Settings

Record = Mapping[str, Any]


def explain(
    prompt: Annotated[str, typer.Argument(help="What a user would ask.")],
    config: Annotated[Path, typer.Option(help="The gateway's YAML; it names the catalogue.")] = DEFAULT_CONFIG,
    profile: Annotated[str, typer.Option(help="The profile, as in model: auto:PROFILE.")] = "default",
    weights: Annotated[str, typer.Option(help="Such as cost=0.3,latency=0.1.")] = "",
    plot: Annotated[Path | None, typer.Option(help="Draw quality over cost into this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Say which model would answer a prompt, and why: every candidate's estimates, who is excluded, and what would
    change the choice; then what the profile, with these weights, is expected to save and to lose on the artifact's
    calibration prompts. All backends are taken to be up and idle.

    Example: `thalamus explain "What is 37 + 45?" --weights cost=0.3`
    """
    from app.savings.expectation import sentence
    from app.settings import load_settings

    settings = load_settings(config)
    try:
        record, expected = _decided(settings, _request(settings, prompt, profile, weights))
    except CallerError as exc:
        raise UsageError(exc.message) from exc
    if plot:
        _plot(record, plot)
    if as_json:
        print(json.dumps({**record, "expected": {profile: expected and expected.as_json()}}, allow_nan=False))
    else:
        show(record)
        if settings.artifact:
            print(f"profile {profile}{f' with {weights}' if weights else ''}: {sentence(expected)}")


def _request(settings: Settings, prompt: str, profile: str, weights: str) -> Request:
    from app.api.bodies.messages import estimate_tokens
    from app.domain.preferences import merged
    from app.domain.request import Request

    if profile not in settings.profiles:
        raise UsageError(f"there is no profile {profile!r}; there are {', '.join(settings.profiles)}")
    asked = _weights(weights)
    return Request(
        request_id="explain",
        operation="chat",
        model=None,
        profile=profile,
        body={},
        stream=False,
        conversation=(("user", prompt),),
        input_tokens=estimate_tokens([prompt], messages=1),
        max_tokens=None,
        needs=frozenset({"chat"}),
        preferences=merged(settings.profiles[profile].preferences, asked.preferences),
        explain=True,
    )


def _weights(text: str) -> Asked:
    """What a caller would ask for in the header that has the form of the option.

    Raises:
        UsageError: it says something else.
    """
    from app.domain.preferences import parse_headers

    header = "x-thalamus-weights"
    try:
        return parse_headers({header: text} if text else {})
    except InvalidRequest as exc:
        said = exc.message.replace(f"the header {header}", "--weights").replace(header, "--weights")
        raise UsageError(said) from exc


def _decided(settings: Settings, request: Request) -> tuple[Record, Expectation | None]:
    """The decision for a request, and what its preferences would do on calibration prompts; None if that is unknown."""
    from app.assembly.router_model import load_router_model
    from app.assembly.snapshot import create_router
    from app.domain.decision import Fleet
    from app.routing.record import describe
    from app.savings.expectation import Prospect

    idle = Fleet.idle(len(settings.catalog.models))
    with load_router_model(settings) as router_model:
        record = describe(asyncio.run(create_router(settings, router_model).route(request, idle)))
        prospect = Prospect(settings, router_model.curve) if router_model else None
    return record, prospect.expectation(request.preferences) if prospect else None


def show(record: Record) -> None:
    """Print a decision as a table, with who is excluded and what would change the choice."""
    from app.cli.screen import WholeTable, console

    table = WholeTable(title=f"{record['model']}: {record['why']}")
    table.add_column("model", style="bold")
    for column in ("quality", "90 %", "tokens", "micro-USD", "seconds", "utility", "Pareto"):
        table.add_column(column, justify="right")
    for candidate in record["candidates"]:
        table.add_row(
            candidate["model"],
            _shown(candidate["quality"], ".2f"),
            "-" if candidate["quality_interval"] is None else "{:.2f} to {:.2f}".format(*candidate["quality_interval"]),
            _shown(candidate["output_tokens"], ".0f"),
            figure(candidate["cost_usd"], 1e6),
            figure(candidate["latency_s"]),
            _shown(candidate["utility"], ".3f"),
            "*" if candidate["on_pareto_front"] else "",
        )
    screen = console()
    screen.print(table)
    for line in _reading(record):
        screen.print(line)
    for excluded in record["excluded"]:
        screen.print(f"excluded: {excluded['model']} {excluded['message']}")
    if record["counterfactual"]:
        screen.print(record["counterfactual"]["sentence"])


def _reading(record: Record) -> Iterator[str]:
    """By whom the prompt was read, and whether that is to be trusted."""
    if record["encoder"]:
        familiar = "is unlike" if record["unfamiliar"] else "is like"
        yield f"read by the {record['encoder']} encoder: the prompt {familiar} what the router model learned from"
    if record["predictor_failure"]:
        yield f"an encoder failed: {record['predictor_failure']}"


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def figure(value: float | None, factor: float = 1.0) -> str:
    """Three digits or all whole ones, without an exponent."""
    if value is None:
        return "-"
    value *= factor
    return f"{value:,.0f}" if value >= 999.5 else f"{Decimal(f'{value:.3g}'):f}"


def _plot(record: Record, path: Path) -> None:
    """Quality with its interval over cost; the Pareto front is a line."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as exc:
        raise UsageError("--plot needs matplotlib; install the extra: pip install 'thalamus-router[train]'") from exc
    from app.collect.whole import unfinished

    known = [one for one in record["candidates"] if one["quality"] is not None and one["cost_usd"] is not None]
    if not known:
        raise UsageError("--plot needs candidates with a predicted quality and a price; there are none")
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for one in known:
        low, high = one["quality_interval"] or (one["quality"], one["quality"])
        cost, quality = one["cost_usd"], one["quality"]
        colour = "tab:red" if one["model"] == record["model"] else "tab:blue"
        axes.errorbar(cost, quality, [[max(0, quality - low)], [max(0, high - quality)]], fmt="o", color=colour)
        axes.annotate(one["model"], (cost, quality), textcoords="offset points", xytext=(6, 4), fontsize=8)
    front = sorted((one["cost_usd"], one["quality"]) for one in known if one["on_pareto_front"])
    axes.plot(*zip(*front, strict=True), color="tab:blue", alpha=0.4) if front else None
    axes.set_xscale("log")
    axes.set(xlabel="expected cost, USD", ylabel="predicted quality", title=f"chosen: {record['model']}")
    try:
        with unfinished(path) as part:
            figure.savefig(part, format=path.suffix.removeprefix(".") or "png", dpi=150)
    except OSError as exc:
        raise UsageError(f"--plot {path}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise UsageError(f"--plot {path}: {exc}") from exc
