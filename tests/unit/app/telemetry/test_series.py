"""Plain numbers are told exactly as Prometheus' own library would tell them, and add up over processes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric

from app.telemetry.series import Count, Distribution, Level, Series

BOUNDS = (0.001, 0.25, 1, 30)


class Told:
    """A registry of these metrics alone."""

    def __init__(self, *metrics: Series) -> None:
        self._metrics = metrics
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> list[Metric]:
        return [metric.family() for metric in self._metrics]


def lines(registry: CollectorRegistry) -> list[str]:
    """What is told, without the times at which series were made, which nobody reads."""
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if "_created" not in line]


@given(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 100)), max_size=30))
def test_a_distribution_is_told_like_a_histogram(values: list[float]) -> None:
    ours, registry = Distribution("took_seconds", "How long.", ("of",), BOUNDS), CollectorRegistry()
    theirs = Histogram("took_seconds", "How long.", ("of",), buckets=BOUNDS, registry=registry)
    for value in values:
        ours.observe(value, "a")
        theirs.labels("a").observe(value)
    assert lines(Told(ours).registry) == lines(registry)


def test_counts_and_levels_are_told_like_counters_and_gauges() -> None:
    count, level, registry = (
        Count("seen", "What was seen.", ("by",)),
        Level("held", "What is held."),
        CollectorRegistry(),
    )
    counter = Counter("seen", "What was seen.", ("by",), registry=registry)
    gauge = Gauge("held", "What is held.", registry=registry)
    for name in ("me", 'a "quoted" one', "me"):
        count.inc(name, amount=1.5)
        counter.labels(name).inc(1.5)
    for change in (1, 1, -1):
        level.inc(amount=change)
        gauge.inc(change)
    assert lines(Told(count, level).registry) == lines(registry)


def test_what_two_processes_counted_adds_up_to_what_one_would_have() -> None:
    def counted(*values: float) -> list[Series]:
        count, level = Count("seen", "Seen.", ("by",)), Level("held", "Held.")
        took = Distribution("took", "Took.", ("of",), BOUNDS)
        for value in values:
            count.inc(f"{value:g}")
            level.inc()
            took.observe(value, "a")
        return [count, level, took]

    first, second, together = counted(0.1, 2), counted(2, 40), counted(0.1, 2, 2, 40)
    for one, other in zip(first, second, strict=True):
        one.absorb(json.loads(json.dumps(other.state())))
    assert lines(Told(*first).registry) == lines(Told(*together).registry)


def test_a_level_that_all_processes_see_is_not_summed() -> None:
    one, other = Level("out", "Out.", ("of",), max), Level("out", "Out.", ("of",), max)
    one.set(1, "a")
    other.set(2, "a")
    other.set(1, "b")
    one.absorb(other.state())
    assert one.values == {("a",): 2, ("b",): 1}
