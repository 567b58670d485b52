"""Which replicas stand out among those of their backend: by how many requests fail, and by how slowly answers begin."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.upstream.replica import Replica

# Fewer requests than this make a share by chance; a fifth of them failing is what retries can still hide.
MIN_REQUESTS, SHARE_TO_EJECT, TIMES_PEERS = 20, 0.25, 2.0
# Prompts differ, so a factor below this says little, and so does one over times that nobody notices.
DRAG_FROM, MIN_BEGINNINGS, NOTICED_S = 3.0, 10, 0.02


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


def note_slow_ones(replicas: Sequence[Replica]) -> None:
    """Set the drag of those that are much slower than the middle one that answered enough; of two, than the other."""
    known = sorted((r for r in replicas if r.beginnings >= MIN_BEGINNINGS), key=lambda r: r.log_beginning)
    if len(known) < 2:
        return
    usual_s = math.exp(known[(len(known) - 1) // 2].log_beginning)
    for replica in known:
        seconds = math.exp(replica.log_beginning)
        stands_out = seconds >= DRAG_FROM * usual_s and seconds - usual_s >= NOTICED_S
        replica.drag = seconds / usual_s if stands_out else 1.0
