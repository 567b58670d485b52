"""`thalamus evaluate`: artifacts against every baseline, as a table, JSON, plots, gates and the model card."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from app.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from router_models.evaluation.costs import Price
    from router_models.evaluation.sets import Entrant, Source
    from router_models.storage.artifact import Artifact

# What the table on the terminal shows; --json has everything.
_SHOWN = {
    "quality": "quality",
    "match where\nscores differ": "oracle_match_where_scores_differ",
    "cost as multiple\nof best single": "cost_ratio",
}


def evaluate(
    artifact: Annotated[
        list[Path], typer.Option(help="Artifact folder; several that differ in their seed count once.")
    ],
    data: Annotated[list[Path], typer.Option(help="Outcomes dataset; several are measured one by one and together.")],
    split: Annotated[
        list[str] | None, typer.Option(help="Split to measure on; may be repeated. Without it dev, else test.")
    ] = None,
    train_split: Annotated[
        str | None, typer.Option(help="Split the baselines learn from; without it train, where there is one.")
    ] = None,
    aliases: Annotated[
        Path | None,
        typer.Option(help="JSON {canonical name: {folder: names there}}, names in a list: which models are the same."),
    ] = None,
    catalog: Annotated[
        Path | None, typer.Option(help="Catalogue with prices and parameters_b per model, instead of prices.json.")
    ] = None,
    sizes: Annotated[
        str,
        typer.Option(help="Instead of a catalogue's: model=0.135,model=0.071 in billions, as artifact or data say."),
    ] = "",
    plots: Annotated[Path | None, typer.Option(help="Folder for PNG figures.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Parquet file for every prediction.")] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write evaluation.json and README.md into the first artifact.")
    ] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="Print the release gates; exit status 1 if one is failed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Measure a router model on prompts it has not seen, against baselines that learned from the same outcomes.

    Where no prompt of a dataset has a split, each gets one by its text, as in `train`: 70% train, 10% dev, 20% test.

    Example: `thalamus evaluate --artifact router_models/artifacts/demo-v2 --data deploy/demo/outcomes --split test
    --split unseen --plots var/plots`
    """
    from router_models.outcomes.dataset import OutcomesError
    from router_models.storage.artifact import ArtifactError, load_artifact

    try:
        from app.cli.listed import columns_of, listed_in, sizes_given
        from app.cli.screen import bars
        from router_models.evaluation.evaluate import Setting
        from router_models.evaluation.evaluate import evaluate as measure
        from router_models.evaluation.gates import FAILED
        from router_models.evaluation.sets import Entrant
    except ModuleNotFoundError as exc:
        raise UsageError(f"evaluating needs the extra `train`: {exc.name} is not installed") from exc

    if predictions:
        _refuse_unwritable(predictions)
    if plots:
        _refuse_unwritable(plots / "pareto.png")
    try:
        artifacts = [load_artifact(folder) for folder in artifact]
        if card:
            _refuse_unwritable(artifact[0] / "evaluation.json")
        listed = listed_in(catalog, artifacts[0])
        naming = _Naming(aliases, artifacts[0], listed.prices)
        sources = [_source(folder, split or (), naming) for folder in data]
        if train_split is not None:
            _refuse_unknown(train_split, sources)
        _check_names(sources)
        entrants = [Entrant.of(each) for each in artifacts]
        if card:
            _refuse_lessons(entrants, sources)
        there = {model for source in sources for model in source.dataset.models}
        sizes_b = {**listed.sizes_b, **sizes_given(sizes, columns_of(artifacts[0]), there)}
        setting = Setting(train_split=train_split or "train", sizes_b=sizes_b)
        with bars() as bar:
            report, table = measure(entrants, sources, setting, bar)
    except (ArtifactError, OutcomesError) as exc:
        raise UsageError(str(exc)) from exc
    if predictions:
        _write_table(predictions, table)
    if card:
        _write_card(artifact[0], artifacts[0], report)
    _show(report, as_json=as_json, gate=gate)
    for path in _draw(report, plots) if plots else []:
        print(path, file=sys.stderr if as_json else sys.stdout)
    if gate and any(each["verdict"] == FAILED for each in report["gates"]):
        raise typer.Exit(1)


class _Naming(NamedTuple):
    """Whose names the models of a dataset get, and what a catalogue says that they cost."""

    aliases: Path | None
    artifact: Artifact
    prices: Mapping[str, Price]


def _source(folder: Path, splits: Sequence[str], naming: _Naming) -> Source:
    """A dataset under canonical names; prices of a catalogue take precedence over those beside the data."""
    from app.cli.divided import tell_division
    from app.cli.named import names_in, tell_strangers
    from router_models.evaluation.costs import read_prices
    from router_models.evaluation.sets import Source, splits_to_measure
    from router_models.outcomes.dataset import OutcomesError, read_outcomes
    from router_models.outcomes.splits import division, with_splits

    name, collected = folder.resolve().name, read_outcomes(folder)
    renamed = names_in(name, collected, naming.aliases, naming.artifact)
    tell_division(name, division(collected))
    dataset = with_splits(collected.renamed(renamed))
    tell_strangers(name, dataset.models, naming.artifact)
    try:
        measured = splits_to_measure(dataset, splits)
    except OutcomesError as exc:
        raise OutcomesError(f"{folder}: {exc}") from exc
    return Source(name, dataset, measured, {**read_prices(folder, renamed), **naming.prices})


def _refuse_unknown(split: str, sources: Sequence[Source]) -> None:
    """A split that baselines were to learn from and that is not there would silently leave them all out."""
    from router_models.outcomes.splits import split_names

    for source in sources:
        there = split_names(source.dataset)
        if split not in there:
            raise UsageError(f"{source.name}: no prompt has split {split}; there are {', '.join(there)}")


def _check_names(sources: Sequence[Source]) -> None:
    counted = Counter(source.name for source in sources)
    if double := [name for name, count in counted.items() if count > 1]:
        raise UsageError(f"two folders of --data are named {double[0]}; a set is known by its folder's name")


def _refuse_lessons(entrants: Sequence[Entrant], sources: Sequence[Source]) -> None:
    """A card is about prompts that an artifact has not seen."""
    for source in sources:
        for split in source.splits:
            if any(entrant.learned_from(source.name, split) for entrant in entrants):
                raise UsageError(
                    f"{source.name}: the artifact was trained on split {split}; a card needs prompts it has not seen"
                )


def _write_table(path: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    from app.collect.whole import unfinished

    with unfinished(path) as part:
        part.touch()  # says what is wrong with the path; pyarrow's own errors have no file name
        pq.write_table(table, part, compression="zstd")


def _refuse_unwritable(path: Path) -> None:
    """Raise what is wrong with the path of a file that is yet to be written, as measuring it takes long."""
    if path.is_dir():
        raise UsageError(f"{path}: Is a directory; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.touch()
    beside.unlink()


def _draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    from router_models.evaluation.plots import draw

    return draw(report, folder)


def _write_card(folder: Path, artifact: Any, report: Mapping[str, Any]) -> None:
    from router_models.evaluation.card import render_card

    command = shlex.join(["thalamus", *sys.argv[1:]])
    content = json.dumps({"command": command, **report}, indent=1, allow_nan=False, default=float)
    (folder / "evaluation.json").write_text(content + "\n", encoding="utf-8")
    (folder / "README.md").write_text(render_card(artifact, report, command), encoding="utf-8")


def _show(report: Mapping[str, Any], *, as_json: bool, gate: bool) -> None:
    """Figures on stdout; beside JSON, everything meant for people goes to stderr."""
    from app.cli.screen import console
    from router_models.evaluation.gates import LEARNED_FROM, without_choice

    screen = console(stderr=as_json)
    for name, figures in report["sets"].items():
        if figures[LEARNED_FROM]:
            print(f"{name}: the artifact was trained on these prompts; of others this says nothing", file=sys.stderr)
        if missing := without_choice(figures):
            print(f"{name}: {missing}", file=sys.stderr)
        if asked := figures["prompts_asked_in_training"]:
            told = f"{asked} of {figures['prompts']} prompts ask what the training split asks too"
            print(f"{name}: {told}; of other questions this says less", file=sys.stderr)
        _tell_left_out(name, figures["baselines_left_out"])
    if as_json:
        print(json.dumps(report, allow_nan=False, default=float))
    else:
        _print_tables(report, screen)
    if gate:
        _print_gates(report, screen)


def _tell_left_out(name: str, left_out: Mapping[str, str]) -> None:
    for why in dict.fromkeys(left_out.values()):
        baselines = ", ".join(baseline for baseline, reason in left_out.items() if reason == why)
        print(f"{name}: left out {baselines}: {why}", file=sys.stderr)


def _print_tables(report: Mapping[str, Any], screen: Console) -> None:
    from app.cli.screen import WholeTable

    several = {"pooled": report["pooled"]} if len(report["sets"]) > 1 else {}
    for name, figures in {**report["sets"], **several}.items():
        title = f"{name}: {figures['prompts']} prompts, scores differ on {figures['prompts_where_scores_differ']}"
        table = WholeTable("policy", *_SHOWN, title=title)
        for policy, metrics in figures["policies"].items():
            table.add_row(policy, *(_cell(metrics[metric]) for metric in _SHOWN.values()))
        screen.print(table)
        screen.print(_summary(figures), highlight=False)
    latency = report["latency_ms"]
    screen.print(
        f"one prediction: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms; "
        f"of one core: p50 {latency['cpu_p50']:.1f} ms, p99 {latency['cpu_p99']:.1f} ms",
        highlight=False,
    )


def _summary(figures: Mapping[str, Any]) -> str:
    error = "-" if figures["ece"] is None else f"{figures['ece']:.3f}"
    return (
        f"AIQ minus the Zero router's {_line(figures['daiq'])}\n"
        f"cost at the quality of the best single model {_line(figures['cost_at_best_single'])}, "
        f"at 1 point less {_line(figures['cost_at_minus_1_point'])}\n"
        f"expected calibration error {error}; abstained on {figures['abstained']:.1%}; "
        f"most chosen model {figures['top_model_share']:.0%}"
    )


def _print_gates(report: Mapping[str, Any], screen: Console) -> None:
    from app.cli.screen import WholeTable

    table = WholeTable("gate", "of", "figure", "bound", "", "", title="release gates")
    for gate in report["gates"]:
        figure = "-" if gate["figure"] is None else f"{gate['figure']:.4f}"
        bound = f"{'at least' if gate['at_least'] else 'at most'} {gate['bound']:.4g}"
        table.add_row(gate["name"], gate["about"], figure, bound, gate["verdict"], gate["note"])
    screen.print(table)


def _line(value: Sequence[float] | None) -> str:
    return "-" if value is None else f"{value[1]:.3f} [{value[0]:.3f}, {value[2]:.3f}]"


def _cell(value: Sequence[float] | None) -> str:
    return "-" if value is None else f"{value[1]:.3g}\n{value[0]:.3g} to {value[2]:.3g}"
