"""Series come from what the operator configured, never from what callers send."""

from __future__ import annotations

import io
import json

from app import errors
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.telemetry.metrics import Metrics


def test_ten_thousand_invented_names_make_no_series() -> None:
    metrics = Metrics(["small"], ["default"], ["pool"])

    def note(name: str) -> None:
        metrics.decided(name, name, name, 0.001)
        metrics.predicted(name)
        metrics.attempted(name, name)
        metrics.upstream_failed(name, name)
        metrics.used(name, 1, 1, 0.1)
        metrics.served(name, 0.1, 0.001)
        metrics.completed("chat", name, 0.1)
        metrics.rejected("chat", name)

    note("junk")
    size = len(metrics.render())
    for number in range(2_500):
        note(f"junk-{number}")
    # The same lines, with longer numbers in them.
    assert len(metrics.render()) < size + 500
    assert b"junk" not in metrics.render()


def test_known_names_have_series_of_their_own() -> None:
    metrics = Metrics(["small"], ["default"], ["pool"])
    metrics.decided("small", "default", "best", 0.001)
    metrics.predicted("static")
    metrics.upstream_failed("pool", errors.UpstreamTimeout.code)
    sample = metrics.registry.get_sample_value
    assert sample("thalamus_decisions_total", {"model": "small", "profile": "default", "reason": "best"}) == 1
    assert sample("thalamus_predictions_total", {"encoder": "static"}) == 1
    assert sample("thalamus_upstream_errors_total", {"backend": "pool", "code": "upstream_timeout"}) == 1


def test_every_name_says_its_unit() -> None:
    names = {family.name for family in Metrics().registry.collect()}
    assert {name for name in names if not name.startswith("thalamus_")} == set()
    assert not {name for name in names if name.endswith(("_ms", "_millis", "_latency", "_time"))}


def test_cost_of_a_model_without_a_price_is_not_zero_but_absent() -> None:
    metrics = Metrics(["small"])
    metrics.used("small", 1, 2, None)
    assert metrics.registry.get_sample_value("thalamus_cost_usd_total", {"model": "small"}) is None
    assert metrics.registry.get_sample_value("thalamus_tokens_total", {"model": "small", "direction": "output"}) == 2


def test_another_process_is_told_as_part_of_this_one() -> None:
    def counted(requests: int) -> Metrics:
        metrics = Metrics(["small"], ["default"], ["pool"])
        for _ in range(requests):
            metrics.in_flight.inc()
            metrics.completed("chat", "ok", 0.2)
        metrics.ejected("pool")
        metrics.pressed({"memory": requests / 10})
        return metrics

    metrics, other = counted(2), json.loads(json.dumps(counted(3).snapshot()))
    metrics.absorb(other)
    lines = metrics.render().decode().splitlines()
    assert 'thalamus_requests_total{operation="chat",outcome="ok"} 5.0' in lines
    assert "thalamus_requests_in_flight 5.0" in lines
    assert 'thalamus_replicas_out{backend="pool"} 1.0' in lines, "both see the same replica"
    assert 'thalamus_pressure{reading="memory"} 0.3' in lines


def test_lines_that_the_log_dropped_are_counted() -> None:
    closed = io.StringIO()
    closed.close()
    telemetry = Telemetry(log=EventLog(closed))
    telemetry.log.write("gateway.started")
    assert telemetry.metrics.registry.get_sample_value("thalamus_log_lines_dropped_total") == 1
