"""Counters, levels and distributions as plain numbers: a tenth of a microsecond each, and a scrape does the rest.

How it works: one metric is one dictionary from the values of its labels to a number, or to the numbers of a histogram.
Only a scrape makes Prometheus' objects of them. `state` and `absorb` take the numbers from one process to another, so
that several of them can be told as one. Nothing here is locked: one event loop counts and tells.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
State = list[tuple[Labels, list[float]]]
"""The numbers of a metric, one entry for each of its series, fit for JSON."""


class Series(Protocol):
    """One metric with all its series."""

    name: str

    def family(self) -> Metric:
        """As Prometheus wants it."""
        ...

    def state(self) -> State: ...

    def absorb(self, state: State) -> None:
        """Add what another process counted."""
        ...


_Family = CounterMetricFamily | GaugeMetricFamily


class _Numbers:
    """One number for each set of labels; without labels there is one from the start."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self._text, self._labels = name, text, labels
        self.values: defaultdict[Labels, float] = defaultdict(float) if labels else defaultdict(float, {(): 0.0})
        """What every request counts is added here, without a call."""

    def expect(self, *each: Labels) -> None:
        """Tell these as 0 until there is more: Prometheus does not see how a series that it has never seen begins."""
        for labels in each:
            self.values[labels] += 0.0

    def inc(self, *labels: str, amount: float = 1.0) -> None:
        self.values[labels] += amount

    def state(self) -> State:
        return [(labels, [value]) for labels, value in self.values.items()]

    def _filled(self, family: _Family) -> _Family:
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Count(_Numbers):
    """What only grows."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        """`name` is without `_total`."""
        super().__init__(name, text, labels)

    def family(self) -> Metric:
        return self._filled(CounterMetricFamily(self.name, self._text, labels=self._labels))

    def absorb(self, state: State) -> None:
        for labels, (value,) in state:
            self.inc(*labels, amount=value)


class Level(_Numbers):
    """What goes up and down."""

    def __init__(
        self, name: str, text: str, labels: Labels = (), merge: Callable[[float, float], float] = float.__add__
    ) -> None:
        """`merge` says what two processes have together: the sum, unless both look at the same thing."""
        super().__init__(name, text, labels)
        self._merge = merge

    def dec(self, *labels: str) -> None:
        self.values[labels] -= 1.0

    def set(self, value: float, *labels: str) -> None:
        self.values[labels] = value

    def become(self, values: Mapping[Labels, float]) -> None:
        """Say this, and nothing of what is not in it."""
        self.values.clear()
        self.values.update(values)

    def family(self) -> Metric:
        return self._filled(GaugeMetricFamily(self.name, self._text, labels=self._labels))

    def absorb(self, state: State) -> None:
        for raw_labels, (value,) in state:
            labels = tuple(raw_labels)
            self.values[labels] = self._merge(self.values[labels], value) if labels in self.values else value


class Distribution:
    """A histogram: how many were at most so large, and their sum."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        """`bounds` are the upper ends of the buckets, ascending; infinity follows of itself."""
        self.name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._names = [*map(floatToGoString, bounds), "+Inf"]
        self.values: defaultdict[Labels, list[float]] = defaultdict(lambda: [0.0] * (len(bounds) + 2))
        """One number for each bucket, not cumulated, then the sum."""

    def observe(self, value: float, *labels: str) -> None:
        numbers = self.values[labels]
        numbers[bisect_left(self._bounds, value)] += 1.0
        numbers[-1] += value

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self._text, labels=self._labels)
        for labels, numbers in self.values.items():
            buckets = list(zip(self._names, accumulate(numbers[:-1]), strict=True))
            family.add_metric(labels, buckets, numbers[-1])
        return family

    def state(self) -> State:
        return [(labels, list(numbers)) for labels, numbers in self.values.items()]

    def absorb(self, state: State) -> None:
        for raw_labels, numbers in state:
            labels = tuple(raw_labels)
            self.values[labels] = [one + other for one, other in zip(self.values[labels], numbers, strict=True)]


Merge = Callable[[float, float], float]
_Made = TypeVar("_Made", bound=Series)


class Declared:
    """All metrics of a process; each is declared once."""

    def __init__(self) -> None:
        self.all: dict[str, Series] = {}

    def count(self, name: str, text: str, labels: Labels = ()) -> Count:
        return self._declared(Count(f"thalamus_{name}", text, labels))

    def level(self, name: str, text: str, labels: Labels = (), merge: Merge = float.__add__) -> Level:
        return self._declared(Level(f"thalamus_{name}", text, labels, merge))

    def distribution(self, name: str, text: str, labels: Labels, bounds: tuple[float, ...]) -> Distribution:
        return self._declared(Distribution(f"thalamus_{name}", text, labels, bounds))

    def _declared(self, series: _Made) -> _Made:
        self.all[series.name] = series
        return series
