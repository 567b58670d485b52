"""What our dashboards are made of: panels that say which question they answer, and Grafana's own types made of them.

How it works: a dashboard is rows of panels, each a few queries and words. `build` lays them out from left to right on
Grafana's grid of 24 columns and hands them to the Grafana Foundation SDK, whose types are what Grafana reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from grafana_foundation_sdk.builders import bargauge, common, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build_dashboard
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = model.DataSourceRef(type_val="prometheus", uid="prometheus")
Kind = Literal["lines", "stacked", "shares", "bars", "number", "table"]


@dataclass(frozen=True)
class Query:
    """One expression; `name` is its legend, or the heading of its column."""

    expr: str
    name: str = ""
    unit: str | None = None
    """Of a table's column."""


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    question: str
    remedy: str
    """What to do when it looks wrong."""
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = "lines"
    width: int = 8
    height: int = 8
    by: str = ""
    """The label that a table has one row for each of."""
    minimum: float | None = 0
    maximum: float | None = None
    decimals: int | None = None
    colors: tuple[tuple[str, str], ...] = ()
    """Of series that mean something good or bad, by their legend."""

    @property
    def description(self) -> str:
        return f"{self.question}\n\nIf it looks wrong: {self.remedy}"


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    variables: tuple[str, ...]
    """Labels of `thalamus_decisions_total` that one can choose values of."""
    rows: tuple[Row, ...]


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Per second, of late."""
    return f"{_sum(by)} (rate({metric}{_selector(where)}[$__rate_interval]))"


def total(metric: str, by: str = "", where: str = "") -> str:
    """Over all of the time that is shown."""
    return f"{_sum(by)} (increase({metric}{_selector(where)}[$__range]))"


def over(part: str, whole: str, by: str = "", where: str = "", of: Callable[[str, str, str], str] = total) -> str:
    """One metric over another."""
    return f"{of(part, by, where)} / {of(whole, by, where)}"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """Of a histogram, of late."""
    return f"histogram_quantile({share:g}, {rate(f'{metric}_bucket', f'le, {by}' if by else 'le', where)})"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"


def _selector(where: str) -> str:
    return f"{{{where}}}" if where else ""


def render(dashboard: Dashboard) -> str:
    """As Grafana reads it."""
    return json.dumps(build(dashboard), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def build(dashboard: Dashboard) -> model.Dashboard:
    """In the types of the SDK."""
    builder = (
        build_dashboard.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(["thalamus"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(_links())
    )
    for variable in dashboard.variables:
        builder.with_variable(_variable(variable))
    number = 0
    for row in dashboard.rows:
        builder.with_row(build_dashboard.Row(row.title).id(number := number + 1))
        for panel in row.panels:
            builder.with_panel(_panel(panel).id(number := number + 1))
    return builder.build()


def _links() -> build_dashboard.DashboardLink:
    link = build_dashboard.DashboardLink("Thalamus").type(model.DashboardLinkType.DASHBOARDS)
    return link.tags(["thalamus"]).as_dropdown(True).keep_time(True)


def _variable(label: str) -> build_dashboard.QueryVariable:
    return (
        build_dashboard.QueryVariable(label)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values(thalamus_decisions_total, {label})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(panel: Panel) -> Any:
    makers = {"bars": _bars, "number": _number, "table": _table}
    builder = makers.get(panel.kind, _lines)(panel)
    builder.title(panel.title).description(panel.description).datasource(SOURCE)
    builder.unit(panel.unit).span(panel.width).height(panel.height)
    if panel.minimum is not None:
        builder.min(panel.minimum)
    if panel.maximum is not None:
        builder.max(panel.maximum)
    if panel.decimals is not None:
        builder.decimals(panel.decimals)
    for name, color in panel.colors:
        fixed = model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})
        builder.override_by_name(name, [fixed])
    return builder


def _queries(panel: Panel, *, instant: bool, table: bool = False) -> list[Dataquery]:
    queries = []
    for letter, each in zip("ABCDEFGHIJ", panel.queries, strict=False):
        query = Dataquery().expr(each.expr).ref_id(letter).datasource(SOURCE)
        query.format(PromQueryFormat.TABLE if table else PromQueryFormat.TIME_SERIES)
        queries.append((query.instant() if instant else query.range()).legend_format(each.name or "__auto"))
    return queries


def _lines(panel: Panel) -> timeseries.Panel:
    builder = timeseries.Panel().targets(_queries(panel, instant=False))
    stacked = panel.kind in ("stacked", "shares")
    mode = {"stacked": shapes.StackingMode.NORMAL, "shares": shapes.StackingMode.PERCENT}.get(panel.kind)
    if mode:
        builder.stacking(common.StackingConfig().group("A").mode(mode))
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST).show_legend(True)
    return (
        builder.legend(legend.placement(shapes.LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING))
        .fill_opacity(70 if stacked else 8)
        .line_width(0 if stacked else 2)
        .show_points(shapes.VisibilityMode.NEVER)
        .span_nulls(True)
    )


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _bars(panel: Panel) -> bargauge.Panel:
    builder = bargauge.Panel().targets(_queries(panel, instant=True)).reduce_options(_last())
    builder.orientation(shapes.VizOrientation.HORIZONTAL).display_mode(shapes.BarGaugeDisplayMode.BASIC)
    return builder.color_scheme(build_dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))


def _number(panel: Panel) -> stat.Panel:
    builder = stat.Panel().targets(_queries(panel, instant=True)).reduce_options(_last())
    return builder.graph_mode(shapes.BigValueGraphMode.NONE).color_mode(shapes.BigValueColorMode.NONE)


def _table(panel: Panel) -> table.Panel:
    """One row for each value of a label, one column for each query."""
    builder = table.Panel().targets(_queries(panel, instant=True, table=True)).align(shapes.FieldTextAlignment.AUTO)
    letters = "ABCDEFGHIJ"[: len(panel.queries)]
    names = {f"Value #{letter}": query.name for letter, query in zip(letters, panel.queries, strict=True)}
    hidden = {f"Time {number}": True for number in range(1, len(letters) + 1)}
    builder.with_transformation(
        model.DataTransformerConfig(id_val="joinByField", options={"byField": panel.by, "mode": "outer"})
    )
    builder.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True, **hidden}, "indexByName": {}, "renameByName": names},
        )
    )
    for query in panel.queries:
        if query.unit:
            builder.override_by_name(query.name, [model.DynamicConfigValue(id_val="unit", value=query.unit)])
    return builder
