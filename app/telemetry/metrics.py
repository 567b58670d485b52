"""Every metric, declared once: base units in the names, labels from closed sets.

Names of models, profiles and backends are the operator's; anything else becomes `other`, so that no caller can make a
series. Nothing here is touched per chunk of a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app import errors

OTHER = "other"
# From a refused connection on loopback (1 ms) to a long answer (10 minutes).
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600)
# The gateway's own work: a decision takes from 50 microseconds to some milliseconds.
OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)

REASONS = frozenset({"named", "best", "only", "session", "explored", "abstained", "default", "fallback"})
ENCODERS = frozenset({"static", "transformer"})


_Labelled = TypeVar("_Labelled", Counter, Gauge, Histogram)


class Metrics:
    """All series of one process, in a registry of their own."""

    def __init__(self, models: Iterable[str] = (), profiles: Iterable[str] = (), backends: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self._models, self._profiles, self._backends = frozenset(models), frozenset(profiles), frozenset(backends)
        self._codes = frozenset(_codes(errors.GatewayError)) | {"ok", "cancelled"}
        self._series: dict[tuple[object, tuple[str, ...]], object] = {}
        counter, histogram = self._counter, self._histogram
        self._requests = counter("requests", "Requests by how they ended.", ("operation", "outcome"))
        self._decisions = counter("decisions", "Decisions made.", ("model", "profile", "reason"))
        self._attempts = counter("attempts", "Exchanges with backends by how they began.", ("model", "outcome"))
        self._upstream_errors = counter("upstream_errors", "Failures of backends.", ("backend", "code"))
        self._ejections = counter("ejections", "Replicas taken out after failures.", ("backend",))
        self._done_added = counter("done_added", "Whole streams whose [DONE] was missing.", ("backend",))
        self._tokens = counter("tokens", "Tokens read and written.", ("model", "direction"))
        self._cost_usd = counter("cost_usd", "Realised cost in USD.", ("model",))
        self._overhead = histogram("overhead_seconds", "The gateway's own time.", ("stage",), OVERHEAD_SECONDS)
        self._ttft = histogram("ttft_seconds", "From the request to the answer's first piece.", ("model",), SECONDS)
        self._duration = histogram("request_duration_seconds", "The whole request.", ("operation",), SECONDS)
        self._predictions = counter("predictions", "Decisions made from a prediction.", ("encoder",))
        self.predictor_failures = counter("predictor_failures", "Decisions for which an encoder failed.", ())
        self.in_flight = Gauge("thalamus_requests_in_flight", "Admitted and not yet closed.", registry=self.registry)
        self._tasks = Gauge("thalamus_event_loop_tasks", "Tasks that are not done.", registry=self.registry)
        self.replicas_out = Gauge(
            "thalamus_replicas_out", "Replicas ejected now.", ("backend",), registry=self.registry
        )

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        with suppress(RuntimeError):  # no loop runs, so there are no tasks
            self._tasks.set(len(asyncio.all_tasks()))
        return generate_latest(self.registry)

    def completed(self, operation: str, outcome: str, duration_s: float) -> None:
        self._of(self._requests, operation, self._code(outcome)).inc()
        self._of(self._duration, operation).observe(duration_s)

    def rejected(self, operation: str, code: str) -> None:
        """A request that was refused before it was admitted."""
        self._of(self._requests, operation, self._code(code)).inc()

    def decided(self, model: str, profile: str, reason: str, seconds: float) -> None:
        known_profile = profile if profile in self._profiles else OTHER
        known_reason = reason if reason in REASONS else OTHER
        self._of(self._decisions, self._model(model), known_profile, known_reason).inc()
        self._of(self._overhead, "decision").observe(seconds)

    def predicted(self, encoder: str) -> None:
        """A decision was made from what this encoder said."""
        self._of(self._predictions, encoder if encoder in ENCODERS else OTHER).inc()

    def attempted(self, model: str, outcome: str) -> None:
        self._of(self._attempts, self._model(model), self._code(outcome)).inc()

    def upstream_failed(self, backend: str, code: str) -> None:
        self._of(self._upstream_errors, self._backend(backend), self._code(code)).inc()

    def ejected(self, backend: str) -> None:
        self._of(self._ejections, self._backend(backend)).inc()
        self._of(self.replicas_out, self._backend(backend)).inc()

    def restored(self, backend: str) -> None:
        self._of(self.replicas_out, self._backend(backend)).dec()

    def done_was_added(self, backend: str) -> None:
        self._of(self._done_added, self._backend(backend)).inc()

    def served(self, model: str, ttft_s: float, overhead_s: float) -> None:
        self._of(self._ttft, self._model(model)).observe(ttft_s)
        self._of(self._overhead, "total").observe(overhead_s)

    def used(self, model: str, input_tokens: int, output_tokens: int, cost_usd: float | None) -> None:
        name = self._model(model)
        self._of(self._tokens, name, "input").inc(input_tokens)
        self._of(self._tokens, name, "output").inc(output_tokens)
        if cost_usd is not None:
            self._of(self._cost_usd, name).inc(cost_usd)

    def _of(self, metric: _Labelled, *labels: str) -> _Labelled:
        """One series of a metric. The sets of labels are closed, so this memory is bounded; `labels()` is slow."""
        key = (metric, labels)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = metric.labels(*labels)
        return cast("_Labelled", series)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"thalamus_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"thalamus_{name}", text, labels, registry=self.registry, buckets=buckets)

    def _model(self, name: str) -> str:
        return name if name in self._models else OTHER

    def _backend(self, name: str) -> str:
        return name if name in self._backends else OTHER

    def _code(self, code: str) -> str:
        return code if code in self._codes else OTHER


def _codes(cls: type[errors.GatewayError]) -> set[str]:
    return {cls.code}.union(*(_codes(child) for child in cls.__subclasses__()))
