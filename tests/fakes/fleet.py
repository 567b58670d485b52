"""A fleet of three replicas that fails as it is told, with a clock."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from app.errors import UpstreamBroken
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.fleet.lease import Lease
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.replicas import Replicas
from tests.fakes.clock import FakeClock
from tests.fakes.world import catalog, model, request

BROKEN = UpstreamBroken("no")


class World:
    """Two replicas of the backend `pair`, one of `other`."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = io.StringIO()
        self.small, self.large = model("small", "pair"), model("large", "other")
        the_catalog = catalog(self.small, self.large, urls={"pair": ("http://127.0.0.1:1", "http://127.0.0.1:2")})
        self.replicas = Replicas(the_catalog, self.clock, Telemetry(log=EventLog(self.log)))
        self.a, self.b = self.replicas.of("pair")
        (self.other,) = self.replicas.of("other")

    def fail(self, replica: Replica, times: int = FAILURES_TO_EJECT) -> None:
        for _ in range(times):
            self.replicas.failed(replica, BROKEN)

    def lease(self, replica: Replica | None = None, input_tokens: int = 100, **changes: Any) -> Lease:
        asked = request(stream=True, input_tokens=input_tokens, **changes)
        return self.replicas.lease(replica or self.a, self.small, asked)


class Paid(World):
    """The same fleet, of services that are paid for: no probe of ours is sent to them."""

    def __init__(self) -> None:
        super().__init__()
        for replica in self.replicas.all:
            replica.backend = replace(replica.backend, kind="openai")
