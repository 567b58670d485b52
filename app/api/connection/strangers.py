"""Addresses that keep calling without a valid key: after twenty in a minute they wait for one.

Behind a proxy all callers have one address. So a valid key that nobody can find by trying is let in at any time, and
another one where it has called from there before. Who tries secrets that could be found learns nothing from it, not
even whether one is right.
"""

from __future__ import annotations

import math
import time
from ipaddress import IPv6Address, ip_address

from app.domain.clock import Clock
from app.errors import RateLimited

FAILURES, WITHIN_S, WAITS_S = 20, 60.0, 60.0
MOST_ADDRESSES = 100_000
# Generated keys are longer, and have 256 random bits. A static secret of this length has 128 where it is random, even
# in hexadecimal digits.
LONG_CHARS = 32


class Strangers:
    """What is remembered of addresses; the oldest is forgotten when there are too many."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}
        """How many, and when the count began; of those that wait, when that ends."""
        self._known: dict[tuple[str, str], None] = {}
        """Addresses and ids of keys that were let in."""

    def let_in(self, address: str, key_id: str | None, secret: str = "") -> None:
        """Note that a call came with this key, None being no valid one, and this secret.

        Raises:
            RateLimited: it has to wait, whatever its key is.
        """
        if key_id is not None and len(secret) >= LONG_CHARS:
            return
        caller = (address, key_id or "")
        if key_id is not None and caller in self._known:
            return
        place = _place(address)
        count, since = self._failures.get(place, (0, 0.0))
        now = self._clock()
        if count >= FAILURES and now < since:
            wait_s = math.ceil(since - now)
            raise RateLimited(f"too many calls without a valid key; wait {wait_s} s", retry_after_s=wait_s)
        if key_id is not None:
            self._welcome(caller)
            return
        self._failed(place, count, since, now)

    def _failed(self, place: str, count: int, since: float, now: float) -> None:
        if count >= FAILURES or now - since > WITHIN_S:
            count, since = 0, now
        count += 1
        self._failures.pop(place, None)
        self._failures[place] = count, now + WAITS_S if count == FAILURES else since
        if len(self._failures) > MOST_ADDRESSES:
            del self._failures[next(iter(self._failures))]

    def _welcome(self, caller: tuple[str, str]) -> None:
        self._known[caller] = None
        if len(self._known) > MOST_ADDRESSES:
            del self._known[next(iter(self._known))]


def _place(address: str) -> str:
    """What counts as one: of IPv6 the network, which is what one subscriber has."""
    if ":" not in address:
        return address
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    return str(found.ipv4_mapped) if found.ipv4_mapped else found.packed[:8].hex()
