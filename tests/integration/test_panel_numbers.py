"""What panels compute from known series, as promtool evaluates their expressions."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from app.telemetry.promise_metrics import UNPREDICTED
from deploy.grafana import DASHBOARDS
from tests.fakes.prometheus import missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"this machine has no {missing()}")

FEEDBACK = {
    # Twelve answers a minute of which 0.9 was predicted and 0.8 came, and as many without a prediction, judged 0.1.
    "thalamus_feedback_total{model='small', predicted='0.8-1.0'}": "0+12x60",
    "thalamus_feedback_quality_total{model='small', predicted='0.8-1.0'}": "0+9.6x60",
    "thalamus_feedback_predicted_quality_total{model='small', predicted='0.8-1.0'}": "0+10.8x60",
    f"thalamus_feedback_total{{model='small', predicted='{UNPREDICTED}'}}": "0+12x60",
    f"thalamus_feedback_quality_total{{model='small', predicted='{UNPREDICTED}'}}": "0+1.2x60",
}
# Ten answers a minute from each of two models; nobody has asked the dear one since the last restart.
SPENT = {
    "thalamus_ttft_seconds_count{model='small'}": "0+10x60",
    "thalamus_cost_usd_total{model='small', profile='default'}": "0+0.01x60",
    "thalamus_ttft_seconds_count{model='dear'}": "0+10x40 stale",
    "thalamus_cost_usd_total{model='dear', profile='default'}": "0+0.1x40 stale",
    "thalamus_ttft_seconds_count{model='unpriced'}": "0+10x60",
}
SMALL, BAND = '{model="small"}', '{predicted="0.8-1.0"}'


@pytest.mark.parametrize(
    ("title", "column", "labels", "value"),
    [
        ("Predicted and judged, by model", "judged answers", SMALL, 360),
        ("Predicted and judged, by model", "predicted", SMALL, 0.9),
        ("Predicted and judged, by model", "judged", SMALL, 0.8),
        ("Does predicted quality come true?", "predicted {{predicted}}", BAND, 0.8),
        ("Judged quality", "", "{}", 0.45),
    ],
)
def test_what_was_predicted_is_compared_only_with_answers_that_had_a_prediction(
    tmp_path: Path, title: str, column: str, labels: str, value: float
) -> None:
    assert promtool_objects_to(tmp_path, FEEDBACK, expression(title, column), labels, value) == ""


def test_answers_of_a_model_that_was_not_asked_since_a_restart_count_among_those_paid_for(tmp_path: Path) -> None:
    # 300 answers for $0.30, and 255 for $2.55.
    assert promtool_objects_to(tmp_path, SPENT, expression("Cost per 1,000 answers", ""), "{}", 5.135) == ""


def expression(title: str, column: str) -> str:
    """What a panel asks, with everything chosen, over half an hour."""
    (found,) = [
        query.expr
        for dashboard in DASHBOARDS
        for row in dashboard.rows
        for panel in row.panels
        for query in panel.queries
        if (panel.title, query.name) == (title, column)
    ]
    return found.replace("$__range", "30m").replace("$model", ".*")


def promtool_objects_to(folder: Path, known: Mapping[str, str], asked: str, labels: str, value: float) -> str:
    """What promtool says where the expression is not this one value; it compares exactly, so both are rounded."""
    sample = {"expr": f"round({asked}, 0.001)", "eval_time": "45m", "exp_samples": [{"labels": labels, "value": value}]}
    series = [{"series": name, "values": values} for name, values in known.items()]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [sample]}
    file = folder / "panel.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(("promtool", "test", "rules", file), capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
