"""Metrics of what a gateway keeps and looks after: keys and their money, stores, replicas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from app.telemetry.names import OTHER, Known, Names
from app.telemetry.series import Declared

FEATURES = ("keys", "budgets", "journal", "limits", "sessions", "health")
"""What a store is needed for."""
PERIODS = ("day", "month")

_FEATURES, _PERIODS = Known(FEATURES), Known(PERIODS)


class ReplicaState(NamedTuple):
    """One replica, as it is when the metrics are read."""

    backend: str
    replica: str
    """Where it is, without scheme and version; from the catalogue."""
    up: bool
    in_flight: int
    waiting: int
    times_slower: float


class BudgetState(NamedTuple):
    """What a key may spend in a period, and what of it is left."""

    key: str
    period: str
    budget_usd: float
    left_usd: float


class KeptMetrics:
    """Most of it is read when the metrics are, and costs requests nothing."""

    def __init__(self, declared: Declared, names: Names) -> None:
        count, level = declared.count, declared.level
        self._names = names
        self._key_requests = count("key_requests", "Requests by key and how they ended.", ("key", "outcome"))
        self._key_cost_usd = count("key_cost_usd", "Realised cost in USD by key.", ("key",))
        by_budget = ("key", "period")
        self._budget_usd = level("key_budget_usd", "What a key may spend in its period.", by_budget, max)
        self._left_usd = level("key_budget_left_usd", "What of that is left.", by_budget, min)
        self._store_up = level("store_up", "Whether what a feature needs of the store can be had.", ("feature",), min)
        by_replica = ("backend", "replica")
        self._up = level("replica_up", "Whether a replica is in.", by_replica, min)
        self._in_flight = level("replica_in_flight", "Our requests on a replica.", by_replica)
        self._waiting = level("replica_waiting", "Requests that wait on a replica.", by_replica, max)
        self._slower = level("replica_times_slower", "How slow a replica is beside its peers.", by_replica, max)

    def know_keys(self, ids: Iterable[str]) -> None:
        """Have series for these keys, told from 0 on; those of keys that are gone go, so that there are never more."""
        gone = self._names.know_keys(ids)
        for series in (self._key_requests, self._key_cost_usd):
            for labels in [labels for labels in series.values if labels[0] in gone]:
                del series.values[labels]
        self._key_requests.expect(*((key, "ok") for key in self._names.keys))
        self._key_cost_usd.expect(*((key,) for key in self._names.keys))

    def ended(self, key: str, outcome: str) -> None:
        """A request of this key is over."""
        self._key_requests.values[self._names.keys[key], self._names.codes[outcome]] += 1.0

    def spent(self, key: str, cost_usd: float) -> None:
        """A key's request cost so much."""
        self._key_cost_usd.values[(self._names.keys[key],)] += cost_usd

    def budgets(self, states: Iterable[BudgetState]) -> None:
        """What keys have left; keys without a series of their own are left out."""
        known = [state for state in states if self._names.keys[state.key] is not OTHER]
        self._budget_usd.become({(one.key, _PERIODS[one.period]): one.budget_usd for one in known})
        self._left_usd.become({(one.key, _PERIODS[one.period]): one.left_usd for one in known})

    def stores(self, up: Mapping[str, bool]) -> None:
        """Whether the store answers, by feature."""
        for feature, is_up in up.items():
            self._store_up.set(float(is_up), _FEATURES[feature])

    def replicas(self, states: Iterable[ReplicaState]) -> None:
        """All replicas of now."""
        by_place = {(state.backend, state.replica): state for state in states}
        self._up.become({place: float(state.up) for place, state in by_place.items()})
        self._in_flight.become({place: float(state.in_flight) for place, state in by_place.items()})
        self._waiting.become({place: float(state.waiting) for place, state in by_place.items()})
        self._slower.become({place: state.times_slower for place, state in by_place.items()})
