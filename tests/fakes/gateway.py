"""A whole gateway without HTTP in front: real dispatcher, real client, a router that decides as told."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.admission.gate import Admission, Gate
from app.admission.ledger import Ledger
from app.admission.promises import Baseline, Promises
from app.admission.shedding import Shedding
from app.domain.clock import Clock
from app.domain.decision import Decision
from app.domain.models import Catalog, Model
from app.gateway import Desk, Gateway, Router
from app.store.journal.journal import RecentDecisions
from app.store.limits.limits import MemoryLimits
from app.store.money.budgets import Purse
from app.store.sessions import MemorySessions, Remembered
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.telemetry.metrics import Metrics
from app.upstream.client import UpstreamClient
from app.upstream.dispatcher import Dispatcher, DispatchLimits, Upstream
from app.upstream.fleet.replicas import Replicas
from app.upstream.http.deadline import Timeouts
from tests.fakes.backend import FakeBackend
from tests.fakes.bank import MemoryBank
from tests.fakes.world import FakeRouter, catalog, model

QUICK = Timeouts(connect_s=0.5, pool_wait_s=0.2, first_byte_s=0.3, idle_s=0.3, total_s=5.0)


@dataclass
class Bench:
    """A gateway and all that one wants to look at in it."""

    gateway: Gateway
    replicas: Replicas
    limits: MemoryLimits
    metrics: Metrics
    admission: Admission
    budgets: Purse
    sessions: MemorySessions
    remembered: list[Remembered]
    """Sessions, each time that one is answered."""
    log: io.StringIO = field(repr=False)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]

    @property
    def completed(self) -> list[dict[str, Any]]:
        return self.events("request.completed")

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def in_flight(self) -> tuple[float, int, int]:
        """The gauge, the limiter's count and the replicas' count: all three say the same."""
        gauge = self.sample("thalamus_requests_in_flight")
        return gauge, self.limits.in_flight, sum(replica.in_flight for replica in self.replicas.all)


def describe(decision: Decision) -> dict[str, Any]:
    return {"decision_id": decision.decision_id, "chosen": decision.chosen.model.name}


def bench(
    the_catalog: Catalog,
    upstream: Upstream,
    timeouts: Timeouts = QUICK,
    clock: Clock = time.monotonic,
    max_in_flight: int = 1000,
    router: Router | None = None,
    baseline: Baseline | None = None,
    record: Callable[[Decision], Mapping[str, Any]] = describe,
) -> Bench:
    """A gateway over this upstream that tries the catalogue's models in its order, unless a router says otherwise."""
    log = io.StringIO()
    models, backends = the_catalog.models, the_catalog.backends
    metrics = Metrics([one.name for one in models], ["default"], [one.name for one in backends])
    telemetry = Telemetry(metrics, EventLog(log))
    limits, journal = MemoryLimits(max_in_flight, clock), RecentDecisions()
    replicas = Replicas(the_catalog, clock, telemetry)
    dispatcher = Dispatcher(upstream, replicas, DispatchLimits(timeouts), clock, telemetry)
    shedding = Shedding(limits.fullness)
    metrics.refresh_with(lambda: metrics.pressed(shedding.readings()))
    budgets = Purse(MemoryBank(), clock)
    ledger = Ledger(limits, journal, budgets, telemetry, Promises(metrics.promises, baseline), "v1")
    admission = Admission(ledger, clock, timeouts.total_s, shedding, Gate())
    remembered: list[Remembered] = []
    sessions = MemorySessions(clock, remembered.append)
    desk = Desk(router or FakeRouter(models), journal, record, sessions)
    gateway = Gateway(admission, desk, dispatcher, replicas, telemetry)
    return Bench(gateway, replicas, limits, metrics, admission, budgets, sessions, remembered, log)


def catalog_of(**backends: FakeBackend) -> Catalog:
    """One model for each backend, named like it."""
    models: Sequence[Model] = [model(name, backend=name) for name in backends]
    return catalog(*models, urls={name: (backend.url,) for name, backend in backends.items()})


def client_of(the_catalog: Catalog, timeouts: Timeouts = QUICK) -> UpstreamClient:
    return UpstreamClient(the_catalog.backends, timeouts=timeouts)
