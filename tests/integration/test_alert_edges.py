"""When each alert fires: just above its threshold, not just below it, and when its time has come, not just before.

How it works: promtool is given one test for each case. The fault is there from the first sample on, one each 15 s; what
is a rate has its first value with the second sample. `ALERTS` is what Prometheus itself says about alerts.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules"
STEP_S = 15
pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="this machine has no promtool")

Series = Mapping[str, str]
"""Values in promtool's notation by series: `1` stays, `0+3` grows by 3 each time."""
ASKED = "thalamus_requests_total{outcome='ok'}"
UNANSWERED = "thalamus_requests_total{outcome='no_backend'}"
MISSED, UP = "thalamus_deadline_misses_total", "up{job='thalamus', instance='a'}"
LATE = "thalamus_requests_total{outcome='upstream_timeout'}"
REFUSED = "thalamus_requests_total{operation='none', outcome='invalid_api_key'}"
OVERHEAD = "thalamus_overhead_seconds_bucket{stage='total', le='%s'}"
STARTED = "thalamus_started_at_seconds{instance='a'}"
ATTAINED = "thalamus_limit_attainment_total{limit='max_latency_s', outcome='%s'}"


@dataclass(frozen=True)
class Edge:
    """Series with which an alert just fires after so long, and others with which it just does not."""

    after_s: int
    above: Series
    below: Series


def counted(after_s: int, metric: str) -> Edge:
    """Of what should never be counted."""
    return Edge(after_s + STEP_S, {metric: "0+1"}, {metric: "0"})


def level(after_s: int, metric: str, above: str, below: str) -> Edge:
    return Edge(after_s, {metric: above}, {metric: below})


def share(after_s: int, part: str, whole: str, above: int, below: int, of: int) -> Edge:
    """Of counters."""
    return Edge(after_s + STEP_S, *({part: f"0+{number}", whole: f"0+{of}"} for number in (above, below)))


EDGES = {
    "ThalamusDown": level(60, "up{job='thalamus'}", "0", "1"),
    "ThalamusServerErrors": Edge(
        120 + STEP_S, {ASKED: "0+949", UNANSWERED: "0+51"}, {ASKED: "0+951", UNANSWERED: "0+49"}
    ),
    "ThalamusShedding": counted(120, "thalamus_shed_total{priority='low'}"),
    "ThalamusSlow": Edge(
        300 + STEP_S,
        *(
            {OVERHEAD % "0.05": fast, OVERHEAD % "0.1": "0+1000", OVERHEAD % "+Inf": "0+1000"}
            for fast in ("0+989", "0+991")
        ),
    ),
    "ThalamusReplicaOut": level(120, "thalamus_replica_up{backend='pool', replica='a'}", "0", "1"),
    "ThalamusWorkersQueue": level(300, "thalamus_replica_waiting{backend='pool', replica='a'}", "1", "0"),
    "ThalamusWorkerCacheFull": level(300, "vllm:kv_cache_usage_perc{instance='a'}", "0.951", "0.949"),
    "ThalamusPredictorFails": share(
        300, "thalamus_predictor_failures_total", "thalamus_decisions_total", 11, 9, of=1000
    ),
    "ThalamusUnfamiliarPrompts": share(
        3600, "thalamus_unfamiliar_prompts_total", "thalamus_predictions_total", 26, 24, of=100
    ),
    "ThalamusLimitsMissed": Edge(
        900 + STEP_S,
        {ATTAINED % "kept": "0+89", ATTAINED % "missed": "0+11"},
        {ATTAINED % "kept": "0+91", ATTAINED % "missed": "0+9"},
    ),
    "ThalamusPredictionsLow": share(
        3600,
        "thalamus_realised_sum_total{quantity='ttft_s'}",
        "thalamus_predicted_sum_total{quantity='ttft_s'}",
        201,
        199,
        of=100,
    ),
    "ThalamusSavesNothing": share(
        3600, "thalamus_routed_cost_usd_total", "thalamus_baseline_cost_usd_total", 101, 99, of=100
    ),
    "ThalamusDeadlinesMissed": share(300, MISSED, ASKED, 21, 19, of=1000),
    "ThalamusBudgetNearlySpent": Edge(
        60, *({"thalamus_key_budget_usd": "10", "thalamus_key_budget_left_usd": left} for left in ("0.99", "1.01"))
    ),
    "ThalamusStoreDown": level(60, "thalamus_store_up{feature='budgets'}", "0", "1"),
    "ThalamusJournalBehind": level(300, "thalamus_journal_spool_bytes", "10000001", "10000000"),
    "ThalamusJournalStopped": level(0, "thalamus_journal_stopped", "1", "0"),
    "ThalamusJournalLosesRecords": counted(0, "thalamus_journal_rows_dropped_total"),
    "ThalamusJournalInterrupted": counted(0, "thalamus_journal_interrupted_total"),
    "ThalamusConfigRefused": counted(0, "thalamus_config_rejected_total"),
    "ThalamusProcessDied": counted(0, "thalamus_worker_deaths_total"),
    "ThalamusLogLost": counted(0, "thalamus_log_lines_dropped_total"),
    "ThalamusTasksLeak": Edge(
        600,
        *({"thalamus_event_loop_tasks": tasks, "thalamus_requests_in_flight": "10"} for tasks in ("1201", "1199")),
    ),
}


def test_every_alert_has_its_edges() -> None:
    groups = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    assert list(EDGES) == [rule["alert"] for group in groups for rule in group["rules"]]


def test_alerts_fire_just_above_their_threshold_and_not_before_their_time(tmp_path: Path) -> None:
    above = {name: case(name, edge.above, dict(_firing(edge.after_s))) for name, edge in EDGES.items()}
    below = {f"{name} below": case(name, edge.below, {edge.after_s + 600: 0}) for name, edge in EDGES.items()}
    assert told(tmp_path, above | below) == ""


def _firing(after_s: int) -> Iterator[tuple[int, int]]:
    if after_s:
        yield after_s - STEP_S, 0
    yield after_s, 1


ONCE = "0x20 1x200"
MANY = "0+1000"
QUIET: dict[str, tuple[str, Series]] = {
    "one request that is turned away": ("ThalamusShedding", {"thalamus_shed_total{priority='low'}": ONCE}),
    "one failure when hardly anybody asks": (
        "ThalamusServerErrors",
        {ASKED: "0x20 10x200", UNANSWERED: ONCE, MISSED: "0"},
    ),
    "a caller with short deadlines": ("ThalamusServerErrors", {ASKED: MANY, LATE: MANY, MISSED: MANY}),
    "a gateway that starts": ("ThalamusProcessDied", {STARTED: "_x9 135x200"}),
    "a gateway that is started again": ("ThalamusProcessDied", {STARTED: "0x20 _x3 360x200"}),
}
LOUD: dict[str, tuple[str, Series, Mapping[int, int]]] = {
    "budgets are not known": (
        "ThalamusServerErrors",
        {ASKED: "0+900", "thalamus_requests_total{outcome='budget_unavailable'}": "0+100"},
        {600: 1},
    ),
    "nobody is answered, and a client calls with an old key": (
        "ThalamusServerErrors",
        {ASKED: "0", UNANSWERED: "0+3", REFUSED: "0+75"},
        {600: 1},
    ),
    "deadlines are missed, and a client calls with an old key": (
        "ThalamusDeadlinesMissed",
        {ASKED: "0+97", LATE: "0+3", MISSED: "0+3", REFUSED: "0+900"},
        {900: 1},
    ),
    "timeouts that no deadline explains": (
        "ThalamusServerErrors",
        {ASKED: "0+900", LATE: "0+100", MISSED: "0+40"},
        {600: 1},
    ),
    "a gateway of one process goes away a second time": (
        "ThalamusProcessDied",
        {STARTED: "0x20 315x8 450x200", UP: "1"},
        {29 * STEP_S: 0, 30 * STEP_S: 1, 60 * STEP_S: 1, 91 * STEP_S: 0},
    ),
    "a process that was replaced finds interrupted requests before it is asked": (
        "ThalamusJournalInterrupted",
        {"thalamus_journal_interrupted_total{instance='a'}": "_x9 1x200", STARTED: "_x9 135x200"},
        {150: 1, 720: 1, 750: 0},
    ),
}


def test_nobody_is_called_for_what_is_none(tmp_path: Path) -> None:
    never = dict.fromkeys(range(0, 1800, STEP_S), 0)
    assert told(tmp_path, {name: case(alert, series, never) for name, (alert, series) in QUIET.items()}) == ""


def test_somebody_is_called_for_what_looks_like_nothing(tmp_path: Path) -> None:
    assert told(tmp_path, {name: case(*loud) for name, loud in LOUD.items()}) == ""


def case(alert: str, series: Series, firing: Mapping[int, int]) -> dict[str, Any]:
    """A test of promtool's: how often the alert fires at each second."""
    asked = f"count(ALERTS{{alertname='{alert}', alertstate='firing'}}) or vector(0)"
    values = {name: value if "x" in value else f"{value}x300" for name, value in series.items()}
    return {
        "interval": f"{STEP_S}s",
        "input_series": [{"series": name, "values": value} for name, value in values.items()],
        "promql_expr_test": [
            {"expr": asked, "eval_time": f"{at}s", "exp_samples": [{"labels": "{}", "value": number}]}
            for at, number in firing.items()
        ],
    }


def told(folder: Path, cases: Mapping[str, Mapping[str, Any]]) -> str:
    """What promtool finds wrong."""
    file = folder / "edges.yml"
    asked = {
        "rule_files": [str(RULES / name) for name in ("recording.yml", "alerts.yml")],
        "evaluation_interval": f"{STEP_S}s",
        "group_eval_order": ["thalamus", "thalamus-alerts"],
        "tests": [{"name": name, **one} for name, one in cases.items()],
    }
    file.write_text(yaml.safe_dump(asked))
    done = subprocess.run(("promtool", "test", "rules", file), capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
