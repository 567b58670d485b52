"""Which of several usable replicas gets a request: the cheaper one of two, or the one that knows the session.

How it works: of two replicas drawn at random the cheaper one is taken. That is nearly as good as the cheapest of all,
and keeps many gateways, each with old news, from sending everything to the same one. Requests of one session go to one
replica, whose prefix cache holds their beginning, found by rendezvous hashing: no table is kept, a replica that goes
moves only its own sessions, and all gateways agree. A session moves on while its replica is clearly busier than others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from app.upstream.replica import Replica

# A prompt that is cached saves about as much as waiting behind this many requests costs.
MORE_LOAD, LOAD_FACTOR = 4.0, 1.25
_MASK = (1 << 64) - 1


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
    prices = [replica.price(now) for replica in replicas]
    bound = LOAD_FACTOR * min(prices) + MORE_LOAD
    allowed = [replica for replica, price in zip(replicas, prices, strict=True) if price <= bound]
    return max(allowed, key=lambda replica: _mixed(seed ^ replica.place))


def fingerprint(text: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def _mixed(value: int) -> int:
    """The finaliser of splitmix64: each bit of `value` decides about each bit."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
