"""Draw the dashboards from what a Prometheus has, where there is no Grafana: `python -m deploy.grafana.pictures`.

How it works: it reads the same files as Grafana, asks Prometheus for each panel's expressions, and draws lines, stacks,
bars, numbers and tables on the same grid. It is for looking at a run afterwards, and for pictures in documents.
"""

from __future__ import annotations

import argparse
import json
import math
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, date2num
from matplotlib.figure import Figure

from deploy.grafana import FOLDER

CELL_W, CELL_H = 0.72, 0.36
"""Inches of one cell of Grafana's grid."""
NAMED_COLORS = {"green": "#73bf69", "red": "#f2495c"}
COLORS = ("#5794f2", "#73bf69", "#ff9830", "#b877d9", "#f2495c", "#fade2a", "#8ab8ff", "#37872d", "#c4162a", "#a16207")
QUIET = "#6b7280"
POINTS = 240

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """A Prometheus, and the time that is looked at."""

    url: str
    begins_at: float
    ends_at: float

    def over_time(self, expression: str) -> list[tuple[Labels, list[float], list[float]]]:
        step = max(1.0, (self.ends_at - self.begins_at) / POINTS)
        asked = {"query": self._filled(expression, step), "start": self.begins_at, "end": self.ends_at, "step": step}
        return [
            (one["metric"], [at for at, _ in one["values"]], [float(value) for _, value in one["values"]])
            for one in self._ask("query_range", asked)
        ]

    def at_the_end(self, expression: str) -> list[tuple[Labels, float]]:
        asked = {"query": self._filled(expression, 1.0), "time": self.ends_at}
        return [(one["metric"], float(one["value"][1])) for one in self._ask("query", asked)]

    def _filled(self, expression: str, step_s: float) -> str:
        """What Grafana makes of its own names, with everything chosen."""
        whole, recent = f"{int(self.ends_at - self.begins_at)}s", f"{int(max(30.0, 4 * step_s))}s"
        filled = expression.replace("$__rate_interval", recent).replace("$__range", whole)
        return filled.replace("$profile", ".*").replace("$model", ".*")

    def _ask(self, what: str, asked: Mapping[str, Any]) -> list[Any]:
        with urlopen(f"{self.url}/api/v1/{what}?{urlencode(asked)}", timeout=30) as answer:  # noqa: S310 - as asked for
            found: list[Any] = json.load(answer)["data"]["result"]
            return found


def draw(dashboard: Mapping[str, Any], source: Source) -> Figure:
    """One dashboard as a picture."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = 24 * CELL_W, rows * CELL_H + 0.8
    figure = plt.figure(figsize=(width, height), facecolor="white")
    figure.text(0.012, 1 - 0.3 / height, dashboard["title"], size=17, weight="bold", va="center")
    figure.text(0.012, 1 - 0.62 / height, dashboard["description"], size=10, color=QUIET, va="center")
    for panel in panels:
        at = panel["gridPos"]
        left, top = at["x"] / 24, (at["y"] * CELL_H + 0.8) / height
        box = (left, 1 - top - at["h"] * CELL_H / height, at["w"] / 24, at["h"] * CELL_H / height)
        if panel["type"] == "row":
            figure.text(
                0.012, box[1] + box[3] / 2, panel["title"], size=12, weight="bold", va="center", color="#374151"
            )
        else:
            _panel(figure, box, panel, source)
    return figure


def _panel(figure: Figure, box: Sequence[float], panel: Mapping[str, Any], source: Source) -> None:
    left, bottom, width, height = box
    inches_w, inches_h = width * figure.get_figwidth(), height * figure.get_figheight()
    frame = plt.Rectangle(
        (left + 0.003, bottom + 0.03 / inches_h * height), width - 0.006, height * (1 - 0.06 / inches_h)
    )
    frame.set(fill=False, edgecolor="#d1d5db", linewidth=0.8, transform=figure.transFigure)
    figure.add_artist(frame)
    top = bottom + height
    figure.text(left + 0.009, top - 0.2 / inches_h * height, panel["title"], size=9.5, weight="bold", va="center")
    question = panel["description"].partition("\n")[0]
    lines = textwrap.wrap(question, int(inches_w * 15)) if panel["type"] != "stat" else []
    for number, line in enumerate(lines[:2]):
        at = top - (0.4 + 0.15 * number) / inches_h * height
        figure.text(left + 0.009, at, line, size=7, color=QUIET, va="center")
    drawers = {"timeseries": _lines, "bargauge": _bars, "table": _table, "stat": _number}
    margins = {"timeseries": (0.62, 0.75), "bargauge": (1.9, 0.25), "table": (0.1, 0.1), "stat": (0.1, 0.1)}
    side, below = margins[panel["type"]]
    head = 0.42 if panel["type"] == "stat" else 0.5 + 0.15 * len(lines[:2])
    inner = (
        left + side / inches_w * width,
        bottom + below / inches_h * height,
        width * (1 - (side + 0.25) / inches_w),
        height * (1 - (head + below) / inches_h),
    )
    drawers[panel["type"]](figure.add_axes(inner), panel, source)


def _lines(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    series = [
        (_name(target, labels), [date2num(_local(at)) for at in times], values)
        for target in panel["targets"]
        for labels, times, values in source.over_time(target["expr"])
        if any(math.isfinite(value) for value in values)
    ]
    series.sort(key=lambda one: one[0])
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    stacking = custom.get("stacking", {}).get("mode", "none")
    colors = _colors(panel, [name for name, _, _ in series])
    if stacking == "none":
        for (name, times, values), color in zip(series, colors, strict=True):
            axes.plot(times, values, label=name, color=color, linewidth=1.6)
        axes.set_ylim(bottom=0)
    elif series:
        _stack(axes, series, colors, shares=stacking == "percent")
    unit = "percentunit" if stacking == "percent" else _unit(panel)
    axes.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(plt.MaxNLocator(5))
    axes.yaxis.set_major_locator(plt.MaxNLocator(4))
    axes.tick_params(labelsize=7, colors=QUIET, length=0)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.7)
    for side in axes.spines.values():
        side.set_visible(False)
    if series:
        axes.legend(
            fontsize=6.6,
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(-0.04, -0.12),
            ncols=max(1, min(4, len(series))),
            handlelength=1.0,
            columnspacing=1.0,
            labelspacing=0.25,
        )
    else:
        _no_data(axes)


def _colors(panel: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Those that the panel names, and the next ones for the others."""
    named = {
        one["matcher"]["options"]: NAMED_COLORS[part["value"]["fixedColor"]]
        for one in panel["fieldConfig"]["overrides"]
        for part in one["properties"]
        if part["id"] == "color"
    }
    return [named.get(name, COLORS[number % len(COLORS)]) for number, name in enumerate(names)]


def _stack(
    axes: Axes, series: Sequence[tuple[str, list[float], list[float]]], colors: Sequence[str], *, shares: bool
) -> None:
    times = sorted({at for _, each, _ in series for at in each})
    rows = []
    for _, at, values in series:
        known = dict(zip(at, values, strict=True))
        rows.append([max(0.0, known.get(time, 0.0)) if math.isfinite(known.get(time, 0.0)) else 0.0 for time in times])
    if shares:
        sums = [sum(column) or 1.0 for column in zip(*rows, strict=True)]
        rows = [[value / whole for value, whole in zip(row, sums, strict=True)] for row in rows]
        axes.set_ylim(0, 1)
    axes.stackplot(times, rows, labels=[name for name, _, _ in series], colors=colors, alpha=0.85)


def _bars(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    bars = sorted(
        (_name(target, labels), value)
        for target in panel["targets"]
        for labels, value in source.at_the_end(target["expr"])
        if math.isfinite(value)
    )
    if not _unit(panel).startswith("percent"):
        bars = sorted(bars, key=lambda bar: -bar[1])
    bars = bars[:14][::-1]
    axes.axis("off")
    if not bars:
        _no_data(axes)
        return
    most = panel["fieldConfig"]["defaults"].get("max") or max(abs(value) for _, value in bars) or 1.0
    for number, (name, value) in enumerate(bars):
        axes.barh(number, most, color="#f3f4f6", height=0.66)
        axes.barh(number, value, color=COLORS[(len(bars) - 1 - number) % len(COLORS)], height=0.66)
        axes.text(-0.02 * most, number, name, ha="right", va="center", size=7)
        axes.text(
            most * 1.01,
            number,
            shown(value, _unit(panel), _decimals(panel)),
            ha="left",
            va="center",
            size=7.5,
            weight="bold",
        )
    axes.set_xlim(min(0.0, *(value for _, value in bars)), most * 1.16)
    axes.set_ylim(-0.6, max(len(bars), 4) - 0.4)


def _number(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    axes.axis("off")
    values = [value for target in panel["targets"] for _, value in source.at_the_end(target["expr"])]
    text = shown(values[0], _unit(panel), _decimals(panel)) if values and math.isfinite(values[0]) else "no data"
    axes.text(0.5, 0.45, text, size=20, ha="center", va="center", weight="bold", color="#1f2937")


def _table(axes: Axes, panel: Mapping[str, Any], source: Source) -> None:
    joined, renamed = (step["options"] for step in panel["transformations"])
    by, columns = joined["byField"], list(renamed["renameByName"].values())
    units = {one["matcher"]["options"]: one["properties"][0]["value"] for one in panel["fieldConfig"]["overrides"]}
    cells: dict[str, dict[str, float]] = {}
    for column, target in zip(columns, panel["targets"], strict=True):
        for labels, value in source.at_the_end(target["expr"]):
            cells.setdefault(labels[by], {})[column] = value
    axes.axis("off")
    if not cells:
        _no_data(axes)
        return
    order = sorted(cells, key=lambda name: -cells[name].get(columns[0], 0.0))[:12]
    text = [
        [name, *(_cell(cells[name].get(column), units.get(column, "short")) for column in columns)] for name in order
    ]
    widths = [0.3, *[0.7 / len(columns)] * len(columns)]
    height = min(1.0, (len(order) + 1) / 11)
    drawn = axes.table(
        text,
        colLabels=[by, *columns],
        colWidths=widths,
        cellLoc="right",
        edges="horizontal",
        bbox=(0, 1 - height, 1, height),
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7.5)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("#e5e7eb")
        if column == 0:
            cell.set_text_props(ha="left")
        if row == 0:
            cell.set_text_props(weight="bold", color=QUIET)


def _cell(value: float | None, unit: str) -> str:
    return "-" if value is None or not math.isfinite(value) else shown(value, unit)


def _no_data(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=QUIET)


def _name(target: Mapping[str, Any], labels: Labels) -> str:
    name: str = target["legendFormat"]
    for label, value in labels.items():
        name = name.replace(f"{{{{{label}}}}}", value)
    return ", ".join(labels.values()) if name == "__auto" else name


def _decimals(panel: Mapping[str, Any]) -> int | None:
    decimals: int | None = panel["fieldConfig"]["defaults"].get("decimals")
    return decimals


def _unit(panel: Mapping[str, Any]) -> str:
    unit: str = panel["fieldConfig"]["defaults"]["unit"]
    return unit


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """A number as Grafana would show it, more or less."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        return f"{value:.3g} s" if abs(value) >= 1 or value == 0 else f"{value * 1e3:.3g} ms"
    if unit == "currencyUSD":
        places = 2 if value == 0 else max(2, 1 - math.floor(math.log10(abs(value))))
        return f"{'-' if value < 0 else ''}${abs(value):.{places}f}"
    if decimals is not None or abs(value) >= 100:
        return f"{value:,.{decimals or 0}f}"
    return f"{value:.3g} /s" if unit == "reqps" else f"{value:.3g}"


def _local(at: float) -> Any:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("prometheus", help="such as http://127.0.0.1:9090")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far to look back")
    asked = parser.parse_args(None if arguments is None else list(arguments))
    now = time.time()
    source = Source(asked.prometheus.rstrip("/"), now - asked.minutes * 60, now)
    asked.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(FOLDER.glob("*.json")):
        figure = draw(json.loads(path.read_text()), source)
        figure.savefig(asked.folder / f"{path.stem}.png", dpi=110)
        plt.close(figure)
        print(asked.folder / f"{path.stem}.png")


if __name__ == "__main__":
    main()
