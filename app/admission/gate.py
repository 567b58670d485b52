"""Whether a request is let in, and what holds for all that are: the longest time, the ledger, the gate.

What `Admission.admit` returns is the request's context, which holds what it takes until its end:
`app.admission.admitted`.

Before that, `Shedding` says whether it is too crowded for a request of this priority. The edge asks the same with what
it knows before there is a body, because reading one is most of what a refusal would cost.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NoReturn

from app.admission.admitted import Admitted, Caller, draining
from app.admission.ledger import Ledger
from app.admission.shedding import Shedding, refusal
from app.domain.clock import Clock
from app.domain.request import Request
from app.upstream.http.deadline import Deadline


@dataclass(slots=True)
class Gate:
    """Whether requests should come here at all; one for a process, whatever its configuration."""

    leaving: bool = False
    """Requests are served, but load balancers are told to send no more."""
    closed: bool = False
    """Nothing new is let in."""


class Admission:
    """Lets requests in."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        total_s: float,
        shedding: Shedding | None = None,
        gate: Gate | None = None,
    ) -> None:
        """`total_s` is the longest time that any request may take; a request may ask for less."""
        self.ledger, self.clock, self._total_s = ledger, clock, total_s
        self._shedding = shedding or Shedding(ledger.limits.fullness)
        self.gate = gate or Gate()

    @property
    def in_flight(self) -> int:
        return len(self.ledger.open)

    def cut(self, backends: Collection[str] | None = None) -> None:
        """End what is in flight, or what these backends are answering: streams with an error event, others with a 503.

        Returns at once; the requests end as their tasks run.
        """
        for admitted in tuple(self.ledger.open):
            if backends is None or admitted.backend in backends:
                admitted.cut()

    def sheds(self, priority: str) -> bool:
        """Whether a request of this priority would be turned away now. Cheap: to be asked before a body is read."""
        return self.gate.closed or self._shedding.sheds(priority)

    def turn_away(self, priority: str) -> NoReturn:
        """Tell one that is not let in.

        Raises:
            Overloaded: always: the gateway is full, or draining.
        """
        if self.gate.closed:
            raise draining()
        self.ledger.telemetry.metrics.shed(priority)
        raise refusal()

    def admit(self, request: Request, caller: Caller, operation: str | None = None) -> Admitted:
        """A context for one request; `operation` names it in the metrics when it is not a completion.

        Entering raises:
            RateLimited: the caller is over a limit.
            Overloaded: the gateway is full, or draining.
        """
        return Admitted(self, request, caller, operation or request.operation)

    def deadline(self, request: Request, now: float) -> Deadline:
        """When a request that came now must be over."""
        if request.deadline_s is not None and request.deadline_s < self._total_s:
            return Deadline(now + request.deadline_s, self.clock)
        return Deadline(now + self._total_s, self.clock, is_callers=False)
