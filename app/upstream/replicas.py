"""Which replica of a backend gets a request, which are out, and what the router is told about all of them.

How it works: a request takes a `Lease` on a replica and gives it back when its answer is closed. A replica goes out
after five failures in a row, or when the share of its failures is high and stands out among its backend's replicas. One
that is merely slow stays, and is chosen seldom. A busy answer (429, 503) is no failure: it only rests the replica, and
so does an answer that used up what a backend grants for now.

A vLLM worker that is out comes back when a probe, which is a completion of one token, succeeds; a service that is paid
for is probed with a caller's request, one at a time. A replica that only failed too often is still a last resort for
who has no other choice. When every replica of the fleet is out, all are tried: an empty pool helps nobody.

A rate limit of a worker's rests its whole backend. One of a service that is paid for rests the model that was asked
for, and its backend once a second model is refused meanwhile, or at once where its account has no money left.
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
    UpstreamBusy,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamSpent,
    UpstreamUnreachable,
)
from app.telemetry import Telemetry
from app.upstream.answer import Answer
from app.upstream.changes import Change, Tell
from app.upstream.choosing import cheaper_of_two, home_of
from app.upstream.deadline import OutOfTime
from app.upstream.faults import Unreadable, why
from app.upstream.fleet_view import FleetView
from app.upstream.lease import Lease
from app.upstream.outliers import fails_too_often, note_slow_ones
from app.upstream.replica import EJECTED_FOR_S, Replica
from app.upstream.service import Service, services_of
from app.upstream.speeds import Attempted, Speeds
from app.upstream.told import ToldFailure

FAILURES_TO_EJECT = 5
# A probe costs a worker one token. Sooner would be no news, later would keep callers waiting for a healthy fleet.
PROBE_EVERY_S = 1.0
# A full queue drains within one answer's time; longer rests are for backends that name one, and the longest one for
# those whose account is empty.
REST_WHEN_FULL_S = 0.25
MAX_REST_S = 120.0
# What is over sooner is over before another process has heard of it.
RESTS_LONG_S = 1.0
# How slow a replica is compared with others changes from answer to answer; a change need not be known at once.
COMPARE_EVERY_S = 0.25


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
        self._chance, self._tell = chance, tell
        self._services: Mapping[str, Service] = services_of(catalog, before._services if before else {})
        self.all = tuple(replica for service in self._services.values() for replica in service.replicas)
        self._known = frozenset(self.all)
        self._speeds: Speeds = Speeds(catalog.models, before._speeds if before else None)
        self._heir: Replicas | None = None
        if before:
            before._heir = self
        self._view = FleetView(catalog.models, self._services, self._speeds, self._is_usable)

    @property
    def _out(self) -> int:
        """Counted anew each time: another configuration's replicas may be the same ones."""
        return sum(replica.ejected_until is not None for replica in self.all)

    @property
    def all_out(self) -> bool:
        return self._out == len(self.all)

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

    def any_healthy(self) -> bool:
        """Whether any replica of any backend is not ejected, or waits for a caller's request to come back."""
        now = self.clock()
        return not self.all_out or any(_may_return(replica, now) for replica in self.all)

    def hear(self, change: Change, *, from_afar: bool = False) -> None:
        """Another process that looks after the same replicas has told of a change.

        One `from_afar` is another gateway's, whose network and configuration may be at fault and not the replica.
        """
        for replica in self.of(change.backend):
            if replica.url != change.url:
                continue
            if change.what == "limited" and change.model:
                self._services[change.backend].limit(change.model, self.clock() + change.seconds)
                self._view.changed()
            else:
                self._hear(replica, change, from_afar)

    def keeper(self, replica: Replica) -> Replicas:
        """Who looks after a replica now: those of the latest configuration that it is in."""
        heir = self._heir
        return heir.keeper(replica) if heir and replica in heir._known else self

    def gone(self, after: Replicas) -> None:
        """Others have taken over: nobody waits any more for those of ours that were out and are not among them."""
        for replica in self.all:
            if replica.ejected_until is not None and replica not in after.all:
                replica.ejected_until = None
                self._metrics.restored(replica.backend.name)

    def lease(self, replica: Replica, model: Model, request: Request) -> Lease:
        """Take a place on a replica for one attempt."""
        return Lease(self, replica, Attempted.of(request, model, self.clock()))

    def failed(
        self, replica: Replica, error: UpstreamError, attempted: Attempted | None = None, *, begun: bool = False
    ) -> None:
        """An attempt failed; the last failure in a row that is allowed ejects, and so does too high a share.

        A rate limit is the whole backend's where it is not said what was `attempted`.
        """
        if isinstance(error, UpstreamRejected):
            self.succeeded(replica)
            return
        self._probe_ended(replica)
        if isinstance(error, OutOfTime | AnswerTooLarge) or _is_refusal(error):
            return
        if isinstance(error, UpstreamSpent):
            self._rest(self.of(replica.backend.name), MAX_REST_S, limited=True)
        elif isinstance(error, UpstreamRateLimited):
            self._limited(replica, error.retry_after_s, attempted)
        elif isinstance(error, UpstreamBusy):
            self._rest((replica,), error.retry_after_s, limited=False)
        else:
            self._count(replica, error, begun)

    def succeeded(self, replica: Replica, started_at: float = math.inf, now: float | None = None) -> None:
        """It answered a request that started then: a row of failures is over, and one that was dead is back."""
        now = self.clock() if now is None else now
        replica.failures = 0
        replica.outcomes.begun(now)
        if replica.probing or replica.ejected_until is not None:
            may_return = self._probe_ended(replica) or replica.is_dead
            if replica.ejected_until is not None and started_at >= replica.ejected_at and may_return:
                self._restore(replica, now)

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

    def due_probes(self) -> list[Replica]:
        """Workers that are out and should be probed now; each is taken as being probed until it is told how it went."""
        now = self.clock()
        due = [replica for replica in self.all if self._is_due(replica, now)] if self._out else []
        for replica in due:
            replica.probing, replica.probed_at = True, now
        return due

    def probed(self, replica: Replica, error: UpstreamError | None) -> None:
        """How a probe went."""
        replica.probing = False
        failed = error is not None and not isinstance(error, UpstreamRejected)
        self._metrics.probed(replica.backend.name, "failed" if failed else "ok")
        if replica.ejected_until is not None and not failed:
            self._restore(replica, self.clock())

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
        self.keeper(replica)._rest_model(replica, model, wait_s)

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

    def retry_after_s(self, models: Collection[Model]) -> int:
        """Whole seconds until one of these models may be tried again."""
        now = self.clock()
        waits = [self._services[model.backend].back_in_s(model.served_as, now) for model in models]
        return max(1, math.ceil(min(waits, default=1.0)))

    def limited_for_s(self, model: Model) -> float | None:
        """Seconds for which only rate limits keep a model from being asked; None where that is not so."""
        return self._services[model.backend].limited_for_s(self.clock(), model.served_as)

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
        if replica.rests_until > now:
            return False
        if replica.ejected_until is None:
            return True
        if _may_return(replica, now) and not replica.probing:
            return True
        return last_resort and (not replica.is_dead or self.all_out)

    def _is_due(self, replica: Replica, now: float) -> bool:
        if replica.ejected_until is None or replica.backend.kind != "vllm" or replica.probing:
            return False
        return now - replica.probed_at >= PROBE_EVERY_S and (replica.ejected_until <= now or self.all_out)

    def _limited(self, replica: Replica, wait_s: float | None, attempted: Attempted | None) -> None:
        """A backend is over its rate limit, or only the model that was asked for is."""
        service = self._services[replica.backend.name]
        if (
            attempted is not None
            and replica.backend.kind == "openai"
            and not service.refused_another(attempted.model.served_as, attempted.started_at)
        ):
            self._rest_model(replica, attempted.model, wait_s)
        else:
            self._rest(service.replicas, wait_s, limited=True)

    def _rest(self, replicas: Sequence[Replica], wait_s: float | None, *, limited: bool) -> None:
        rest_s = _rest_s(wait_s)
        for replica in replicas:
            replica.rest(self.clock() + rest_s, limited=limited)
            if rest_s >= RESTS_LONG_S:
                self._tell(Change(replica.backend.name, replica.url, "limited" if limited else "rests", rest_s))
        self._view.changed()

    def _rest_model(self, replica: Replica, model: Model, wait_s: float | None) -> None:
        """Ask no replica of this one's backend for a model."""
        rest_s = _rest_s(wait_s)
        self._services[replica.backend.name].limit(model.served_as, self.clock() + rest_s)
        if rest_s >= RESTS_LONG_S:
            self._tell(Change(replica.backend.name, replica.url, "limited", rest_s, model.served_as))
        self._view.changed()

    @staticmethod
    def _probe_ended(replica: Replica) -> bool:
        """Whether a caller's request was a probe, which it is no longer; those of workers are not callers'."""
        was_probe = replica.probing and replica.backend.kind == "openai"
        replica.probing = replica.probing and not was_probe
        return was_probe

    def _count(self, replica: Replica, error: UpstreamError, begun: bool) -> None:
        now = self.clock()
        replica.failures += 1
        replica.outcomes.failed(now, begun=begun)
        if isinstance(error, Unreadable):
            self._log.write("answer.unread", backend=replica.backend.name, replica=replica.url, where=error.where)
        if replica.failures >= FAILURES_TO_EJECT:
            self._eject(replica, error, "in a row")
        elif (
            replica.ejected_until is None
            and fails_too_often(replica, self.of(replica.backend.name), now)
            and self._can_be_spared(replica)
        ):
            self._eject(replica, error, "share")

    def _can_be_spared(self, replica: Replica) -> bool:
        """Half of a backend stays, and something of the fleet: who only fails too often is better than nobody."""
        peers = self.of(replica.backend.name)
        out = sum(peer.ejected_until is not None for peer in peers)
        return out < max(1, len(peers) // 2) and self._out + 1 < len(self.all)

    def _eject(self, replica: Replica, error: UpstreamError, rule: str) -> None:
        dead, now = rule == "in a row", self.clock()
        self._view.changed()
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
        self._view.changed()
        self._tell(Change(replica.backend.name, replica.url, "back"))

    def _hear(self, replica: Replica, change: Change, from_afar: bool) -> None:
        now, is_out = self.clock(), replica.ejected_until is not None
        self._view.changed()
        replica.is_ready = False
        if change.what in ("rests", "limited"):
            replica.rest(now + change.seconds, limited=change.what == "limited")
        elif change.what == "back" and is_out:
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


def _may_return(replica: Replica, now: float) -> bool:
    """Whether the next request of a caller shows if a service that is paid for is back."""
    return replica.backend.kind == "openai" and replica.ejected_until is not None and replica.ejected_until <= now


def _is_refusal(error: UpstreamError) -> bool:
    """Whether a begun answer was ended by an error that is about its request."""
    return isinstance(error, ToldFailure) and error.is_about_the_request


def _rest_s(wait_s: float | None) -> float:
    return REST_WHEN_FULL_S if wait_s is None else min(wait_s, MAX_REST_S)
