"""`thalamus evaluate`: an artifact against every baseline, as a table, JSON, plots and the model card."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.errors import UsageError

if TYPE_CHECKING:
    from app.domain.models import Model
    from router_models.evaluation.costs import Prices

# What the table on the terminal shows; --json has everything.
_SHOWN = {
    "quality": "quality",
    "match": "oracle_match",
    "match where\nscores differ": "oracle_match_where_scores_differ",
    "USD": "cost_usd",
}


def evaluate(
    artifact: Annotated[
        list[Path], typer.Option(help="Artifact folder; several that differ in their seed count once.")
    ],
    data: Annotated[Path, typer.Option(help="Outcomes dataset: baselines learn from its training split.")],
    split: Annotated[
        list[str] | None, typer.Option(help="Split to measure on; may be repeated. [default: test]")
    ] = None,
    train_split: Annotated[str, typer.Option(help="Split the baselines learn from.")] = "train",
    catalog: Annotated[
        Path | None, typer.Option(help="Catalogue with parameters_b per model, for the front over size.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Instead of a catalogue: model=0.135,model=0.071 in billions.")] = "",
    plots: Annotated[Path | None, typer.Option(help="Folder for PNG figures.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Parquet file for every prediction.")] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Write evaluation.json and README.md into the first artifact.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Measure a router model on prompts it has not seen, against baselines that learned from the same outcomes.

    Example: `thalamus evaluate --artifact router_models/artifacts/demo-v1 --data deploy/demo/outcomes --split test
    --split unseen --plots var/plots`
    """
    from router_models.artifact import ArtifactError, load_artifact
    from router_models.outcomes import OutcomesError, read_outcomes

    try:
        from app.cli.screen import bars
        from router_models.evaluation.costs import listed_prices
        from router_models.evaluation.evaluate import Setting
        from router_models.evaluation.evaluate import evaluate as measure
    except ModuleNotFoundError as exc:
        raise UsageError(f"evaluating needs the extra `train`: {exc.name} is not installed") from exc

    try:
        artifacts = [load_artifact(folder) for folder in artifact]
        setting = Setting(
            splits=tuple(split or ("test",)),
            train_split=train_split,
            sizes_b=_catalog_sizes(catalog) | _sizes(sizes),
            listed_prices=_catalog_prices(catalog, artifacts[0].models) or listed_prices(data, artifacts[0].models),
        )
        with bars() as bar:
            report, table = measure(artifacts, read_outcomes(data), setting, bar)
    except (ArtifactError, OutcomesError) as exc:
        raise UsageError(str(exc)) from exc
    if predictions:
        _write_table(predictions, table)
    written = _draw(report, plots) if plots else []
    if card:
        _write_card(artifact[0], artifacts[0], report)
    if as_json:
        print(json.dumps(report, allow_nan=False, default=float))
    else:
        _print_tables(report)
        for path in written:
            print(path)


def _sizes(sizes: str) -> dict[str, float]:
    """Billions of parameters by column of the artifact, as given on the command line."""
    try:
        pairs = [part.split("=") for part in sizes.split(",") if part]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError as exc:
        raise UsageError(f"--sizes should look like small=0.071,large=0.135, not {sizes!r}") from exc


def _catalog_sizes(path: Path | None) -> dict[str, float]:
    return {
        column: model.card.values["parameters_b"]
        for column, model in _by_column(path).items()
        if "parameters_b" in model.card.values
    }


def _catalog_prices(path: Path | None, columns: Sequence[str]) -> Prices | None:
    import numpy as np

    from router_models.evaluation.costs import Prices

    models = _by_column(path)
    prices = [models[column].price if column in models else None for column in columns]
    if not any(prices):
        return None
    return Prices(
        np.array([price.input_usd_per_m if price else np.nan for price in prices]),
        np.array([price.output_usd_per_m if price else np.nan for price in prices]),
    )


def _by_column(path: Path | None) -> dict[str, Model]:
    """Models of a catalogue by the column of the artifact that predicts them."""
    if path is None:
        return {}
    from app.settings import load_catalog

    return {model.predicted_as: model for model in load_catalog(path).models if model.predicted_as}


def _write_table(path: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def _draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    from router_models.evaluation.plots import draw

    return draw(report, folder)


def _write_card(folder: Path, artifact: Any, report: Mapping[str, Any]) -> None:
    from router_models.evaluation.card import render_card

    command = shlex.join(["thalamus", *sys.argv[1:]])
    content = json.dumps({"command": command, **report}, indent=1, allow_nan=False, default=float)
    (folder / "evaluation.json").write_text(content + "\n", encoding="utf-8")
    (folder / "README.md").write_text(render_card(artifact, report, command), encoding="utf-8")


def _print_tables(report: Mapping[str, Any]) -> None:
    from rich.table import Table

    from app.cli.screen import console

    screen = console()
    for split, figures in report["splits"].items():
        title = f"{split}: {figures['prompts']} prompts, scores differ on {figures['prompts_where_scores_differ']}"
        table = Table("policy", *_SHOWN, title=title)
        for name, policy in figures["policies"].items():
            table.add_row(name, *(_cell(policy[metric]) for metric in _SHOWN.values()))
        screen.print(table)
        screen.print(f"expected calibration error {figures['calibration']['ece']:.3f}", highlight=False)
    latency = report["latency_ms"]
    screen.print(f"one prediction: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms", highlight=False)


def _cell(value: Mapping[str, Any]) -> str:
    return "-" if value["mean"] is None else f"{value['mean']:.3g}\n{value['low']:.3g} to {value['high']:.3g}"
