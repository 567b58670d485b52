"""Which replicas stand out among those of their backend: by how many requests fail, and by how slowly answers begin."""

from __future__ import annotations

from collections.abc import Sequence

from app.upstream.fleet.replica import Replica

# Fewer requests than this make a share by chance; a fifth of them failing is what retries can still hide.
MIN_REQUESTS, SHARE_TO_EJECT, TIMES_PEERS = 20, 0.25, 2.0
# Prompts and answers differ in length, so a factor below this says little, and so does one over times that nobody
# notices.
DRAG_FROM, MIN_BEGINNINGS, NOTICED_S = 5.0, 10, 0.02


def fails_too_often(replica: Replica, replicas: Sequence[Replica], now: float) -> bool:
    """Whether a quarter of its requests failed of late, and twice the share of the others that are in."""
    failures, requests = replica.outcomes.counts(now)
    if requests < MIN_REQUESTS or failures < SHARE_TO_EJECT * requests:
        return False
    peers = [peer for peer in replicas if peer is not replica and peer.ejected_until is None]
    counts = [peer.outcomes.counts(now) for peer in peers]
    of_peers = sum(count[1] for count in counts)
    if of_peers < MIN_REQUESTS:
        return True
    return failures / requests >= TIMES_PEERS * sum(count[0] for count in counts) / of_peers


def note_slow_ones(replicas: Sequence[Replica]) -> list[Replica]:
    """Set the drag of those that are much slower than the middle one, at streams or at plain answers.

    Returns those that were not when this was noted last.
    """
    slow_before = {replica for replica in replicas if replica.drag > 1.0}
    for replica in replicas:
        replica.drag = 1.0
    for stream in (False, True):
        known = [replica for replica in replicas if replica.beginnings[stream].count >= MIN_BEGINNINGS]
        if len(known) > 1:
            _drag([(replica, replica.beginnings[stream].usual_s) for replica in known])
    return [replica for replica in replicas if replica.drag > 1.0 and replica not in slow_before]


def _drag(known: Sequence[tuple[Replica, float]]) -> None:
    """Of two, the faster one counts as the middle one."""
    usual_s = sorted(seconds for _, seconds in known)[(len(known) - 1) // 2]
    for replica, seconds in known:
        if seconds >= DRAG_FROM * usual_s and seconds - usual_s >= NOTICED_S:
            replica.drag = max(replica.drag, seconds / usual_s)
