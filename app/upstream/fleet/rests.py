"""Who rests: a replica whose queue is full, a model that is over its rate limit, or the whole backend.

How it works: a busy answer (429, 503) is no failure; what gave it rests for as long as it says, or for a moment. A rate
limit of a worker's rests its whole backend. One of a service that is paid for rests the model that was asked for, and
its backend once a second model is refused meanwhile, or at once where its account has no money left. Only rests that
are still on when other processes hear of them are told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from app.domain.clock import Clock
from app.domain.models import Model
from app.upstream.fleet.changes import Change, Tell
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.service import Service
from app.upstream.fleet.speeds import Attempted

# A full queue drains within one answer's time; longer rests are for backends that name one, and the longest one for
# those whose account is empty.
REST_WHEN_FULL_S = 0.25
MAX_REST_S = 120.0
# What is over sooner is over before another process has heard of it.
RESTS_LONG_S = 1.0


class Rests:
    """Lets replicas and models of one configuration rest. Where it is not known for how long, it is for a moment."""

    def __init__(self, services: Mapping[str, Service], clock: Clock, tell: Tell, changed: Callable[[], None]) -> None:
        """`services` are the backends by name; `tell` hears of what other processes should know, and `changed` is
        called with each change, also with those that were heard of."""
        self._services, self._clock, self._tell, self._changed = services, clock, tell, changed

    def full(self, replica: Replica, wait_s: float | None) -> None:
        """A replica takes no more requests for now."""
        self._rest((replica,), wait_s, limited=False)

    def spent(self, replica: Replica) -> None:
        """The account at its backend has no money left."""
        self._rest(self._services[replica.backend.name].replicas, MAX_REST_S, limited=True)

    def limited(self, replica: Replica, wait_s: float | None, attempted: Attempted | None) -> None:
        """A backend is over its rate limit, or only the model that was asked for is."""
        service = self._services[replica.backend.name]
        if (
            attempted is not None
            and replica.backend.kind == "openai"
            and not service.refused_another(attempted.model.served_as, attempted.started_at)
        ):
            self.rest_model(replica, attempted.model, wait_s)
        else:
            self._rest(service.replicas, wait_s, limited=True)

    def rest_model(self, replica: Replica, model: Model, wait_s: float | None) -> None:
        """Ask no replica of this one's backend for a model."""
        rest_s = _rest_s(wait_s)
        self._services[replica.backend.name].limit(model.served_as, self._clock() + rest_s)
        if rest_s >= RESTS_LONG_S:
            self._tell(Change(replica.backend.name, replica.url, "limited", rest_s, model.served_as))
        self._changed()

    def hear(self, replica: Replica, change: Change) -> None:
        """Another process says that a replica rests, or one model of its backend."""
        until = self._clock() + change.seconds
        self._changed()
        if change.what == "limited" and change.model:
            self._services[change.backend].limit(change.model, until)
        else:
            replica.rest(until, limited=change.what == "limited")

    def retry_after_s(self, models: Collection[Model]) -> int:
        """Whole seconds until one of these models may be tried again."""
        now = self._clock()
        waits = [self._services[model.backend].back_in_s(model.served_as, now) for model in models]
        return max(1, math.ceil(min(waits, default=1.0)))

    def limited_for_s(self, model: Model) -> float | None:
        """Seconds for which only rate limits keep a model from being asked; None where that is not so."""
        return self._services[model.backend].limited_for_s(self._clock(), model.served_as)

    def _rest(self, replicas: Sequence[Replica], wait_s: float | None, *, limited: bool) -> None:
        rest_s = _rest_s(wait_s)
        for replica in replicas:
            replica.rest(self._clock() + rest_s, limited=limited)
            if rest_s >= RESTS_LONG_S:
                self._tell(Change(replica.backend.name, replica.url, "limited" if limited else "rests", rest_s))
        self._changed()


def _rest_s(wait_s: float | None) -> float:
    return REST_WHEN_FULL_S if wait_s is None else min(wait_s, MAX_REST_S)
