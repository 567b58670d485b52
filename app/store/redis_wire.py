"""One connection to Redis: commands go out as they come, and answers are matched to them by their order.

How it works: nobody ever takes an answer off the connection but the connection itself, so who stops waiting leaves
nothing behind that another one could read. Each command has its time. When the oldest one's is over, the connection is
given up with all that is on its way, because the order could not be trusted after that.

It speaks the protocol's second version, and leaves its syntax to hiredis.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, cast

from hiredis import ProtocolError, Reader, ReplyError, pack_command
from redis.asyncio import Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection

Command = tuple[Any, ...]
Heard = Callable[[Any], None]
"""Hears an answer; a `ReplyError` where Redis refused, a `StoreDown` where there will be none."""

# A timer that is so late was held up by this process, and what it waits for may be here and not read yet.
HELD_UP_S = 0.005

# What gateways keep in Redis, as this release understands it. A release whose forms an older one would misread raises
# it. That one has to write it in place of a smaller number, and to hang up on older gateways: see DECISIONS.md.
FORM = 1
FORM_KEPT_IN = "thalamus:form"
# KEYS: where the form is. ARGV: ours. Refuses where it is a later one. Where Redis takes no writes there is no mark.
_MARK = """
local form = redis.pcall('GET', KEYS[1])
if type(form) == 'string' and (tonumber(form) or 0) > tonumber(ARGV[1]) then
  return redis.error_reply('LATER a later release has written there; update this gateway')
end
if not form then redis.pcall('SET', KEYS[1], ARGV[1]) end
return 1
"""


class StoreDown(Exception):
    """Redis does not answer, or not as it should. Whoever asked knows what its feature does without it."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where a Redis is, and how it lets one in."""

    host: str
    port: int
    path: str | None
    """Of its socket, where it is on this machine."""
    tls: SSLContext | None
    greeting: tuple[Command, ...]
    database: int

    @classmethod
    def of(cls, client: Redis) -> Entrance:
        """As redis-py has understood its URL."""
        found = client.connection_pool.connection_kwargs
        connection = cast("AbstractConnection", client.connection_pool.make_connection())  # type: ignore[no-untyped-call]
        tls = connection.ssl_context.get() if isinstance(connection, SSLConnection) else None
        who = (found["username"],) if found.get("username") else ()
        password = (("AUTH", *who, found["password"]),) if found.get("password") else ()
        database = (("SELECT", found["db"]),) if found.get("db") else ()
        mark = ("EVAL", _MARK, 1, FORM_KEPT_IN, FORM)
        greeting = (*password, *database, ("CLIENT", "SETNAME", "thalamus"), mark)
        where = (found.get("host", "localhost"), found.get("port", 6379), found.get("path"))
        return cls(*where, tls, greeting, found.get("db") or 0)

    async def open(self, wire: Wire) -> None:
        """Connect, and be let in.

        Raises:
            OSError: there is nobody.
            StoreDown: it does not let us in, or says nothing.
        """
        loop = asyncio.get_running_loop()
        if self.path:
            await loop.create_unix_connection(lambda: wire, self.path)
        else:
            await loop.create_connection(lambda: wire, self.host, self.port, ssl=self.tls)
        for answer in await self._greeted(wire):
            if isinstance(answer, StoreDown):
                raise answer
            if isinstance(answer, ReplyError):
                raise StoreDown(str(answer))
        if not wire.is_open:
            raise StoreDown("the connection is lost")

    async def _greeted(self, wire: Wire) -> list[Any]:
        """What it says to our greeting."""
        answers: list[Any] = []
        complete = asyncio.Event()

        def heard(answer: Any) -> None:
            answers.append(answer)
            if len(answers) == len(self.greeting):
                complete.set()

        wire.send([(pack(command), heard) for command in self.greeting])
        await complete.wait()
        return answers


class Wire(asyncio.Protocol):
    """One connection, from its start to its end."""

    def __init__(
        self,
        patience_s: float,
        lost: Callable[[bool], None] = lambda _: None,
        pushed: Callable[[bytes], None] | None = None,
    ) -> None:
        """`lost` hears once that it is over, and whether somebody was waiting; `pushed` hears what is published."""
        self._patience_s, self._lost, self._pushed = patience_s, lost, pushed
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._asked: deque[tuple[float, Heard]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, commands: Sequence[tuple[bytes, Heard]]) -> None:
        """Ask all of these, packed."""
        if self._transport is None:
            for _, heard in commands:
                heard(StoreDown("the connection is lost"))
            return
        due_at = self._loop.time() + self._patience_s
        self._asked.extend([(due_at, heard) for _, heard in commands])
        self._transport.write(b"".join([packed for packed, _ in commands]))
        if self._timer is None:
            self._timer = self._loop.call_at(due_at, self._look, due_at)

    def wait_no_longer_than(self, patience_s: float) -> None:
        """From now on; nothing may be on its way."""
        self._patience_s = patience_s
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def hang_up(self, why: str = "hung up") -> None:
        """Give it up; who waits hears so."""
        if self._timer:
            self._timer.cancel()
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.abort()
        asked, self._asked = self._asked, deque()
        self._lost(bool(asked))
        for _, heard in asked:
            heard(StoreDown(why))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reader, asked = self._reader, self._asked
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not False:
                if self._pushed and isinstance(answer, list) and answer[0] == b"message":
                    self._pushed(answer[2])
                elif asked:
                    asked.popleft()[1](answer)
                else:
                    raise ProtocolError("nobody has asked")
        except ProtocolError as exc:
            self.hang_up(str(exc))

    def connection_lost(self, _: Exception | None) -> None:
        self.hang_up("the connection is lost")

    def _look(self, due_at: float) -> None:
        """Whether the oldest command has been answered in time."""
        now, self._timer = self._loop.time(), None
        if not self._asked:
            return
        oldest = self._asked[0][0]
        if oldest > now:
            self._timer = self._loop.call_at(oldest, self._look, oldest)
        elif now - due_at > HELD_UP_S:
            self._timer = self._loop.call_later(HELD_UP_S, self._look, now + HELD_UP_S)
        else:
            self.hang_up("no answer in time")


def pack(command: Command) -> bytes:
    """What goes over the wire.

    Raises:
        TypeError: a part is neither text nor bytes nor a number.
    """
    packed: bytes = pack_command(command)
    return packed
