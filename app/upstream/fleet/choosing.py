"""Which of several usable replicas gets a request: the cheaper one of two, or the one that knows the session.

How it works: of two replicas drawn at random the cheaper one is taken. That is nearly as good as the cheapest of all,
and keeps many gateways, each with old news, from sending everything to the same one. Requests of one session go to one
replica, whose prefix cache holds their beginning, found by rendezvous hashing: no table is kept, a replica that goes
moves only its own sessions, and all gateways agree. A session moves on while its replica is clearly busier than others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from app.upstream.fleet.replica import Replica

# A prompt that is cached saves about as much as waiting behind this many requests costs.
MORE_LOAD, LOAD_FACTOR = 4.0, 1.25
# Multiplied by 2^64 over the golden ratio, every bit of a number decides about the highest bits of the product.
_ODD, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def cheaper_of_two(replicas: Sequence[Replica], now: float, chance: Callable[[], float]) -> Replica:
    """Of two or more; equal ones by chance."""
    count = len(replicas)
    first = int(chance() * count)
    second = (first + 1 + int(chance() * (count - 1))) % count
    one, other = replicas[first], replicas[second]
    return other if other.price(now) < one.price(now) else one


def home_of(session: str, replicas: Sequence[Replica], now: float) -> Replica:
    """The replica that a session prefers, among those that are not much busier than the least busy one."""
    seed = fingerprint(session)
    home = max(replicas, key=lambda replica: ((seed ^ replica.place) * _ODD) & _MASK)
    if home.price(now) <= LOAD_FACTOR + MORE_LOAD:  # nobody's price is below 1
        return home
    bound = LOAD_FACTOR * min(replica.price(now) for replica in replicas) + MORE_LOAD
    allowed = [replica for replica in replicas if replica.price(now) <= bound]
    return home if home in allowed else home_of(session, allowed, now)


def fingerprint(text: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")
