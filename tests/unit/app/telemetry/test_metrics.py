"""Series come from what the operator configured, never from what callers send."""

from __future__ import annotations

import io
import json
import time

import pytest

from app import errors
from app.telemetry import Telemetry
from app.telemetry.kept_metrics import BudgetState, ReplicaState
from app.telemetry.logging import EventLog
from app.telemetry.metrics import Metrics
from app.telemetry.names import MOST_KEYS


def test_ten_thousand_invented_names_make_no_series() -> None:
    metrics = Metrics(["small"], ["default"], ["pool"])

    def note(name: str) -> None:
        metrics.decided(name, name, name)
        metrics.predicted(name)
        metrics.attempted(name, name)
        metrics.upstream_failed(name, name)
        metrics.used(name, name, 1, 1, 0.1)
        metrics.served(name, 0.1, 0.001)
        metrics.completed("chat", name, 0.1)
        metrics.rejected("chat", name)
        metrics.excluded(name, 1)
        metrics.predicted(name, unfamiliar=True)
        promises, kept = metrics.promises, metrics.kept
        promises.chose(name, 0.5)
        promises.compared("cost_usd", name, 1.0, 2.0)
        promises.attained(name, name, "kept")
        promises.cost_compared(name, 1.0, name, 2.0)
        promises.quality_compared(name, 0.5, name, 0.6)
        promises.judged(name, 0.5, 1.0)
        kept.ended(name, name)
        kept.spent(name, 1.0)
        kept.budgets([BudgetState(name, "day", 1.0, 1.0)])
        kept.stores({name: True})

    note("junk")
    size = len(metrics.render())
    for number in range(2_500):
        note(f"junk-{number}")
    # The same lines, with longer numbers in them.
    assert len(metrics.render()) < size + 500
    assert b"junk" not in metrics.render()


def test_known_names_have_series_of_their_own() -> None:
    metrics = Metrics(["small"], ["default"], ["pool"])
    metrics.decided("small", "default", "best")
    metrics.predicted("static")
    metrics.upstream_failed("pool", errors.UpstreamTimeout.code)
    sample = metrics.registry.get_sample_value
    assert sample("thalamus_decisions_total", {"model": "small", "profile": "default", "reason": "best"}) == 1
    assert sample("thalamus_predictions_total", {"encoder": "static"}) == 1
    assert sample("thalamus_upstream_errors_total", {"backend": "pool", "code": "upstream_timeout"}) == 1


def test_keys_have_series_up_to_a_number() -> None:
    metrics = Metrics()
    metrics.names.know_keys(f"key-{number}" for number in range(MOST_KEYS + 1))
    for number in (0, MOST_KEYS):
        metrics.kept.spent(f"key-{number}", 0.5)
    metrics.kept.budgets([BudgetState("key-0", "day", 10.0, 4.0), BudgetState(f"key-{MOST_KEYS}", "day", 10.0, 4.0)])
    sample = metrics.registry.get_sample_value
    assert sample("thalamus_key_cost_usd_total", {"key": "key-0"}) == 0.5
    assert sample("thalamus_key_cost_usd_total", {"key": "other"}) == 0.5
    assert sample("thalamus_key_budget_left_usd", {"key": "key-0", "period": "day"}) == 4.0
    assert sample("thalamus_key_budget_left_usd", {"key": "other", "period": "day"}) is None


def test_keys_that_are_gone_leave_their_series_to_others() -> None:
    metrics, jobs = Metrics(), [f"job-{number}" for number in range(MOST_KEYS)]
    metrics.kept.know_keys(jobs)
    for job in jobs:
        metrics.kept.spent(job, 0.5)
    metrics.kept.know_keys(["job-0", "new"])
    for name in ("job-0", "job-1", "new"):
        metrics.kept.spent(name, 0.25)
    told = [line for line in metrics.render().decode().splitlines() if line.startswith("thalamus_key_cost_usd_total")]
    label = 'thalamus_key_cost_usd_total{key="%s"} %s'
    assert sorted(told) == [label % ("job-0", 0.75), label % ("new", 0.25), label % ("other", 0.25)]


def test_what_is_bound_to_be_counted_begins_at_zero() -> None:
    metrics = Metrics()
    metrics.know(["small", "bare"], ["default"], ["pool"], priced=["small"])
    metrics.kept.know_keys(["team"])
    sample = metrics.registry.get_sample_value
    limit = {"limit": "max_latency_s", "profile": "default"}
    for reason in ("best", "only", "default", "session", "abstained", "fallback"):
        chosen = {"model": "bare", "profile": "default", "reason": reason}
        assert sample("thalamus_decisions_total", chosen) == 0
    assert sample("thalamus_decisions_total", {"model": "bare", "profile": "named", "reason": "named"}) == 0
    assert sample("thalamus_decisions_total", {"model": "bare", "profile": "named", "reason": "best"}) is None
    for direction in ("input", "output"):
        assert sample("thalamus_tokens_total", {"model": "bare", "direction": direction}) == 0
    for outcome in ("ok", "no_backend", "upstream_timeout", "bad_upstream", "rate_limit_exceeded"):
        assert sample("thalamus_attempts_total", {"model": "bare", "outcome": outcome}) == 0
    for encoder in ("static", "transformer"):
        assert sample("thalamus_predictions_total", {"encoder": encoder}) == 0
    assert sample("thalamus_cost_usd_total", {"model": "small", "profile": "default"}) == 0
    assert sample("thalamus_cost_usd_total", {"model": "bare", "profile": "default"}) is None
    assert sample("thalamus_key_cost_usd_total", {"key": "team"}) == 0
    assert sample("thalamus_key_requests_total", {"key": "team", "outcome": "ok"}) == 0
    assert sample("thalamus_requests_total", {"operation": "chat", "outcome": "no_eligible_model"}) == 0
    for outcome in ("kept", "missed"):
        assert sample("thalamus_limit_attainment_total", {**limit, "outcome": outcome}) == 0


def test_a_large_catalogue_that_nobody_has_asked_yet_makes_no_large_page() -> None:
    models = [f"organisation/a-model-with-a-long-name-{number}" for number in range(1_000)]
    profiles = [f"profile-of-team-{number}" for number in range(300)]
    metrics = Metrics()
    metrics.know(models, profiles, ["pool"], priced=models)
    metrics.kept.know_keys(f"key-{number}" for number in range(1_000))
    assert len(metrics.render()) < 1 << 19


@pytest.mark.parametrize(
    ("predicted", "band"),
    [(0.0, "0.0-0.2"), (0.2, "0.2-0.4"), (0.99, "0.8-1.0"), (1.0, "0.8-1.0"), (None, "unpredicted")],
)
def test_judgements_are_counted_by_what_was_predicted(predicted: float | None, band: str) -> None:
    metrics = Metrics(["small"])
    metrics.promises.judged("small", predicted, 0.25)
    sample = metrics.registry.get_sample_value
    assert sample("thalamus_feedback_total", {"model": "small", "predicted": band}) == 1
    assert sample("thalamus_feedback_quality_total", {"model": "small", "predicted": band}) == 0.25


def test_a_replica_that_is_gone_is_not_told_of_any_more() -> None:
    metrics = Metrics()
    metrics.kept.replicas([ReplicaState("pool", "a:1", True, 2, 1, 1.0), ReplicaState("pool", "b:1", False, 0, 0, 1.0)])
    metrics.kept.replicas([ReplicaState("pool", "b:1", False, 0, 0, 3.0)])
    sample = metrics.registry.get_sample_value
    assert sample("thalamus_replica_up", {"backend": "pool", "replica": "a:1"}) is None
    assert sample("thalamus_replica_up", {"backend": "pool", "replica": "b:1"}) == 0
    assert sample("thalamus_replica_times_slower", {"backend": "pool", "replica": "b:1"}) == 3.0


def test_of_two_readers_of_one_thing_the_last_counts() -> None:
    metrics = Metrics()
    metrics.refresh_with(lambda: metrics.journal_spool_bytes.set(1.0), of="journal")
    metrics.refresh_with(lambda: metrics.journal_spool_bytes.inc(amount=5.0), of="journal")
    assert metrics.registry.get_sample_value("thalamus_journal_spool_bytes") == 5.0


def test_every_name_says_its_unit() -> None:
    names = {family.name for family in Metrics().registry.collect()}
    assert {name for name in names if not name.startswith("thalamus_")} == set()
    assert not {name for name in names if name.endswith(("_ms", "_millis", "_latency", "_time"))}


def test_what_happens_seldom_is_told_before_it_happens_so_that_the_first_time_is_seen() -> None:
    metrics = Metrics()
    metrics.know(["small"], ["default"], ["pool"])
    sample = metrics.registry.get_sample_value
    assert sample("thalamus_deadline_misses_total", {"when": "in_answer"}) == 0
    assert sample("thalamus_shed_total", {"priority": "high"}) == 0
    assert sample("thalamus_exclusions_total", {"constraint": "regions"}) == 0
    metrics.ejected("pool")
    metrics.know(["small"], ["default"], ["pool", "other pool"])
    assert sample("thalamus_ejections_total", {"backend": "pool"}) == 1, "what was counted stays"
    assert sample("thalamus_probes_total", {"backend": "other pool", "outcome": "failed"}) == 0


def test_cost_of_a_model_without_a_price_is_not_zero_but_absent() -> None:
    metrics = Metrics(["small"])
    metrics.used("small", "default", 1, 2, None)
    assert metrics.registry.get_sample_value("thalamus_cost_usd_total", {"model": "small"}) is None
    assert metrics.registry.get_sample_value("thalamus_tokens_total", {"model": "small", "direction": "output"}) == 2


def test_another_process_is_told_as_part_of_this_one() -> None:
    def counted(requests: int) -> Metrics:
        metrics = Metrics(["small"], ["default"], ["pool"])
        metrics.names.know_keys(["team"])
        for _ in range(requests):
            metrics.in_flight.inc()
            metrics.completed("chat", "ok", 0.2)
        metrics.ejected("pool")
        metrics.journal_spool_bytes.set(requests * 1e6)
        metrics.pressed({"memory": requests / 10})
        metrics.kept.replicas([ReplicaState("pool", "a:1", requests < 3, requests, requests, float(requests))])
        metrics.kept.budgets([BudgetState("team", "day", 10.0, 10.0 - requests)])
        metrics.kept.stores({"limits": requests < 3})
        metrics.promises.compared("cost_usd", "small", 1.0, float(requests))
        return metrics

    metrics, other = counted(2), json.loads(json.dumps(counted(3).snapshot()))
    metrics.absorb(other)
    lines = metrics.render().decode().splitlines()
    assert 'thalamus_requests_total{operation="chat",outcome="ok"} 5.0' in lines
    assert "thalamus_requests_in_flight 5.0" in lines
    assert 'thalamus_replicas_out{backend="pool"} 1.0' in lines, "both see the same replica"
    assert 'thalamus_pressure{reading="memory"} 0.3' in lines
    assert "thalamus_journal_spool_bytes 3e+06" in lines, "each has a limit of its own"
    assert 'thalamus_replica_up{backend="pool",replica="a:1"} 0.0' in lines, "one of them has taken it out"
    assert 'thalamus_replica_in_flight{backend="pool",replica="a:1"} 5.0' in lines
    assert 'thalamus_replica_waiting{backend="pool",replica="a:1"} 3.0' in lines, "both see the same queue"
    assert 'thalamus_key_budget_left_usd{key="team",period="day"} 7.0' in lines, "who knows of more spending is right"
    assert 'thalamus_store_up{feature="limits"} 0.0' in lines
    assert 'thalamus_realised_sum_total{model="small",quantity="cost_usd"} 5.0' in lines


def test_lines_that_the_log_dropped_are_counted() -> None:
    closed = io.StringIO()
    closed.close()
    telemetry = Telemetry(log=EventLog(closed))
    telemetry.log.write("gateway.started")
    assert telemetry.metrics.registry.get_sample_value("thalamus_log_lines_dropped_total") == 1


def test_a_gateway_started_when_the_first_of_its_processes_did() -> None:
    began_at = time.time()
    first, second = Metrics(), Metrics()
    second._started_at.set(began_at + 60.0)
    first.absorb(second.snapshot())
    started_at = first.registry.get_sample_value("thalamus_started_at_seconds")
    assert started_at is not None
    assert began_at <= started_at <= time.time()
