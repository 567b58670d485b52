"""One backend as it is now: its replicas, and which of its models wait for a rate limit of their own.

How it works: services that are paid for limit each model on its own, so one that is over its limit rests, and the
others go on. A service that refuses a second one while the first rests limits the account, and then all of it rests,
which `Rests` sees to. A model goes by its backend's name for it: two of the catalogue may be one there, with one
limit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping

from app.domain.models import Backend, Catalog
from app.upstream.fleet.choosing import fingerprint
from app.upstream.fleet.replica import EJECTED_FOR_S, Replica


class Service:
    """The replicas of one backend and the limits of its models."""

    __slots__ = ("_models", "compared_at", "limits", "replicas")

    def __init__(self, backend: Backend, models: Collection[str], before: Service | None = None) -> None:
        """`models` by the backend's names. What is known of a replica `before` at the same URL is kept, and with it
        what is known of the models."""
        known = {replica.url: replica for replica in before.replicas} if before else {}
        urls = [url.rstrip("/") for url in backend.urls]
        self.replicas: tuple[Replica, ...] = tuple(
            [known.get(url) or Replica(backend, url, fingerprint(url)) for url in urls]
        )
        for replica in self.replicas:
            replica.backend = backend
        self._models = models
        self.limits: dict[str, float] = before.limits if before and not known.keys().isdisjoint(urls) else {}
        """When a model may be asked again that was over its limit; empty before any was."""
        self.compared_at = -math.inf
        """When its replicas were last compared."""

    def limit(self, model: str, until: float) -> None:
        """Let a model rest, where it is one of the catalogue's."""
        if model in self._models:
            self.limits[model] = max(until, self.limits.get(model, until))

    def resting(self, now: float) -> list[str]:
        """Its models that are over limits of their own."""
        return [model for model, until in self.limits.items() if until > now]

    def left_s(self, model: str, now: float) -> float:
        """Seconds for which a model's own limit keeps it from being asked; 0 where it does not."""
        return max(0.0, self.limits.get(model, now) - now)

    def refused_another(self, model: str, since: float) -> bool:
        """Whether at that time, or later, another model was over its limit."""
        return any(until > since for other, until in self.limits.items() if other != model)

    def limited_for_s(self, now: float, model: str | None = None) -> float | None:
        """Seconds for which only rate limits keep it from being asked, for this model; None where that is not so."""
        up = [replica for replica in self.replicas if replica.ejected_until is None and not replica.is_set_aside]
        left_s = self.left_s(model, now) if model else 0.0
        limited = up and (left_s or all(replica.limited_until > now for replica in up))
        return max(left_s, min(replica.rests_until for replica in up) - now) if limited else None

    def back_in_s(self, model: str, now: float) -> float:
        """Seconds until one of its replicas may be tried for this model; 0 or less is now."""
        waits = [
            EJECTED_FOR_S
            if replica.is_set_aside
            else max(replica.rests_until - now, min((replica.ejected_until or -math.inf) - now, EJECTED_FOR_S))
            for replica in self.replicas
        ]
        return max(self.left_s(model, now), min(waits))


def services_of(catalog: Catalog, before: Mapping[str, Service]) -> dict[str, Service]:
    """The backends of a catalogue by name, which keep what is known of those `before`."""
    models: dict[str, set[str]] = defaultdict(set)
    for model in catalog.models:
        models[model.backend].add(model.served_as)
    return {one.name: Service(one, models[one.name], before.get(one.name)) for one in catalog.backends}
