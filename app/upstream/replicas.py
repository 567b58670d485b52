"""Which replicas a backend has, how busy and how healthy each is, and how fast its models were of late.

How it works: a request takes a `Lease` on the least loaded replica and gives it back when its answer is closed. Five
failures in a row eject a replica; after `PROBE_AFTER_S`, or as soon as its metrics page answers again, one request is
let through, and decides. A busy answer (429, 503) is no failure: it only rests the replica, and so does an answer
that used up what a backend grants for now. When every replica of the
fleet is ejected, ejection means nothing and all are tried: an empty pool helps nobody.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from app.domain.decision import Fleet
from app.domain.models import Backend, Catalog, Model
from app.errors import UpstreamBusy, UpstreamError, UpstreamRateLimited, UpstreamRejected, UpstreamUnreachable
from app.telemetry import Telemetry
from app.upstream.answer import Answer
from app.upstream.deadline import Clock, OutOfTime
from app.upstream.faults import why

FAILURES_TO_EJECT = 5
# A replica gets one probe after this long: short enough to notice a restart that /metrics does not show.
PROBE_AFTER_S = 10.0
# A full queue drains within one answer's time; longer rests are for backends that name one.
REST_WHEN_FULL_S = 0.25
MAX_REST_S = 120.0
# Scraped gauges and observed speeds say nothing about now after so long.
SCRAPE_IS_FRESH_S = 5.0
SPEED_IS_FRESH_S = 300.0
# A wait that was seen fades, or a model that was slow once would never be asked again.
WAIT_FADES_S = 30.0
NEWEST_WEIGHS = 0.2
# Fewer tokens than this say more about the first token than about speed.
MIN_TOKENS_FOR_SPEED = 8
# The fleet's picture is taken at most this often; choosing the replica itself always looks at the present.
FLEET_IS_FRESH_S = 0.05


@dataclass(slots=True, eq=False)
class Replica:
    """One running server of a backend."""

    backend: Backend
    url: str
    in_flight: int = 0
    """Our own requests on it."""
    failures: int = 0
    """In a row."""
    ejected_until: float | None = None
    probing: bool = False
    """One request is finding out whether an ejected replica is back."""
    rests_until: float = -math.inf
    running: int = 0
    waiting: int = 0
    """As the worker said, for all its clients."""
    scraped_at: float = -math.inf
    in_flight_when_scraped: int = 0

    def load(self, now: float) -> int:
        """Requests on it, as far as is known."""
        if now - self.scraped_at > SCRAPE_IS_FRESH_S:
            return self.in_flight
        return max(self.in_flight, self.running + self.waiting + self.in_flight - self.in_flight_when_scraped)

    def queued(self, now: float) -> int:
        """Requests that wait on it; 0 when nothing is known."""
        if now - self.scraped_at > SCRAPE_IS_FRESH_S or not self.waiting:
            return 0
        return max(0, self.waiting + self.in_flight - self.in_flight_when_scraped)


@dataclass(slots=True)
class _Seen:
    """How one model answered of late: moving averages, None before the first answer."""

    ttft_s: float | None = None
    excess_s: float | None = None
    """Time to the first token beyond the prefill that the card promises."""
    s_per_output_token: float | None = None
    duration_s: float | None = None
    ttft_at: float = -math.inf
    speed_at: float = -math.inf


class Replicas:
    """All replicas of a catalogue. Every method decides without waiting."""

    def __init__(self, catalog: Catalog, clock: Clock, telemetry: Telemetry, before: Replicas | None = None) -> None:
        """`before` are those of the configuration that this one follows: who stays keeps its load and its health."""
        self._models = catalog.models
        self.clock, self._metrics, self._log = clock, telemetry.metrics, telemetry.log
        self._by_backend: Mapping[str, tuple[Replica, ...]] = {
            backend.name: tuple(_kept(backend, url.rstrip("/"), before) for url in backend.urls)
            for backend in catalog.backends
        }
        self._position = {model.name: number for number, model in enumerate(catalog.models)}
        self._seen: dict[str, _Seen] = {
            name: seen for name, seen in (before._seen if before else {}).items() if name in self._position
        }
        """Of models that answered; the others cost nothing, however many the catalogue has."""
        self._turn = 0
        self._usable: dict[str, bool] = {}
        self._available: tuple[bool, ...] = ()
        self._fleet: Fleet | None = None
        self._fleet_at = -math.inf

    @property
    def all(self) -> tuple[Replica, ...]:
        return tuple(replica for replicas in self._by_backend.values() for replica in replicas)

    def of(self, backend: str) -> tuple[Replica, ...]:
        return self._by_backend.get(backend, ())

    def least_loaded(self, backend: str, without: Collection[Replica] = ()) -> Replica | None:
        """The replica of a backend to try now; None when all of them rest, are ejected, or are in `without`."""
        now = self.clock()
        usable = [r for r in self.of(backend) if r not in without and self._is_usable(r, now)]
        if not usable:
            return None
        # Equal loads take turns, else the first replica would get all of a quiet fleet's requests.
        self._turn += 1
        shift = self._turn % len(usable)
        return min(usable[shift:] + usable[:shift], key=lambda r: r.load(now))

    def fleet(self) -> Fleet:
        """What the router needs to know, one entry per model of the catalogue, in its order."""
        now = self.clock()
        if self._fleet is None or now - self._fleet_at > FLEET_IS_FRESH_S:
            self._fleet, self._fleet_at = self._picture(now), now
        return self._fleet

    def any_healthy(self) -> bool:
        """Whether any replica of any backend is not ejected."""
        return any(replica.ejected_until is None for replica in self.all)

    def gone(self, after: Replicas) -> None:
        """Others have taken over: nobody waits any more for those of ours that were out and are not among them."""
        for replica in self.all:
            if replica.ejected_until is not None and replica not in after.all:
                replica.ejected_until = None
                self._metrics.restored(replica.backend.name)

    def lease(self, replica: Replica, model: Model, input_tokens: int) -> Lease:
        """Take a place on a replica for one attempt."""
        return Lease(self, replica, Attempted(model, input_tokens, self.clock()))

    def failed(self, replica: Replica, error: UpstreamError) -> None:
        """An attempt failed; the last failure in a row that is allowed ejects."""
        replica.probing = False
        if isinstance(error, OutOfTime):
            return
        if isinstance(error, UpstreamRejected):
            self.succeeded(replica)
            return
        if isinstance(error, UpstreamBusy):
            # A rate limit belongs to the account, a full queue to one server.
            account = isinstance(error, UpstreamRateLimited)
            self._rest(self.of(replica.backend.name) if account else (replica,), error.retry_after_s)
            return
        replica.failures += 1
        if replica.failures >= FAILURES_TO_EJECT:
            self._eject(replica, error)

    def succeeded(self, replica: Replica) -> None:
        """It answered: whatever went wrong before is over."""
        replica.failures = 0
        replica.probing = False
        if replica.ejected_until is not None:
            replica.ejected_until = None
            self._metrics.restored(replica.backend.name)
            self._log.write("replica.restored", backend=replica.backend.name, replica=replica.url)
            self._fleet = None

    def scraped(self, replica: Replica, running: int, waiting: int) -> None:
        """The worker told its queue. An ejected one may be probed at once: it is there again."""
        replica.running, replica.waiting = running, waiting
        replica.scraped_at, replica.in_flight_when_scraped = self.clock(), replica.in_flight
        if replica.ejected_until is not None:
            replica.ejected_until = min(replica.ejected_until, self.clock())

    def unreachable(self, replica: Replica, error: UpstreamUnreachable) -> None:
        """Its metrics page refuses connections: that counts like a failed attempt, until it is out."""
        if replica.ejected_until is None:
            self.failed(replica, error)

    def used_up(self, replica: Replica, wait_s: float) -> None:
        """It answered, and said that this was the last request of a window that ends after `wait_s`."""
        self._rest(self.of(replica.backend.name), wait_s)

    def answered(self, attempted: Attempted, answer: Answer, first_at: float) -> None:
        """Learn from a complete answer how fast the model is."""
        seen, now = self._seen.setdefault(attempted.model.name, _Seen()), self.clock()
        tokens = answer.usage.output_tokens if answer.usage else answer.counted_tokens
        seen.duration_s = _average(seen.duration_s, now - attempted.started_at)
        ttft_s = first_at - attempted.started_at
        if answer.form.stream:
            prefill_s = (
                attempted.input_tokens / attempted.model.speed.prefill_tokens_per_s if attempted.model.speed else 0
            )
            seen.ttft_s = _average(seen.ttft_s, ttft_s)
            seen.excess_s = _average(self._faded(seen, now), max(0.0, ttft_s - prefill_s))
            seen.ttft_at = now
        if tokens >= MIN_TOKENS_FOR_SPEED:
            # A plain answer shows no first token, so what is known from streams is taken off its whole duration.
            began_s = ttft_s if answer.form.stream else min(seen.ttft_s or 0.0, 0.5 * ttft_s)
            writing_s = now - attempted.started_at - began_s
            seen.s_per_output_token = _average(seen.s_per_output_token, max(0.0, writing_s) / (tokens - 1))
            seen.speed_at = now

    def retry_after_s(self, backends: Collection[str]) -> int:
        """Whole seconds until one of these backends may be tried again."""
        now = self.clock()
        waits = [
            max(replica.rests_until, replica.ejected_until or -math.inf) - now
            for name in backends
            for replica in self.of(name)
        ]
        return max(1, math.ceil(min(waits, default=1.0)))

    def _is_usable(self, replica: Replica, now: float) -> bool:
        if replica.rests_until > now:
            return False
        if replica.ejected_until is None:
            return True
        may_probe = replica.ejected_until <= now and not replica.probing
        return may_probe or all(other.ejected_until is not None for other in self.all)

    def _rest(self, replicas: Sequence[Replica], wait_s: float | None) -> None:
        rest_s = REST_WHEN_FULL_S if wait_s is None else min(wait_s, MAX_REST_S)
        for replica in replicas:
            replica.rests_until = max(replica.rests_until, self.clock() + rest_s)
        self._fleet = None

    def _eject(self, replica: Replica, error: UpstreamError) -> None:
        if replica.ejected_until is None:
            self._metrics.ejected(replica.backend.name)
            where = {"backend": replica.backend.name, "replica": replica.url}
            self._log.write("replica.ejected", **where, code=error.code, why=why(error, replica.url))
        replica.ejected_until = self.clock() + PROBE_AFTER_S
        self._fleet = None

    def _picture(self, now: float) -> Fleet:
        usable = {name: any(self._is_usable(r, now) for r in replicas) for name, replicas in self._by_backend.items()}
        if usable != self._usable:
            self._usable = usable
            self._available = tuple(usable.get(model.backend, False) for model in self._models)
        rounds = {name: self._rounds(name, now) for name in self._by_backend}
        wait_s = [0.0] * len(self._models)
        s_per_output_token: list[float | None] = [None] * len(self._models)
        for name, seen in self._seen.items():
            number = self._position[name]
            wait_s[number] = self._wait_s(rounds.get(self._models[number].backend), seen, now)
            if now - seen.speed_at < SPEED_IS_FRESH_S:
                s_per_output_token[number] = seen.s_per_output_token
        return Fleet(self._available, tuple(wait_s), tuple(s_per_output_token))

    def _rounds(self, backend: str, now: float) -> float | None:
        """Requests that wait before a new one, over those served at a time; None where the workers do not say.

        To be multiplied by the duration of an answer: in a queue, that many rounds pass before one's turn.
        """
        scraped = [r for r in self.of(backend) if now - r.scraped_at <= SCRAPE_IS_FRESH_S and self._is_usable(r, now)]
        if not scraped:
            return None
        return min(r.queued(now) / max(1, r.running) for r in scraped)

    def _wait_s(self, rounds: float | None, seen: _Seen, now: float) -> float:
        if rounds is not None:
            return rounds * (seen.duration_s or 0.0)
        return self._faded(seen, now) or 0.0

    @staticmethod
    def _faded(seen: _Seen, now: float) -> float | None:
        if seen.excess_s is None:
            return None
        return seen.excess_s * math.exp(-(now - seen.ttft_at) / WAIT_FADES_S)


@dataclass(frozen=True, slots=True)
class Attempted:
    """What one attempt asked for, and when."""

    model: Model
    input_tokens: int
    started_at: float


@dataclass(slots=True)
class Lease:
    """A place on a replica: given back when the attempt fails, or handed to its answer and given back with it."""

    replicas: Replicas
    replica: Replica
    attempted: Attempted
    first_at: float | None = None

    def __enter__(self) -> Lease:
        self.replica.in_flight += 1
        if self.replica.ejected_until is not None:
            self.replica.probing = True
        return self

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.first_at is not None:
            return
        self._give_back()
        if isinstance(error, UpstreamError):
            self.replicas.failed(self.replica, error)

    def hand_to(self, answer: Answer, now: float) -> None:
        """The answer has begun; from here on its closing gives the place back."""
        self.first_at = now
        self.replicas.succeeded(self.replica)
        answer.on_close(self._answer_closed)

    def _answer_closed(self, answer: Answer) -> None:
        self._give_back()
        if isinstance(answer.error, UpstreamError):
            self.replicas.failed(self.replica, answer.error)
        elif answer.complete and self.first_at is not None:
            self.replicas.answered(self.attempted, answer, self.first_at)

    def _give_back(self) -> None:
        self.replica.in_flight -= 1
        if self.first_at is None:
            self.replica.probing = False


def _kept(backend: Backend, url: str, before: Replicas | None) -> Replica:
    """The replica of before at this URL, under the backend's new description, or a new one."""
    for replica in before.of(backend.name) if before else ():
        if replica.url == url:
            replica.backend = backend
            return replica
    return Replica(backend, url)


def _average(so_far: float | None, newest: float) -> float:
    return newest if so_far is None else (1 - NEWEST_WEIGHS) * so_far + NEWEST_WEIGHS * newest
