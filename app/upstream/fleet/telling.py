"""What the metrics say of replicas, when somebody reads them."""

from __future__ import annotations

from app.telemetry.kept_metrics import KeptMetrics, ReplicaState
from app.upstream.fleet.replicas import Replicas


def publish(replicas: Replicas, metrics: KeptMetrics) -> None:
    """Say how each replica is now."""
    now = replicas.clock()
    metrics.replicas(
        ReplicaState(
            backend=replica.backend.name,
            replica=replica.name,
            up=replica.ejected_until is None and not replica.is_set_aside,
            in_flight=replica.in_flight,
            waiting=replica.queued(now),
            times_slower=replica.drag,
        )
        for replica in replicas.all
    )
