"""What the router is told of all replicas: which models can be asked, and how long their callers would wait."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from app.domain.decision import Fleet
from app.domain.models import Model
from app.upstream.replica import SCRAPE_IS_FRESH_S, Replica
from app.upstream.speeds import Speeds

# It is taken anew at most this often, and when something changed; a replica is chosen by what is true at the moment.
FLEET_IS_FRESH_S = 0.05

Usable = Literal["yes", "last resort", "no"]
_AS: tuple[tuple[bool, Usable], ...] = ((False, "yes"), (True, "last resort"))


class FleetView:
    """One for each configuration. What most looks find unchanged is not built again."""

    def __init__(
        self,
        models: Sequence[Model],
        replicas: Mapping[str, Sequence[Replica]],
        speeds: Speeds,
        is_usable: Callable[[Replica, float, bool], bool],
        limited_for_s: Callable[[str], float | None],
    ) -> None:
        """`replicas` are those of each backend; `is_usable` says whether one may be tried at that time, if need be as a
        last resort, and `limited_for_s` for how long only its own rate limit keeps a backend from being asked."""
        self._models, self._replicas, self._speeds = models, replicas, speeds
        self._is_usable, self._limited_for_s = is_usable, limited_for_s
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
        usable = {name: self._usable_of(replicas, now) for name, replicas in self._replicas.items()}
        if usable != self._usable:
            self._usable = usable
            of_models = [usable.get(model.backend, "no") for model in self._models]
            self._available = tuple([each != "no" for each in of_models])
            last_resort = tuple([each == "last resort" for each in of_models])
            self._last_resort = last_resort if any(last_resort) else ()
        rounds = {name: self._rounds(replicas, now) for name, replicas in self._replicas.items()}
        seen = self._speeds.picture(rounds, now)
        return Fleet(
            self._available,
            seen.wait_s,
            seen.s_per_output_token,
            self._limited() if "no" in usable.values() else (),
            seen.template_tokens,
            self._last_resort,
            seen.ttft_s,
        )

    def _usable_of(self, replicas: Sequence[Replica], now: float) -> Usable:
        """Whether a backend is asked at all, and whether only where there is no other choice."""
        for last_resort, usable in _AS:
            if any(self._is_usable(replica, now, last_resort) for replica in replicas):
                return usable
        return "no"

    def _limited(self) -> tuple[float | None, ...]:
        """By model; looked at once for each backend, of which there are fewer."""
        limited = {name: self._limited_for_s(name) for name in self._replicas}
        return tuple([limited.get(model.backend) for model in self._models])

    def _rounds(self, replicas: Sequence[Replica], now: float) -> float | None:
        """Requests that wait before a new one, over those served at a time; None where the workers do not say.

        To be multiplied by the duration of an answer: in a queue, that many rounds pass before one's turn.
        """
        fresh = [r for r in replicas if now - r.scraped_at <= SCRAPE_IS_FRESH_S]
        scraped = [r for r in fresh if self._is_usable(r, now, True)]
        if not scraped:
            return None
        return min(r.queued(now) / max(1, r.running) for r in scraped)
