"""How often callers may say what they think of answers: a key that floods the journal with that helps nobody."""

from __future__ import annotations

import math
from collections import OrderedDict

from app.domain.clock import Clock
from app.errors import RateLimited
from app.store.limits.limits import Bucket

PER_MINUTE = 60.0
# Who was not heard for longest is forgotten, and begins anew.
MOST_KEYS = 10_000


class Ratings:
    """A bucket for each key."""

    def __init__(self, clock: Clock, per_minute: float = PER_MINUTE) -> None:
        self._clock, self._per_minute = clock, per_minute
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, key_id: str) -> None:
        """
        Raises:
            RateLimited: this key has said enough for now.
        """
        bucket = self._buckets.pop(key_id, None) or Bucket(self._per_minute, self._clock)
        self._buckets[key_id] = bucket
        if len(self._buckets) > MOST_KEYS:
            self._buckets.popitem(last=False)
        if wait_s := bucket.wait_s(1.0):
            raise RateLimited(
                f"feedback is taken {self._per_minute:g} times a minute for each key", retry_after_s=math.ceil(wait_s)
            )
        bucket.take(1.0)
