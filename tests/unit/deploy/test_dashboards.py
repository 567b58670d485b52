"""Dashboards are what their code says, in Grafana's own types, and every panel says what it is for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard
from grafana_foundation_sdk.models.prometheus import Dataquery

from app.errors import Draining, GatewayError
from app.telemetry.metrics import Metrics
from app.telemetry.names import SERVER_ERRORS
from deploy.grafana import DASHBOARDS, FOLDER
from deploy.grafana.panels import Dashboard, Panel, render
from tests.fakes.prometheus import expressions

PROMETHEUS = Path(FOLDER).parents[1] / "prometheus"
RULES = [
    rule
    for path in sorted(PROMETHEUS.glob("rules/*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]


def panels() -> Iterator[Panel]:
    return (panel for dashboard in DASHBOARDS for row in dashboard.rows for panel in row.panels)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_the_committed_files_are_what_the_code_renders(dashboard: Dashboard) -> None:
    assert (FOLDER / f"{dashboard.uid}.json").read_text() == render(dashboard), "run python -m deploy.grafana"


def test_no_file_is_left_of_a_dashboard_that_is_gone() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {dashboard.uid for dashboard in DASHBOARDS}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_the_types_of_the_sdk_read_and_write_the_same(path: Path) -> None:
    register_default_plugins()
    committed = json.loads(path.read_text())
    read = GrafanaDashboard.from_json(committed)
    queries = [target for panel in read.panels or () for target in getattr(panel, "targets", None) or ()]
    assert queries
    assert all(isinstance(query, Dataquery) for query in queries)
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == committed


def test_every_panel_says_its_question_and_what_to_do() -> None:
    for panel in panels():
        assert panel.question.rstrip(".").count("?") >= 1, panel.title
        assert panel.question[0].isupper(), panel.title
        assert len(panel.remedy) > 20, panel.title
        assert panel.remedy.endswith("."), panel.title
        assert panel.unit, panel.title


def test_what_is_counted_per_second_is_not_shown_as_a_share() -> None:
    per_second = re.compile(r"sum( by \([^)]*\))? \(rate\((?:[^()]|\([^()]*\))*\)\)( or vector\(0\)| > 0)?")
    for panel in panels():
        if panel.unit == "percentunit":
            assert not [query.expr for query in panel.queries if per_second.fullmatch(query.expr)], panel.title


def test_what_answers_cost_is_told_by_answer_not_by_decision() -> None:
    per_answer = [each for each in expressions() if "thalamus_cost_usd_total" in each and " / " in each]
    assert len(per_answer) == 2
    for each in per_answer:
        assert "thalamus_ttft_seconds_count" in each
        assert "profile" not in each, "answers are not told by profile, so their cost must not be either"


def test_titles_are_told_apart_and_rows_are_full() -> None:
    for dashboard in DASHBOARDS:
        titles = [panel.title for row in dashboard.rows for panel in row.panels]
        assert len(titles) == len(set(titles))
        for row in dashboard.rows:
            assert sum(panel.width for panel in row.panels) % 24 == 0, f"{dashboard.title}: {row.title}"


def test_no_two_panels_share_a_place() -> None:
    for path in FOLDER.glob("*.json"):
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            at: dict[str, int] = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken, panel["title"]
            taken |= cells


def test_every_metric_is_read_by_a_panel_or_a_rule_or_is_for_debugging() -> None:
    text = "\n".join([*expressions(), *(rule["expr"] for rule in RULES)])
    read = set(re.findall(r"thalamus_\w+", text))
    declared = {family.name: family.type for family in Metrics().registry.collect()}
    names = {
        name: {f"{name}_total"}
        if kind == "counter"
        else {f"{name}_{part}" for part in ("bucket", "sum", "count")}
        if kind == "histogram"
        else {name}
        for name, kind in declared.items()
    }
    unread = {name for name, forms in names.items() if not forms & read}
    assert not unread, "no panel and no rule reads them"
    assert read <= set().union(*names.values()), "there is no such metric"


def test_every_recorded_name_that_is_read_is_recorded() -> None:
    text = "\n".join([*expressions(), *(rule["expr"] for rule in RULES)])
    assert set(re.findall(r"thalamus:\w+:\w+", text)) == {rule["record"] for rule in RULES if "record" in rule}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_has_its_paragraph(alert: dict[str, Any]) -> None:
    runbook = (FOLDER.parents[1] / "README.md").read_text()
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert (path, anchor) == ("deploy/README.md", alert["alert"].lower())
    paragraph = runbook.partition(f"\n### {alert['alert']}\n")[2].partition("\n\n")[0]
    assert len(paragraph) > 60
    assert alert["annotations"]["summary"].endswith(".")


def test_no_paragraph_is_left_of_an_alert_that_is_gone() -> None:
    runbook = (FOLDER.parents[1] / "README.md").read_text()
    assert re.findall(r"^### (Thalamus\w+)$", runbook, re.MULTILINE) == [alert["alert"] for alert in ALERTS]


def test_server_errors_are_those_that_the_code_tells_from_the_start() -> None:
    names = ("thalamus:answerable:rate5m", "thalamus:server_errors:ratio_rate5m")
    rules = [rule for rule in RULES if rule.get("record") in names]
    assert ["|".join(SERVER_ERRORS) in rule["expr"] for rule in rules] == [True, True]


def test_server_errors_are_all_errors_of_our_own_but_those_of_a_stop_that_was_asked_for() -> None:
    codes = {one.code for one in _with_children(GatewayError) if one.status >= 500}
    quotas = {one.counted_as for one in _with_children(GatewayError) if one.counted_as}
    assert set(SERVER_ERRORS) == codes - {Draining.code} | quotas


def _with_children(error: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield error
    for child in error.__subclasses__():
        yield from _with_children(child)


def test_every_alert_ends_in_its_threshold() -> None:
    for alert in ALERTS:
        assert re.search(r" (==|<|>) [\d.]+$", alert["expr"].strip()), alert["alert"]
