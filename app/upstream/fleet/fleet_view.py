"""What the router is told of all replicas: which models can be asked, and how long their callers would wait."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from app.domain.decision import Fleet
from app.domain.models import Model
from app.upstream.fleet.replica import SCRAPE_IS_FRESH_S, Replica
from app.upstream.fleet.service import Service
from app.upstream.fleet.speeds import Speeds

# It is taken anew at most this often, and when something changed; a replica is chosen by what is true at the moment.
FLEET_IS_FRESH_S = 0.05

Usable = Literal["yes", "last resort", "no"]
_AS: tuple[tuple[bool, Usable], ...] = ((False, "yes"), (True, "last resort"))


class FleetView:
    """One for each configuration. What most looks find unchanged is not built again."""

    def __init__(
        self,
        models: Sequence[Model],
        services: Mapping[str, Service],
        speeds: Speeds,
        is_usable: Callable[[Replica, float, bool], bool],
    ) -> None:
        """`services` are the backends by name; `is_usable` says whether a replica may be tried at that time, if need be
        as a last resort."""
        self._models, self._services, self._speeds, self._is_usable = models, services, speeds, is_usable
        self._usable: dict[str, Usable] = {}
        self._available: tuple[bool, ...] = ()
        self._last_resort: tuple[bool, ...] = ()
        self._fleet: Fleet | None = None
        self._taken_at = -math.inf

    def changed(self) -> None:
        """Something has become of a replica: the next look takes it in."""
        self._fleet = None

    def at(self, now: float) -> Fleet:
        """One entry per model, in the order of the catalogue."""
        if self._fleet is None or now - self._taken_at > FLEET_IS_FRESH_S:
            self._fleet, self._taken_at = self._taken(now), now
        return self._fleet

    def _taken(self, now: float) -> Fleet:
        usable = {name: self._usable_of(service.replicas, now) for name, service in self._services.items()}
        if usable != self._usable:
            self._usable = usable
            of_models = [usable.get(model.backend, "no") for model in self._models]
            self._available = tuple([each != "no" for each in of_models])
            last_resort = tuple([each == "last resort" for each in of_models])
            self._last_resort = last_resort if any(last_resort) else ()
        rounds = {name: self._rounds(service.replicas, now) for name, service in self._services.items()}
        seen = self._speeds.picture(rounds, now)
        resting = self._resting(now)
        return Fleet(
            _without(resting, self._available),
            seen.wait_s,
            seen.s_per_output_token,
            self._limited(resting, now) if resting or "no" in usable.values() else (),
            seen.template_tokens,
            _without(resting, self._last_resort),
            seen.ttft_s,
        )

    def _usable_of(self, replicas: Sequence[Replica], now: float) -> Usable:
        """Whether a backend is asked at all, and whether only where there is no other choice."""
        for last_resort, usable in _AS:
            if any(self._is_usable(replica, now, last_resort) for replica in replicas):
                return usable
        return "no"

    def _resting(self, now: float) -> frozenset[int]:
        """The positions of the models that are over limits of their own."""
        limited = [(name, service) for name, service in self._services.items() if service.limits]
        resting = {(name, each) for name, service in limited for each in service.resting(now)}
        places = enumerate(self._models if resting else ())
        return frozenset([at for at, model in places if (model.backend, model.served_as) in resting])

    def _limited(self, resting: frozenset[int], now: float) -> tuple[float | None, ...]:
        """By model; looked at once for each backend, of which there are fewer, and for each model that rests."""
        limited = {name: service.limited_for_s(now) for name, service in self._services.items()}
        by_model = [limited.get(model.backend) for model in self._models]
        for at in resting:
            model = self._models[at]
            by_model[at] = self._services[model.backend].limited_for_s(now, model.served_as)
        return tuple(by_model)

    def _rounds(self, replicas: Sequence[Replica], now: float) -> float | None:
        """Requests that wait before a new one, over those served at a time; None where the workers do not say.

        To be multiplied by the duration of an answer: in a queue, that many rounds pass before one's turn.
        """
        fresh = [r for r in replicas if now - r.scraped_at <= SCRAPE_IS_FRESH_S]
        scraped = [r for r in fresh if self._is_usable(r, now, True)]
        if not scraped:
            return None
        return min(r.queued(now) / max(1, r.running) for r in scraped)


def _without(resting: frozenset[int], marks: tuple[bool, ...]) -> tuple[bool, ...]:
    """The same of each model that does not rest; false for the others."""
    return tuple([mark and at not in resting for at, mark in enumerate(marks)]) if resting else marks
