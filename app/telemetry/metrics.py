"""Metrics: base units in the names, labels from closed sets. Those of promises and of what is kept are declared beside.

Names of models, profiles and backends are the operator's; anything else becomes `other`, so that no caller can make a
series. Nothing here is touched per chunk of a stream; `app.telemetry.series` says what counting costs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice, product
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from app.domain.quantities import PRIORITIES
from app.domain.request import NAMED
from app.telemetry.kept_metrics import KeptMetrics
from app.telemetry.names import (
    BACKEND_FAULTS,
    ENCODERS,
    EXCLUDING,
    MOST_EXPECTED,
    MOST_EXPECTED_DECISIONS,
    ROUTED,
    SERVER_ERRORS,
    Names,
)
from app.telemetry.promise_metrics import PromiseMetrics
from app.telemetry.series import Declared, Level, State

# From a refused connection on loopback (1 ms) to a long answer (10 minutes).
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600)
# The gateway's own work: a decision takes from 50 microseconds to some milliseconds.
OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


class Metrics:
    """All series of one process, in a registry of their own."""

    def __init__(self, models: Iterable[str] = (), profiles: Iterable[str] = (), backends: Iterable[str] = ()) -> None:
        self.names = Names()
        self._declared = declared = Declared()
        count, level, distribution = declared.count, declared.level, declared.distribution
        self._requests = count("requests", "Requests by how they ended.", ("operation", "outcome"))
        self._decisions = count("decisions", "Decisions by who answered.", ("model", "profile", "reason"))
        self._exclusions = count("exclusions", "Models that something excluded from a decision.", ("constraint",))
        self._attempts = count("attempts", "Exchanges with backends by how they began.", ("model", "outcome"))
        self._upstream_errors = count("upstream_errors", "Failures of backends.", ("backend", "code"))
        self._ejections = count("ejections", "Replicas taken out after failures.", ("backend",))
        self._probes = count("probes", "Tokens asked of workers that are out.", ("backend", "outcome"))
        self._hedges = count("hedges", "Second attempts beside late ones by how they ended.", ("model", "outcome"))
        self._done_added = count("done_added", "Whole streams whose [DONE] was missing.", ("backend",))
        self._deadline_misses = count("deadline_misses", "Requests whose own deadline was over.", ("when",))
        self._tokens = count("tokens", "Tokens read and written.", ("model", "direction"))
        self._cost_usd = count("cost_usd", "Realised cost in USD.", ("model", "profile"))
        self._overhead = distribution("overhead_seconds", "The gateway's own time.", ("stage",), OVERHEAD_SECONDS)
        self._ttft = distribution("ttft_seconds", "From the request to the answer's first piece.", ("model",), SECONDS)
        self._duration = distribution("request_duration_seconds", "The whole request.", ("operation",), SECONDS)
        self._predictions = count("predictions", "Decisions made from a prediction.", ("encoder",))
        self._unfamiliar = count("unfamiliar_prompts", "Prompts unlike all that was learned from.", ("encoder",))
        self._predictor_failures = count("predictor_failures", "Decisions for which an encoder failed.")
        self.config_applied = count("config_applied", "Configurations taken over while running.")
        self.config_rejected = count("config_rejected", "Configurations that were wrong, and not taken over.")
        self.worker_deaths = count("worker_deaths", "Processes of this gateway that ended without being asked to.")
        # Of several processes the first one's: who was replaced is counted above.
        self._started_at = level("started_at_seconds", "When this gateway started, in seconds since 1970.", (), min)
        self.in_flight = level("requests_in_flight", "Admitted and not yet closed.")
        self._tasks = level("event_loop_tasks", "Tasks that are not done.")
        self.replicas_out = level("replicas_out", "Replicas ejected now.", ("backend",), max)
        self._shed = count("shed", "Requests turned away because it was crowded.", ("priority",))
        self._pressure = level("pressure", "How full the gateway is, by reading; 1 is full.", ("reading",), max)
        self.log_lines_dropped = count("log_lines_dropped", "Log lines that could not be written.")
        self.journal_rows_dropped = count("journal_rows_dropped", "Rows of the journal that were lost.")
        self.journal_interrupted = count("journal_interrupted", "Requests of processes that died.")
        # Each process has its own, with the same limit, and some MiB in it when all is well.
        self.journal_spool_bytes = level(
            "journal_spool_bytes", "Rows on this machine that are not done with, of the process with most.", (), max
        )
        self.journal_stopped = level(
            "journal_stopped", "Whether rows of the journal cannot be written; 1 is yes.", (), max
        )
        self.promises = PromiseMetrics(declared, self.names)
        self.kept = KeptMetrics(declared, self.names)
        self._readers: dict[Hashable, Callable[[], None]] = {}
        self._requests.expect(*(("chat", outcome) for outcome in ("ok", "no_eligible_model", *SERVER_ERRORS)))
        self._started_at.set(time.time())
        self._deadline_misses.expect(("before_answer",), ("in_answer",))
        self._shed.expect(*((priority,) for priority in PRIORITIES))
        for by_encoder in (self._predictions, self._unfamiliar):
            by_encoder.expect(*((encoder,) for encoder in ENCODERS))
        self._exclusions.expect(*((constraint,) for constraint in EXCLUDING))
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.know(models, profiles, backends)

    def know(
        self, models: Iterable[str], profiles: Iterable[str], backends: Iterable[str], priced: Iterable[str] = ()
    ) -> None:
        """Have series of their own for these names, and for no others; what was counted before stays.

        What is spent is told from 0 on for models that are `priced`.
        """
        self.names.know(models, profiles, backends)
        self._expect_decisions()
        self._tokens.expect(*islice(product(self.names.models, ("input", "output")), MOST_EXPECTED))
        begun = ((model, outcome) for outcome, model in product(("ok", *BACKEND_FAULTS), self.names.models))
        self._attempts.expect(*islice(begun, MOST_EXPECTED))
        self._cost_usd.expect(*islice(product(priced, self.names.profiles), MOST_EXPECTED))
        self.promises.expect_limits()
        for backend in self.names.backends:
            self._ejections.expect((backend,))
            self._probes.expect((backend, "ok"), (backend, "failed"))
            self._upstream_errors.expect(*((backend, code) for code in BACKEND_FAULTS))

    def _expect_decisions(self) -> None:
        """Tell of each model and profile why it may be chosen; of a large catalogue only some of that."""
        profiles = [profile for profile in self.names.profiles if profile != NAMED]
        of_names = ((model, NAMED, "named") for model in self.names.models)
        routed = ((model, profile, reason) for reason, profile, model in product(ROUTED, profiles, self.names.models))
        self._decisions.expect(*islice(chain(of_names, routed), MOST_EXPECTED_DECISIONS))

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """All families, for the registry."""
        self._refresh()
        return (series.family() for series in self._declared.all.values())

    def refresh_with(self, reader: Callable[[], None], of: Hashable = None) -> None:
        """Call this before each telling: it sets what is read, not counted. Of readers `of` a thing the last counts."""
        self._readers[reader if of is None else of] = reader

    def snapshot(self) -> dict[str, State]:
        """All numbers, fit for JSON, for another process to tell them as well."""
        self._refresh()
        return {name: series.state() for name, series in self._declared.all.items()}

    def absorb(self, snapshot: Mapping[str, State], *, ended: bool = False) -> None:
        """Add what another process of the same release counted; of one that has ended, what only grows."""
        for name, state in snapshot.items():
            if not (ended and isinstance(self._declared.all[name], Level)):
                self._declared.all[name].absorb(state)

    def _refresh(self) -> None:
        with suppress(RuntimeError):  # no loop runs, so there are no tasks
            self._tasks.set(len(asyncio.all_tasks()))
        for reader in self._readers.values():
            reader()

    def completed(self, operation: str, outcome: str, duration_s: float) -> None:
        self._requests.values[operation, self.names.codes[outcome]] += 1.0
        self._duration.observe(duration_s, operation)

    def rejected(self, operation: str, code: str) -> None:
        """A request that was refused before it was admitted."""
        self._requests.values[operation, self.names.codes[code]] += 1.0

    def shed(self, priority: str) -> None:
        """A request was turned away because it was crowded."""
        self._shed.inc(priority)

    def pressed(self, readings: Mapping[str, float]) -> None:
        """How full the gateway is."""
        for reading, pressure in readings.items():
            self._pressure.set(pressure, reading)

    def decided(self, model: str, profile: str, reason: str) -> None:
        """What became of a decision: who answered, and why that one; where nobody did, who was asked last."""
        self._decisions.values[self.names.models[model], self.names.profiles[profile], self.names.reasons[reason]] += (
            1.0
        )

    def decision_took(self, seconds: float) -> None:
        """From the request to its decision."""
        self._overhead.observe(seconds, "decision")

    def let_in(self, seconds: float) -> None:
        """A request was admitted, which took so long."""
        self._overhead.observe(seconds, "admission")

    def predicted(self, encoder: str, *, unfamiliar: bool = False) -> None:
        """A decision was made from what this encoder said; `unfamiliar` prompts are not to be judged by it."""
        self._predictions.values[(self.names.encoders[encoder],)] += 1.0
        if unfamiliar:
            self._unfamiliar.values[(self.names.encoders[encoder],)] += 1.0

    def predictor_failed(self) -> None:
        """An encoder that should have read the prompt did not."""
        self._predictor_failures.inc()

    def excluded(self, constraint: str, models: int) -> None:
        """So many models did not pass in one decision."""
        self._exclusions.values[(self.names.constraints[constraint],)] += models

    def deadline_missed(self, when: Literal["before_answer", "in_answer"]) -> None:
        """A request's own deadline was over before its answer was whole."""
        self._deadline_misses.inc(when)

    def attempted(self, model: str, outcome: str) -> None:
        self._attempts.values[self.names.models[model], self.names.codes[outcome]] += 1.0

    def upstream_failed(self, backend: str, code: str) -> None:
        self._upstream_errors.inc(self.names.backends[backend], self.names.codes[code])

    def ejected(self, backend: str) -> None:
        self._ejections.inc(self.names.backends[backend])
        self.replicas_out.inc(self.names.backends[backend])

    def heard_of_ejection(self, backend: str) -> None:
        """Another process took a replica out, which counts there."""
        self.replicas_out.inc(self.names.backends[backend])

    def restored(self, backend: str) -> None:
        self.replicas_out.dec(self.names.backends[backend])

    def probed(self, backend: str, outcome: Literal["ok", "failed"]) -> None:
        self._probes.inc(self.names.backends[backend], outcome)

    def hedged(self, model: str, outcome: Literal["won", "lost"]) -> None:
        self._hedges.inc(self.names.models[model], outcome)

    def done_was_added(self, backend: str) -> None:
        self._done_added.inc(self.names.backends[backend])

    def served(self, model: str, ttft_s: float, overhead_s: float) -> None:
        self._ttft.observe(ttft_s, self.names.models[model])
        self._overhead.observe(overhead_s, "total")

    def used(self, model: str, profile: str, input_tokens: int, output_tokens: int, cost_usd: float | None) -> None:
        name = self.names.models[model]
        self._tokens.values[name, "input"] += input_tokens
        self._tokens.values[name, "output"] += output_tokens
        if cost_usd is not None:
            self._cost_usd.values[name, self.names.profiles[profile]] += cost_usd
