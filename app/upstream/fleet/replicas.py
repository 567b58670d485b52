"""Which replica of a backend gets a request, what is learned of it, and what the router is told about all of them.

How it works: a request takes a `Lease` on a replica and gives it back when its answer is closed. What came of it is
sorted here: a failure counts towards being taken out, which `Ejections` sees to, and a busy answer lets the replica or
its model rest, which `Rests` sees to; a refusal of the request itself speaks for the replica. One that is merely slow
stays, and is chosen seldom.

A replica that only failed too often is still a last resort for who has no other choice. When every replica of the fleet
is out, all are tried: an empty pool helps nobody.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence

from app.domain.clock import Clock
from app.domain.decision import Fleet
from app.domain.models import Catalog, Model
from app.domain.request import Request
from app.errors import (
    AnswerTooLarge,
    CallerError,
    UpstreamBusy,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamSpent,
    UpstreamUnreachable,
    shown,
)
from app.telemetry import Telemetry
from app.upstream.answers.answer import Answer
from app.upstream.answers.told import ToldFailure
from app.upstream.fleet.changes import Change, Tell
from app.upstream.fleet.choosing import cheaper_of_two, home_of
from app.upstream.fleet.ejections import Ejections, may_return
from app.upstream.fleet.fleet_view import FleetView
from app.upstream.fleet.lease import Lease
from app.upstream.fleet.outliers import note_slow_ones
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.rests import Rests
from app.upstream.fleet.service import Service, services_of
from app.upstream.fleet.speeds import Attempted, Speeds
from app.upstream.http.deadline import OutOfTime

# How slow a replica is compared with others changes from answer to answer; a change need not be known at once.
COMPARE_EVERY_S = 0.25


class UnknownReplica(CallerError):
    status = 404
    code = "replica_not_found"

    def __init__(self, name: str, known: Collection[str]) -> None:
        super().__init__(f"there is no replica {shown(name)!r}; there are {', '.join(sorted(known))}", param="replica")


class Replicas:
    """All replicas of a catalogue. Every method decides without waiting."""

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        telemetry: Telemetry,
        chance: Callable[[], float] = random.random,
        before: Replicas | None = None,
        tell: Tell = lambda _: None,
    ) -> None:
        """`chance` draws from [0, 1); `tell` hears of each change that other processes should `hear` of.

        `before` are those of the configuration that this one follows: who stays keeps its load and its health, and what
        is still to be heard of it is for this one to hear.
        """
        self.clock, self._metrics, self._log = clock, telemetry.metrics, telemetry.log
        self._chance = chance
        self._services: Mapping[str, Service] = services_of(catalog, before._services if before else {})
        self.all = tuple(replica for service in self._services.values() for replica in service.replicas)
        self._known = frozenset(self.all)
        self._speeds: Speeds = Speeds(catalog.models, before._speeds if before else None)
        self._heir: Replicas | None = None
        if before:
            before._heir = self
        self._view = FleetView(catalog.models, self._services, self._speeds, self._is_usable)
        self.ejections = Ejections(self._services, clock, telemetry, tell, self._view.changed)
        self.rests = Rests(self._services, clock, tell, self._view.changed)

    def of(self, backend: str) -> tuple[Replica, ...]:
        service = self._services.get(backend)
        return service.replicas if service else ()

    def pick(
        self, model: Model, without: Collection[Replica] = (), session: str | None = None, *, last_resort: bool = False
    ) -> Replica | None:
        """The replica to try now for a model; None when it rests, or all of them rest, are out, or are in `without`.

        As a `last_resort` one that fails too often will do.
        """
        service = self._services.get(model.backend)
        if service is None or (service.limits and service.left_s(model.served_as, self.clock())):
            return None
        usable: Sequence[Replica] = service.replicas
        if without or False in [replica.is_ready for replica in usable]:
            usable = self._choices(usable, without, last_resort, self.clock())
        if len(usable) < 2:
            return usable[0] if usable else None
        now = self.clock()
        return home_of(session, usable, now) if session else cheaper_of_two(usable, now, self._chance)

    def seen_s_per_output_token(self, model: Model) -> float | None:
        """How fast a model wrote of late; None where that was not seen."""
        return self._speeds.s_per_output_token(model, self.clock())

    def fleet(self) -> Fleet:
        """What the router needs to know, one entry per model of the catalogue, in its order."""
        return self._view.at(self.clock())

    def hear(self, change: Change, *, from_afar: bool = False) -> None:
        """Another process that looks after the same replicas has told of a change.

        One `from_afar` is another gateway's, whose network and configuration may be at fault and not the replica.
        """
        for replica in self.of(change.backend):
            if replica.url != change.url:
                continue
            if change.what in ("rests", "limited"):
                self.rests.hear(replica, change)
            else:
                self.ejections.hear(replica, change, from_afar=from_afar)

    def set_aside(self, name: str, *, aside: bool = True) -> list[str]:
        """Send nobody to the replica of that name, or send again; returns all that are set aside then.

        Raises:
            UnknownReplica: it is none of the catalogue's.
        """
        if name not in (known := {replica.name for replica in self.all}):
            raise UnknownReplica(name, known)
        for replica in self.all:
            if replica.name == name:
                replica.is_set_aside, replica.is_ready = aside, False
        self._view.changed()
        return sorted({replica.name for replica in self.all if replica.is_set_aside})

    def keeper(self, replica: Replica) -> Replicas:
        """Who looks after a replica now: those of the latest configuration that it is in."""
        heir = self._heir
        return heir.keeper(replica) if heir and replica in heir._known else self

    def lease(self, replica: Replica, model: Model, request: Request) -> Lease:
        """Take a place on a replica for one attempt."""
        return Lease(self, replica, Attempted.of(request, model, self.clock()))

    def failed(
        self, replica: Replica, error: UpstreamError, attempted: Attempted | None = None, *, begun: bool = False
    ) -> None:
        """An attempt failed: by the replica's fault, or because there is no room on it now, or by neither.

        A rate limit is the whole backend's where it is not said what was `attempted`.
        """
        if isinstance(error, UpstreamRejected):
            self.succeeded(replica)
            return
        self.ejections.probe_ended(replica)
        if isinstance(error, OutOfTime | AnswerTooLarge) or _is_refusal(error):
            return
        if isinstance(error, UpstreamSpent):
            self.rests.spent(replica)
        elif isinstance(error, UpstreamRateLimited):
            self.rests.limited(replica, error.retry_after_s, attempted)
        elif isinstance(error, UpstreamBusy):
            self.rests.full(replica, error.retry_after_s)
        else:
            self.ejections.count(replica, error, begun=begun)

    def succeeded(self, replica: Replica, started_at: float = math.inf, now: float | None = None) -> None:
        """It answered a request that started then: a row of failures is over, and one that was dead is back."""
        now = self.clock() if now is None else now
        replica.failures = 0
        replica.outcomes.begun(now)
        if replica.probing or replica.ejected_until is not None:
            self.ejections.answered(replica, started_at, now)

    def began(self, replica: Replica, seconds: float, now: float, *, stream: bool) -> None:
        """An answer took so long to begin."""
        service = self._services[replica.backend.name]
        replica.began(seconds, now, stream=stream)
        if len(service.replicas) > 1 and now - service.compared_at >= COMPARE_EVERY_S:
            service.compared_at = now
            for slow in note_slow_ones(service.replicas):
                where = {"backend": slow.backend.name, "replica": slow.url}
                self._log.write("replica.slowed", **where, times_slower=round(slow.drag, 1))

    def left(self, replica: Replica, seconds: float, *, stream: bool) -> None:
        """Somebody gave up waiting for it to begin. Longer than usual is slow, however long it would have been."""
        usual = replica.beginnings[stream]
        if usual.count and seconds > usual.usual_s:
            self.began(replica, seconds, self.clock(), stream=stream)

    def scraped(self, replica: Replica, running: int, waiting: int) -> None:
        """The worker told its queue. One that was away may be probed at once: it was started again."""
        now = self.clock()
        replica.running, replica.waiting = running, waiting
        replica.scraped_at, replica.in_flight_when_scraped = now, replica.in_flight
        if replica.ejected_until is not None and replica.is_away:
            replica.ejected_until = min(replica.ejected_until, now)
        replica.is_away = replica.is_unread = False

    def unread(self, replica: Replica, why: str) -> None:
        """Its metrics page is there and cannot be read: its queue is not known, and nothing speaks against it."""
        if not replica.is_unread:
            replica.is_unread = True
            self._log.write("page.unread", backend=replica.backend.name, replica=replica.url, why=why)

    def silent(self, replica: Replica, error: UpstreamError) -> None:
        """Its metrics page cannot be had. A refused connection counts like a failed attempt, until it is out."""
        replica.is_away = True
        if replica.ejected_until is None and isinstance(error, UpstreamUnreachable):
            self.failed(replica, error)

    def used_up(self, replica: Replica, model: Model, wait_s: float) -> None:
        """It answered, and said that this was the last request for a model in a window that ends after `wait_s`."""
        self.keeper(replica).rests.rest_model(replica, model, wait_s)

    def closed(self, lease: Lease, answer: Answer, first_at: float) -> None:
        """An answer is over: learn from it."""
        backend, error = lease.replica.backend.name, answer.error
        if error is not None:
            self._metrics.upstream_failed(backend, error.code)
            if isinstance(error, UpstreamError):
                self.failed(lease.replica, error, lease.attempted, begun=True)
        elif answer.complete:
            self._speeds.learn(lease.attempted, answer, first_at, self.clock())
        if answer.done_added:
            self._metrics.done_was_added(backend)

    def _choices(
        self, replicas: Sequence[Replica], without: Collection[Replica], last_resort: bool, now: float
    ) -> Sequence[Replica]:
        """What can be chosen, where not all can: at times the one that has just come back, else the rest."""
        usable = [r for r in replicas if r not in without and self._is_usable(r, now, last_resort)]
        warming = [r for r in usable if r.warmth(now) < 1.0]
        for replica in warming:
            replica.credit += replica.warmth(now) / len(usable)
            if replica.credit >= 1.0:
                replica.credit -= 1.0
                return (replica,)
        warm = [r for r in usable if r not in warming]
        for replica in warm:
            replica.is_ready = replica.ejected_until is None
        return warm or usable

    def _is_usable(self, replica: Replica, now: float, last_resort: bool) -> bool:
        if replica.is_set_aside or replica.rests_until > now:
            return False
        if replica.ejected_until is None:
            return True
        if may_return(replica, now) and not replica.probing:
            return True
        return last_resort and (not replica.is_dead or self.ejections.all_out)


def _is_refusal(error: UpstreamError) -> bool:
    """Whether a begun answer was ended by an error that is about its request."""
    return isinstance(error, ToldFailure) and error.is_about_the_request
