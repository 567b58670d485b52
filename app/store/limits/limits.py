"""How much one key, and all keys together, may ask for at a time.

How it works: a request takes a `Slot` before any work and gives it back when its answer is closed. Concurrency is
exact. Requests and tokens per minute are token buckets that hold one minute's worth and refill evenly; tokens are taken
as estimated and settled with what was used, so a bucket may go below zero and then waits. Nothing queues: a caller that
is over a limit hears so at once, with the seconds to wait. A request whose body is refused counts as one of its minute,
because somebody had to read it, but takes no place and no tokens.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from app.domain.clock import Clock
from app.errors import RateLimited

SECONDS_PER_MINUTE = 60.0


class Allowance(Protocol):
    """What a key may use; None is no limit."""

    @property
    def id(self) -> str: ...
    @property
    def requests_per_minute(self) -> float | None: ...
    @property
    def tokens_per_minute(self) -> float | None: ...
    @property
    def concurrency(self) -> int | None: ...


class Slot(Protocol):
    """A place taken by one request."""

    def release(self, used_tokens: int) -> None:
        """Give it back, once, and settle the tokens taken at the start with those that were used."""

    def headers(self) -> dict[str, str]:
        """What the key has left, as OpenAI tells it: `x-ratelimit-*`."""
        ...


class Limits(Protocol):
    """Takes places for requests; an implementation that is shared between processes may wait for its store."""

    async def acquire(self, allowance: Allowance, tokens: int) -> Slot:
        """Take a place for a request that is expected to use `tokens`.

        Raises:
            RateLimited: the key is over one of its limits.
        """
        ...

    def look(self, allowance: Allowance) -> None:
        """Nothing, where a request may be let in as far as this process knows; nothing is taken and nobody waits.

        Raises:
            RateLimited: the key is over one of its limits, whatever the request is.
        """
        ...

    def count(self, allowance: Allowance) -> None:
        """One request of the key's minute is used, by one that got no place. Nobody waits."""

    def fullness(self) -> float:
        """The share of this gateway's places that are taken; 1 is all of them."""
        ...

    def adopt(self, max_in_flight: int, allowances: Iterable[Allowance]) -> None:
        """Go on with other limits: what keys have used and hold is kept, and forgotten of those that are gone."""


class Bucket:
    """Holds at most a minute's worth, refills evenly, and may be in debt."""

    def __init__(self, per_minute: float, clock: Clock) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._level, self._filled_at = per_minute, clock()
        self._told = f"{per_minute:.10g}"

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` can be taken; 0 when it can be now. More than the bucket holds counts as all of it."""
        self._fill()
        missing = min(amount, self._per_minute) - self._level
        # The level is a sum of many floats: a ten-thousandth of a unit is not worth a wait.
        return missing / self._per_minute * SECONDS_PER_MINUTE if missing > 1e-4 else 0.0

    def take(self, amount: float) -> None:
        """Take `amount`, or give back when negative; never fuller than a minute's worth."""
        self._level = min(self._per_minute, self._level - amount)

    @classmethod
    def restored(cls, per_minute: float, clock: Clock, level: float, filled_at: float) -> Bucket:
        """A bucket as it was kept elsewhere."""
        bucket = cls(per_minute, clock)
        bucket._level, bucket._filled_at = level, filled_at
        return bucket

    @property
    def kept(self) -> tuple[float, float, float]:
        """Its size, its level, and when that was so."""
        return self._per_minute, self._level, self._filled_at

    def rerated(self, per_minute: float) -> Bucket:
        """A bucket of another size that is as full as this one; a debt stays as it is."""
        self._fill()
        bucket = Bucket(per_minute, self._clock)
        bucket._level = self._level if self._level < 0 else self._level / self._per_minute * per_minute
        return bucket

    def headers(self, unit: str) -> dict[str, str]:
        """What is left, and in how many seconds nothing will be missing."""
        self._fill()
        missing_s = math.ceil((self._per_minute - self._level) / self._per_minute * SECONDS_PER_MINUTE)
        return {
            f"x-ratelimit-limit-{unit}": self._told,
            f"x-ratelimit-remaining-{unit}": str(max(0, int(self._level))),
            f"x-ratelimit-reset-{unit}": f"{missing_s}s",
        }

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(
            self._per_minute, self._level + (now - self._filled_at) * self._per_minute / SECONDS_PER_MINUTE
        )
        self._filled_at = now


@dataclass(slots=True)
class KeyState:
    """What one key has left, and how many requests it has in flight."""

    requests: Bucket | None
    tokens: Bucket | None
    in_flight: int = 0

    def take(self, tokens: int) -> None:
        self.in_flight += 1
        self.count()
        if self.tokens:
            self.tokens.take(tokens)

    def count(self) -> None:
        """One request more, which takes no place."""
        if self.requests:
            self.requests.take(1)

    def headers(self) -> dict[str, str]:
        headers = self.requests.headers("requests") if self.requests else {}
        return headers | self.tokens.headers("tokens") if self.tokens else headers


@dataclass(slots=True)
class _MemorySlot:
    limits: MemoryLimits
    state: KeyState
    taken_tokens: int
    held: bool = True

    def release(self, used_tokens: int) -> None:
        if not self.held:
            return
        self.held = False
        self.limits.in_flight -= 1
        self.state.in_flight -= 1
        if self.state.tokens:
            self.state.tokens.take(used_tokens - self.taken_tokens)

    def headers(self) -> dict[str, str]:
        return self.state.headers()


class MemoryLimits:
    """Limits of one process. State exists for keys that asked, and keys are the operator's, so it is bounded."""

    def __init__(self, max_in_flight: int, clock: Clock) -> None:
        self._max_in_flight, self._clock = max_in_flight, clock
        self._states: dict[str, KeyState] = {}
        self.in_flight = 0

    def fullness(self) -> float:
        return self.in_flight / self._max_in_flight

    def adopt(self, max_in_flight: int, allowances: Iterable[Allowance]) -> None:
        self._max_in_flight = max_in_flight
        kept = {one.id: one for one in allowances}
        for key_id, state in tuple(self._states.items()):
            if key_id in kept:
                state.requests = self._adopted(state.requests, kept[key_id].requests_per_minute)
                state.tokens = self._adopted(state.tokens, kept[key_id].tokens_per_minute)
            elif not state.in_flight:
                del self._states[key_id]

    def _adopted(self, bucket: Bucket | None, per_minute: float | None) -> Bucket | None:
        if per_minute is None:
            return None
        return bucket.rerated(per_minute) if bucket else Bucket(per_minute, self._clock)

    async def acquire(self, allowance: Allowance, tokens: int) -> Slot:
        state = self._states.get(allowance.id) or self._new_state(allowance)
        check(allowance, state, tokens)
        self.in_flight += 1
        state.take(tokens)
        return _MemorySlot(self, state, tokens)

    def count(self, allowance: Allowance) -> None:
        state = self._states.get(allowance.id) or self._new_state(allowance)
        state.count()

    def look(self, allowance: Allowance) -> None:
        if state := self._states.get(allowance.id):
            check(allowance, state, 0)

    def _new_state(self, allowance: Allowance) -> KeyState:
        requests, tokens = allowance.requests_per_minute, allowance.tokens_per_minute
        state = KeyState(
            requests=None if requests is None else Bucket(requests, self._clock),
            tokens=None if tokens is None else Bucket(tokens, self._clock),
        )
        return self._states.setdefault(allowance.id, state)


def check(allowance: Allowance, state: KeyState, tokens: int) -> None:
    """
    Raises:
        RateLimited: the key is over one of its limits.
    """
    if allowance.concurrency is not None and state.in_flight >= allowance.concurrency:
        raise too_many(allowance, state)
    if state.requests and (wait_s := state.requests.wait_s(1)):
        raise over(allowance, "requests", wait_s, state)
    if state.tokens and (wait_s := state.tokens.wait_s(tokens)):
        raise over(allowance, "tokens", wait_s, state)


def too_many(allowance: Allowance, state: KeyState) -> RateLimited:
    """The refusal of one more request in flight."""
    return RateLimited(
        f"this key may have {allowance.concurrency} requests in flight; wait until one of them is answered",
        retry_after_s=1,
        left=state.headers(),
    )


def over(allowance: Allowance, unit: Literal["requests", "tokens"], wait_s: float, state: KeyState) -> RateLimited:
    """The refusal of more a minute, with the seconds until there is enough."""
    limit = allowance.requests_per_minute if unit == "requests" else allowance.tokens_per_minute
    wait = math.ceil(wait_s)
    message = f"this key may use {limit:.10g} {unit} per minute; try again in {wait} s"
    return RateLimited(message, retry_after_s=wait, left=state.headers())


# Standard streams, the event loop, listeners, the log, an artifact's files.
OWN_FILES = 32


def max_connections(open_files: int | None = None) -> int:
    """How many connections callers may have: less than half of the open files that the system allows this process.

    Each of them may need one more to a backend. A tenth is left for health and admin, and for those who are refused.
    """
    if open_files is None:
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (open_files * 9 // 10 - OWN_FILES) // 2)
