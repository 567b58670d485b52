"""Which model answered a session last, and what it has read: in the memory of one gateway, or in Redis for all.

How it works: what is known of a session is written when an answer to it begins, and forgotten after an hour without
one. Losing it costs a cache and nothing else, so nobody waits for a write, and a Redis that is down leaves each gateway
with what it has seen itself. Processes of one gateway tell each other what they remember.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from app.domain.clock import Clock
from app.domain.request import Request
from app.domain.sessions import Session, name_of
from app.store.redis_client import RedisClient, Script, StoreDown

# Longer than any cache of prompts lasts, so that a tool which waits for somebody's consent still finds its model.
KEPT_S = 3600
# Half a kilobyte each.
MOST_SESSIONS = 32_768
PREFIX = "thalamus:session:"

# KEYS[1]: the session. Returns what is kept, and the milliseconds for which it still will be.
FIND = Script("return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}", writes=False)

Remembered = Mapping[str, Any]
"""A session and its name, fit for JSON."""


class Sessions(Protocol):
    """Remembers sessions for a while, and may forget any of them at any time."""

    async def find(self, request: Request) -> Session | None:
        """The session of a request that has one, if it is known."""
        ...

    def remember(self, request: Request, model: str) -> None:
        """This model has begun to answer a request that has a session."""
        ...


class MemorySessions:
    """Those of one process, who was not heard of for longest going first when there are too many."""

    def __init__(
        self,
        clock: Clock = time.monotonic,
        tell: Callable[[Remembered], None] = lambda _: None,
        most: int = MOST_SESSIONS,
    ) -> None:
        """`tell` hears of everything that other processes of this gateway should `hear` of."""
        self._clock, self._tell, self._most = clock, tell, most
        self._known: OrderedDict[str, tuple[Session, float]] = OrderedDict()

    async def find(self, request: Request) -> Session | None:
        return self.known(name_of(request))

    def known(self, name: str) -> Session | None:
        """As it is here and now."""
        session, seen_at = self._known.get(name, (None, 0.0))
        if session is None:
            return None
        age_s = self._clock() - seen_at
        if age_s > KEPT_S:
            del self._known[name]
            return None
        return Session(session.model, session.messages, session.read, session.input_tokens, age_s)

    def remember(self, request: Request, model: str) -> None:
        name, session = name_of(request), Session.after(request, model)
        self.keep(name, session)
        self._tell({"name": name, "session": told(session)})

    def hear(self, remembered: Remembered) -> None:
        """Another process has begun an answer."""
        session = parsed(remembered["session"])
        if session is not None:
            self.keep(remembered["name"], session)

    def keep(self, name: str, session: Session) -> None:
        """Here, and tell nobody."""
        self._known[name] = (session, self._clock())
        self._known.move_to_end(name)
        if len(self._known) > self._most:
            self._known.popitem(last=False)


class RedisSessions:
    """Those of all gateways on one Redis."""

    def __init__(self, redis: RedisClient, clock: Clock = time.monotonic) -> None:
        self._redis, self._own = redis, MemorySessions(clock)
        self._writes: set[asyncio.Task[None]] = set()

    async def find(self, request: Request) -> Session | None:
        name = name_of(request)
        try:
            kept, left_ms = await self._redis.run(FIND, [PREFIX + name])
        except StoreDown:
            return self._own.known(name)
        return None if kept is None else parsed(_loaded(kept), age_s=max(0.0, KEPT_S - left_ms / 1000))

    def remember(self, request: Request, model: str) -> None:
        name, session = name_of(request), Session.after(request, model)
        self._own.keep(name, session)
        write = asyncio.create_task(self._write(PREFIX + name, json.dumps(told(session))), name="session")
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def aclose(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writes)

    async def _write(self, key: str, session: str) -> None:
        try:
            await self._redis.ask("SET", key, session, "EX", KEPT_S)
        except StoreDown:
            # Nobody misses it but a cache.
            return


def told(session: Session) -> Remembered:
    """Fit for JSON."""
    return {
        "model": session.model,
        "messages": session.messages,
        "read": session.read,
        "input_tokens": session.input_tokens,
    }


def parsed(value: object, age_s: float = 0.0) -> Session | None:
    """What `told` has told; None where it is anything else, as another version may have written."""
    if not isinstance(value, dict):
        return None
    match value:
        case {"model": str(model), "messages": int(messages), "read": str(read), "input_tokens": int(tokens)}:
            return Session(model, messages, read, tokens, age_s)
        case _:
            return None


def _loaded(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
