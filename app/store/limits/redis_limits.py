"""Limits that all gateways on one Redis share.

How it works: each process of a gateway is a holder. A request of a key that has limits is one call of a script, which
takes from both buckets and counts the place. What was used, and that the place is free, is told when the answer is
over; nobody waits for that. A holder tells each second that it is there; what one held that does not is free again.

When Redis fails once, this process is alone: it decides by itself, by its share of each limit, which is the limit over
the holders that were there last (`app.store.limits.holders`), from the level that it knew. A start without Redis is no
other case. It asks Redis each second whether it may come back, and then tells what was used meanwhile and how many
places it holds. It does so under another name, so that what it asked before, which Redis may have done or not, or may
do later, counts for nobody.

A request that gets no place is told to Redis like what was used; what Redis answers is what this process knows of the
key's minute, and asks before it reads a body. Others only use more of it, so who has nothing left by that has nothing.

How full this gateway is has nothing to do with other gateways: that is counted where it was without Redis.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.domain.clock import Clock
from app.errors import RateLimited
from app.store.limits.holders import Holders
from app.store.limits.limits import Allowance, Bucket, KeyState, Limits, Slot, check, over, too_many
from app.store.limits.scripts import BEAT, CONCURRENCY, HOLDERS, OK, REQUESTS, TAKE
from app.store.redis_client import RedisClient, StoreDown

BEAT_EVERY_S = 1.0
# Where no place has to be free at once, what was used is told together with what came after it.
TELL_WITHIN_S = 0.005
# Redis tells what is left of requests down to this.
TOLD_TO = 0.001


@dataclass(frozen=True, slots=True)
class _Share:
    """What a key may use, or this process's part of it."""

    id: str
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None

    @classmethod
    def of(cls, whole: Allowance, holders: int) -> _Share:
        requests, tokens, concurrency = whole.requests_per_minute, whole.tokens_per_minute, whole.concurrency
        return cls(
            whole.id,
            None if requests is None else requests / holders,
            None if tokens is None else tokens / holders,
            None if concurrency is None else max(1, concurrency // holders),
        )


ANYBODY = _Share("")


@dataclass(slots=True, eq=False)
class _Key:
    """What this process knows of a key."""

    names: tuple[str, str]
    """What the script is about."""
    limits: tuple[float, float, int]
    """Those it had when it was asked for last; 0 for none."""
    state: KeyState
    """What was left when Redis told last, or of our share; and the requests that this process has in flight."""
    given_back: int = 0
    used_requests: float = 0.0
    used_tokens: float = 0.0
    """What Redis has not been told yet."""

    @property
    def has_news(self) -> bool:
        return bool(self.given_back or self.used_requests or self.used_tokens)


@dataclass(slots=True, eq=False)
class _RedisSlot:
    limits: RedisLimits
    key: _Key
    place: Slot
    taken_tokens: int
    held: bool = True

    def release(self, used_tokens: int) -> None:
        if self.held:
            self.held = False
            self.place.release(0)
            self.limits.give_back(self.key, used_tokens - self.taken_tokens)

    def headers(self) -> dict[str, str]:
        return self.key.state.headers()


class RedisLimits:
    """Limits as one process of many sees them; `start` it before it is asked."""

    def __init__(self, redis: RedisClient, places: Limits, clock: Clock, holders: Holders) -> None:
        """`places` counts what this gateway has in flight, and serves keys without limits."""
        self._redis, self._places, self._clock, self._holders = redis, places, clock, holders
        self._keys: dict[str, _Key] = {}
        self._former, self._holder = "", secrets.token_hex(8)
        self._is_shared = False
        self._asking = 0
        """Answers that are still to come."""
        self._news: set[_Key] = set()
        self._telling: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether Redis decides; otherwise this process does alone."""
        return self._is_shared

    async def start(self) -> None:
        """Be one of the holders, at once if Redis is there."""
        await self.beat()
        self._beating = asyncio.create_task(self._keep_beating(), name="limits")

    async def aclose(self) -> None:
        """Leave; what is still held is free for others."""
        if self._beating:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._is_shared:
            self._tell()
            with suppress(StoreDown):
                await self._redis.ask("ZREM", HOLDERS, self._holder)

    def fullness(self) -> float:
        return self._places.fullness()

    def adopt(self, max_in_flight: int, allowances: Iterable[Allowance]) -> None:
        """Redis follows the limits by itself when it is next asked; here the keys that are gone go."""
        allowances = tuple(allowances)
        self._places.adopt(max_in_flight, allowances)
        kept = {one.id for one in allowances}
        for key_id, key in tuple(self._keys.items()):
            if key_id not in kept and not key.state.in_flight and not key.has_news:
                del self._keys[key_id]

    async def acquire(self, allowance: Allowance, tokens: int) -> Slot:
        limits = (allowance.requests_per_minute, allowance.tokens_per_minute, allowance.concurrency)
        if limits == (None, None, None):
            return await self._places.acquire(allowance, tokens)
        place = await self._places.acquire(ANYBODY, 0)
        key = self._known(allowance)
        try:
            if not self._is_shared:
                return self._take_alone(key, allowance, tokens, place)
            return await self._taken(key, allowance, tokens, place)
        except RateLimited:
            place.release(0)
            raise

    def count(self, allowance: Allowance) -> None:
        if allowance.requests_per_minute is None:
            return
        key = self._known(allowance)
        if not self._is_shared:
            self._size(key, _Share.of(allowance, self._holders.number))
        key.state.count()
        key.used_requests += 1
        if self._is_shared:
            self._tell_soon(key)

    def look(self, allowance: Allowance) -> None:
        """Only what this process itself has in flight, and what it has heard of the requests of a minute."""
        key = self._keys.get(allowance.id)
        if key is None:
            return
        if allowance.concurrency is not None and key.state.in_flight >= allowance.concurrency:
            raise too_many(allowance, key.state)
        requests = key.state.requests
        # What is left of our share, or of another limit, says nothing of what Redis has.
        if requests and requests.kept[0] == allowance.requests_per_minute and (wait_s := requests.wait_s(1 - TOLD_TO)):
            raise over(allowance, "requests", wait_s, key.state)

    def give_back(self, key: _Key, tokens: int) -> None:
        """A request is over that used so many tokens more than it had taken."""
        key.state.in_flight -= 1
        key.used_tokens += tokens if key.limits[1] else 0
        if not self._is_shared:
            if key.state.tokens:
                key.state.tokens.take(tokens)
            return
        key.given_back += 1
        if key.limits[2]:
            self._news.add(key)
            self._tell()
        else:
            self._tell_soon(key)

    def _tell_soon(self, key: _Key) -> None:
        self._news.add(key)
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TELL_WITHIN_S, self._tell)

    def _known(self, allowance: Allowance) -> _Key:
        key = self._keys.get(allowance.id)
        if key is None:
            names = (f"thalamus:limits:{allowance.id}", HOLDERS)
            key = self._keys[allowance.id] = _Key(names, (0, 0, 0), KeyState(None, None))
        requests, tokens = allowance.requests_per_minute, allowance.tokens_per_minute
        key.limits = (requests or 0, tokens or 0, allowance.concurrency or 0)
        return key

    # While Redis decides.

    async def _taken(self, key: _Key, allowance: Allowance, tokens: int, place: Slot) -> Slot:
        asked: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._asking += 1
        self._call(key, 1, tokens, partial(self._answered, key, allowance, tokens, place, asked))
        try:
            return await asked
        except asyncio.CancelledError:
            # The caller has left. Redis may have said yes already; if it has not yet, `_answered` gives it back.
            if asked.done() and not asked.cancelled() and asked.exception() is None:
                asked.result().release(0)
            elif asked.done() and not asked.cancelled():
                place.release(0)
            raise

    def _answered(
        self, key: _Key, allowance: Allowance, tokens: int, place: Slot, asked: asyncio.Future[Slot], answer: Any
    ) -> None:
        """Redis has decided, or will not."""
        self._asking -= 1
        try:
            if isinstance(answer, list):
                slot = self._read(key, allowance, tokens, place, answer)
            else:
                slot = self._take_alone(key, allowance, tokens, place)
        except RateLimited as exc:
            place.release(0) if asked.done() else asked.set_exception(exc)
        else:
            slot.release(0) if asked.done() else asked.set_result(slot)

    def _read(self, key: _Key, allowance: Allowance, tokens: int, place: Slot, answer: list[int]) -> Slot:
        verdict, wait_ms, *_ = answer
        self._learn(key, answer)
        if verdict == OK:
            key.state.in_flight += 1
            return _RedisSlot(self, key, place, tokens)
        if verdict == CONCURRENCY:
            raise too_many(allowance, key.state)
        raise over(allowance, "requests" if verdict == REQUESTS else "tokens", wait_ms / 1000, key.state)

    def _learn(self, key: _Key, answer: list[int]) -> None:
        """What is left, but for the requests that Redis has not been told yet."""
        now, (requests, tokens, _) = self._clock(), key.limits
        left = answer[2] / 1000 - key.used_requests
        key.state.requests = Bucket.restored(requests, self._clock, left, now) if requests else None
        key.state.tokens = Bucket.restored(tokens, self._clock, answer[3] / 1000, now) if tokens else None

    def _tell(self) -> None:
        """What was used, of the keys that nobody has asked for since."""
        if self._telling:
            self._telling.cancel()
            self._telling = None
        news, self._news = self._news, set()
        for key in news:
            if key.has_news:
                self._call(key, 0, 0, partial(self._told, key) if key.used_requests else lambda _: None)

    def _told(self, key: _Key, answer: Any) -> None:
        if isinstance(answer, list):
            self._learn(key, answer)

    def _call(self, key: _Key, wanted: int, tokens: int, heard: Any, held: int = 0) -> None:
        told = (key.given_back - held, key.used_requests, key.used_tokens)
        key.given_back, key.used_requests, key.used_tokens = 0, 0.0, 0.0
        heard = partial(self._heard, key, told, heard)
        self._redis.start(heard, TAKE, key.names, self._holder, *key.limits, wanted, tokens, *told)

    def _heard(self, key: _Key, told: tuple[int, float, float], heard: Any, answer: Any) -> None:
        if not isinstance(answer, list):
            # Redis may have heard of it or not: what takes is told again, what gives is not.
            key.used_requests += max(0.0, told[1])
            key.used_tokens += max(0.0, told[2])
            self._be_alone()
        heard(answer)

    # While this process decides.

    def _take_alone(self, key: _Key, allowance: Allowance, tokens: int, place: Slot) -> Slot:
        share, state = _Share.of(allowance, self._holders.number), key.state
        self._size(key, share)
        check(share, state, tokens)
        state.take(tokens)
        key.used_requests += 1 if state.requests else 0
        key.used_tokens += tokens if state.tokens else 0
        return _RedisSlot(self, key, place, tokens)

    def _size(self, key: _Key, share: _Share) -> None:
        key.state.requests = self._sized(key.state.requests, share.requests_per_minute)
        key.state.tokens = self._sized(key.state.tokens, share.tokens_per_minute)

    def _sized(self, bucket: Bucket | None, per_minute: float | None) -> Bucket | None:
        if per_minute is None or bucket is None:
            return None if per_minute is None else Bucket(per_minute, self._clock)
        return bucket if bucket.kept[0] == per_minute else bucket.rerated(per_minute)

    def _be_alone(self) -> None:
        if self._is_shared:
            self._is_shared = False
            self._former, self._holder = self._holder, secrets.token_hex(8)
            self._news.clear()
            for key in self._keys.values():
                key.given_back = 0

    def _come_back(self) -> None:
        """Tell all that Redis does not know. It is told in order, so whoever asks after this hears the truth."""
        self._is_shared = True
        for key in self._keys.values():
            if key.state.in_flight or key.has_news:
                self._call(key, 0, 0, lambda _: None, held=key.state.in_flight)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY_S)
            await self.beat()

    async def beat(self) -> None:
        """Tell that we are there. Without an answer we are alone from now on, with one no longer."""
        try:
            is_new, holders = await self._redis.run(BEAT, [HOLDERS], self._holder, self._former)
        except StoreDown:
            self._be_alone()
            return
        self._holders.hear(holders)
        if is_new and self._is_shared:
            # Redis has lost what it knew, or had taken us for gone.
            self._be_alone()
            await self.beat()
            return
        # What was asked under the name of before must be answered first, or it would not be counted.
        if not self._is_shared and not self._asking:
            self._come_back()
