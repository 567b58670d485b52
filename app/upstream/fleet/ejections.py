"""Which replicas are out: when one goes, and when it may come back.

How it works: a replica goes out after five failures in a row, which make it count as dead, or when the share of its
failures is high and stands out among its backend's replicas. For the latter, half of a backend stays, and something of
the fleet. A worker that is out is due for a probe once its time is over, and each second while all of the fleet is out;
a service that is paid for is probed with a caller's request, one at a time. One that answers is back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app.domain.clock import Clock
from app.errors import UpstreamError, UpstreamRejected
from app.telemetry import Telemetry
from app.upstream.fleet.changes import Change, Tell
from app.upstream.fleet.outliers import fails_too_often
from app.upstream.fleet.replica import EJECTED_FOR_S, Replica
from app.upstream.fleet.service import Service
from app.upstream.http.faults import Unreadable, why

FAILURES_TO_EJECT = 5
# A probe costs a worker one token. Sooner would be no news, later would keep callers waiting for a healthy fleet.
PROBE_EVERY_S = 1.0


class Ejections:
    """Takes replicas of one configuration out and lets them come back."""

    def __init__(
        self,
        services: Mapping[str, Service],
        clock: Clock,
        telemetry: Telemetry,
        tell: Tell,
        changed: Callable[[], None],
    ) -> None:
        """`services` are the backends by name; `tell` hears of what other processes should know, and `changed` is
        called with each change, also with those that were heard of."""
        self._services, self._clock, self._tell, self._changed = services, clock, tell, changed
        self._metrics, self._log = telemetry.metrics, telemetry.log
        self._replicas = tuple(replica for service in services.values() for replica in service.replicas)

    @property
    def _out(self) -> int:
        """Counted anew each time: another configuration's replicas may be the same ones."""
        return sum(_is_out(replica) for replica in self._replicas)

    @property
    def all_out(self) -> bool:
        return self._out == len(self._replicas)

    def any_healthy(self) -> bool:
        """Whether any replica of any backend is not ejected, or waits for a caller's request to come back."""
        now = self._clock()
        return not self.all_out or any(may_return(replica, now) for replica in self._replicas)

    def count(self, replica: Replica, error: UpstreamError, *, begun: bool) -> None:
        """An attempt failed by the replica's fault; the last failure in a row that is allowed ejects, and so does too
        high a share."""
        now = self._clock()
        replica.failures += 1
        replica.outcomes.failed(now, begun=begun)
        if isinstance(error, Unreadable):
            self._log.write("answer.unread", backend=replica.backend.name, replica=replica.url, where=error.where)
        if replica.failures >= FAILURES_TO_EJECT:
            self._eject(replica, error, "in a row")
        elif (
            replica.ejected_until is None
            and fails_too_often(replica, self._services[replica.backend.name].replicas, now)
            and self._can_be_spared(replica)
        ):
            self._eject(replica, error, "share")

    def answered(self, replica: Replica, started_at: float, now: float) -> None:
        """One that is out, or was probed with a request of a caller, answered a request that started then."""
        returns = self.probe_ended(replica) or replica.is_dead
        if replica.ejected_until is not None and started_at >= replica.ejected_at and returns:
            self._restore(replica, now)

    def due_probes(self) -> list[Replica]:
        """Workers that are out and should be probed now; each is taken as being probed until it is told how it went."""
        now = self._clock()
        due = [replica for replica in self._replicas if self._is_due(replica, now)] if self._out else []
        for replica in due:
            replica.probing, replica.probed_at = True, now
        return due

    def probed(self, replica: Replica, error: UpstreamError | None) -> None:
        """How a probe went."""
        replica.probing = False
        failed = error is not None and not isinstance(error, UpstreamRejected)
        self._metrics.probed(replica.backend.name, "failed" if failed else "ok")
        if replica.ejected_until is not None and not failed:
            self._restore(replica, self._clock())

    @staticmethod
    def probe_ended(replica: Replica) -> bool:
        """Whether a caller's request was a probe, which it is no longer; those of workers are not callers'."""
        was_probe = replica.probing and replica.backend.kind == "openai"
        replica.probing = replica.probing and not was_probe
        return was_probe

    def hear(self, replica: Replica, change: Change, *, from_afar: bool) -> None:
        """Another process says that a replica is out, or is back."""
        now, is_out = self._clock(), replica.ejected_until is not None
        self._changed()
        replica.is_ready = False
        if change.what == "back" and is_out:
            replica.come_back(now)
            self._metrics.restored(change.backend)
        elif change.what == "back" or is_out:
            return
        elif from_afar and not replica.outcomes.counts(now)[0]:
            # None of our own requests has failed there of late: the next one that does decides.
            replica.failures = FAILURES_TO_EJECT - 1
        else:
            replica.eject(now, dead=change.what == "dead")
            self._metrics.heard_of_ejection(change.backend)

    def gone(self, after: Ejections) -> None:
        """Others have taken over: nobody waits any more for those of ours that were out and are not among them."""
        for replica in self._replicas:
            if replica.ejected_until is not None and replica not in after._replicas:
                replica.ejected_until = None
                self._metrics.restored(replica.backend.name)

    def _is_due(self, replica: Replica, now: float) -> bool:
        if replica.ejected_until is None or replica.is_set_aside or replica.backend.kind != "vllm" or replica.probing:
            return False
        return now - replica.probed_at >= PROBE_EVERY_S and (replica.ejected_until <= now or self.all_out)

    def _can_be_spared(self, replica: Replica) -> bool:
        """Half of a backend stays, and something of the fleet: who only fails too often is better than nobody."""
        peers = self._services[replica.backend.name].replicas
        out = sum(_is_out(peer) for peer in peers)
        return out < max(1, len(peers) // 2) and self._out + 1 < len(self._replicas)

    def _eject(self, replica: Replica, error: UpstreamError, rule: str) -> None:
        dead, now = rule == "in a row", self._clock()
        self._changed()
        replica.is_ready = False
        if replica.ejected_until is None:
            replica.eject(now, dead=dead)
            self._metrics.ejected(replica.backend.name)
            where = {"backend": replica.backend.name, "replica": replica.url}
            told = {"rule": rule, "for_s": replica.ejected_for_s, "code": error.code, "why": why(error, replica.url)}
            self._log.write("replica.ejected", **where, **told)
            self._tell(Change(replica.backend.name, replica.url, "dead" if dead else "out"))
        else:
            replica.is_dead = replica.is_dead or dead
            if replica.ejected_until <= now and replica.backend.kind == "openai":
                replica.ejected_until = now + EJECTED_FOR_S

    def _restore(self, replica: Replica, now: float) -> None:
        replica.come_back(now)
        self._metrics.restored(replica.backend.name)
        self._log.write("replica.restored", backend=replica.backend.name, replica=replica.url)
        self._changed()
        self._tell(Change(replica.backend.name, replica.url, "back"))


def _is_out(replica: Replica) -> bool:
    return replica.ejected_until is not None or replica.is_set_aside


def may_return(replica: Replica, now: float) -> bool:
    """Whether the next request of a caller shows if a service that is paid for is back."""
    until = replica.ejected_until
    return replica.backend.kind == "openai" and until is not None and until <= now and not replica.is_set_aside
