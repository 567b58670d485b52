"""Redis, asked with little patience: what many gateways share must not hold one of them up.

How it works: commands that are asked in one turn of the event loop travel together, over one connection (`Wire`). Each
has 50 ms, and so has a new connection, after which nobody waits for it any more. After five failures in a row Redis is
left alone for five seconds, then one batch tries it; all others hear at once that it is down, and each feature decides
what to do without it.

A failure is a connection that is lost while somebody waits, or that cannot be had, and an answer that says that Redis
as a whole is not fit to be used: out of memory, read only, still loading. That a script is wrong, or a value of another
type, is one feature's own trouble: it hears `StoreDown` too, but the others go on. One that reads may go on where no
write is taken, so what it hears says nothing against the failure of a write. And whoever answers that it is no primary,
or does not know us, is hung up on: its address may lead to another one by now.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from hiredis import ReplyError
from redis.asyncio import Redis

from app.domain.clock import Clock
from app.store.redis_wire import Command, Entrance, Heard, StoreDown, Wire, pack

__all__ = ["Breaker", "RedisClient", "Script", "StoreDown", "Subscription"]

# A healthy exchange on a local network takes one millisecond; redis-py's own five seconds would stop a gateway.
PATIENCE_S = 0.05
# Nobody waits so long; but encryption on a busy machine may need more than callers have.
CONNECT_WITHIN_S = 0.25
FAILURES_IN_A_ROW = 5
LEFT_ALONE_S = 5.0
# A subscriber hears nothing for long, so it asks whether the other side is there.
PING_EVERY_S = 1.0

# How answers begin that are about Redis as a whole.
UNFIT = ("OOM", "READONLY", "LOADING", "BUSY", "MISCONF", "MASTERDOWN", "NOAUTH", "CLUSTERDOWN", "NOREPLICAS")
# And of those, what only a new connection can mend.
ELSEWHERE = ("READONLY", "MASTERDOWN", "NOAUTH")
WRITES = ("SET", "HDEL", "ZREM")


class Script:
    """A Lua script, which travels as its digest once Redis knows it."""

    def __init__(self, text: str, *, writes: bool = True) -> None:
        self.text, self.writes = text, writes
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Breaker:
    """Whether it is worth asking."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures, self._closed_until = 0, 0.0
        self._is_unfit = False
        """The last failure was a refusal, which only a write can show to be over."""

    @property
    def is_down(self) -> bool:
        """Five failures in a row, and no success since."""
        return self._failures >= FAILURES_IN_A_ROW

    def lets_through(self) -> bool:
        """Whether to ask now; when it is down that is one batch each five seconds."""
        if not self.is_down:
            return True
        if self._clock() < self._closed_until:
            return False
        self._closed_until = self._clock() + LEFT_ALONE_S
        return True

    def succeeded(self, *, wrote: bool) -> None:
        if wrote or not self._is_unfit:
            self._failures, self._is_unfit = 0, False
        elif self.is_down:
            self._failures -= 1  # the next write decides

    def failed(self, *, unfit: bool = False) -> None:
        self._failures, self._is_unfit = min(self._failures + 1, FAILURES_IN_A_ROW), unfit
        if self._failures == FAILURES_IN_A_ROW:
            self._closed_until = self._clock() + LEFT_ALONE_S


class RedisClient:
    """Asks one Redis. Make it in a running loop."""

    def __init__(self, url: str, password: str | None, clock: Clock, patience_s: float = PATIENCE_S) -> None:
        """`url` as redis-py reads it: `redis://host:6379/0`, `rediss://...`, `unix://...`.

        More patience is for what no caller waits for.
        """
        # It reads the address and some answers; it never connects.
        known = Redis.from_url(url, password=password, protocol=2)
        self._entrance = Entrance.of(known)
        self._reading: Callable[[str], Any] = known.response_callbacks.get
        self.breaker, self._patience_s = Breaker(clock), patience_s
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._joining: asyncio.Task[None] | None = None
        self._is_late = False
        """It takes longer to connect than anybody waits."""
        self._waiting: list[tuple[bytes, Heard]] = []
        self._held: list[tuple[bytes, Heard]] = []
        """What waits for a connection."""
        self._is_closed = False
        self._why = "no answer in time"
        """What was wrong when it was asked last."""

    @property
    def is_down(self) -> bool:
        return self.breaker.is_down

    @property
    def database(self) -> int:
        """Its number: what is published is heard in all of them."""
        return self._entrance.database

    async def aclose(self) -> None:
        """Wait for what is on its way, then hang up."""
        for _ in range(2):  # a script that Redis did not know is on its way twice
            with suppress(StoreDown):
                await self.ask("PING")
        self._is_closed = True
        if self._joining:
            self._joining.cancel()
            await asyncio.gather(self._joining, return_exceptions=True)
        if self._wire:
            self._wire.hang_up()

    async def ask(self, *command: Any) -> Any:
        """The answer, as redis-py's asynchronous client would give it.

        Raises:
            StoreDown: there is no answer, or it is an error.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.tell(partial(_answered, answer, self._reading(command[0])), *command)
        return await answer

    async def run(self, script: Script, keys: Sequence[str], *values: Any) -> Any:
        """
        Raises:
            StoreDown: as `ask`.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()
        self.start(partial(_answered, answer, None), script, keys, *values)
        return await answer

    def tell(self, heard: Heard, *command: Any) -> None:
        """Ask without waiting; `heard` hears the answer as it is on the wire, or the error."""
        self._tell(heard, command, command[0] in WRITES)

    def start(self, heard: Heard, script: Script, keys: Sequence[str], *values: Any) -> None:
        """Run a script without waiting, as `tell`."""
        rest = (len(keys), *keys, *values)
        self._tell(partial(self._ran, heard, script, rest), ("EVALSHA", script.digest, *rest), script.writes)

    def publish(self, channel: str, message: bytes) -> None:
        """To whoever is subscribed now, if Redis can be reached now."""
        self.tell(lambda _: None, "PUBLISH", channel, message)

    def subscribe(
        self, channel: str, hear: Callable[[bytes], None], joined: Callable[[], None] = lambda: None
    ) -> Subscription:
        """Hear what is published from soon on, our own messages among it.

        `joined` hears each time that it begins, at first and after each outage: what was published before was missed.
        """
        return Subscription(self._entrance, channel, hear, joined)

    def _tell(self, heard: Heard, command: Command, writes: bool) -> None:
        packed = pack(command)
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append((packed, partial(self._heard, heard, writes)))

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self._is_closed or self._is_late or not self.breaker.lets_through():
            _refuse(waiting, "it is closed" if self._is_closed else self._why)
        elif self._wire:
            self._wire.send(waiting)
        else:
            self._held += waiting
            self._joining = self._joining or asyncio.create_task(self._join(), name="redis")

    async def _join(self) -> None:
        """Have a connection, and send what waits for it."""
        within_s = max(CONNECT_WITHIN_S, self._patience_s)
        wire = Wire(within_s, self._lost)
        patience = self._loop.call_later(self._patience_s, self._let_down, "no connection in time")
        try:
            async with asyncio.timeout(within_s):
                await self._entrance.open(wire)
        except (OSError, TimeoutError, StoreDown) as exc:
            self._let_down(str(exc))
        else:
            wire.wait_no_longer_than(self._patience_s)
            self._wire = wire
        finally:
            patience.cancel()
            self._is_late, self._joining = False, None
            if self._wire is not wire:
                wire.hang_up()
            held, self._held = self._held, []
            wire.send(held)

    def _let_down(self, why: str) -> None:
        """Nobody waits for a connection any more."""
        self._why = why
        held, self._held = self._held, []
        if not self._is_late:
            self._is_late = True
            self.breaker.failed()
        _refuse(held, why)

    def _lost(self, somebody_waited: bool) -> None:
        if self._wire:
            self._wire = None
            if somebody_waited:
                self.breaker.failed()

    def _heard(self, heard: Heard, writes: bool, answer: Any) -> None:
        if isinstance(answer, ReplyError):
            if str(answer).startswith(UNFIT):
                self._refused(str(answer))
            else:
                self.breaker.succeeded(wrote=False)
        elif isinstance(answer, StoreDown):
            self._why = str(answer)
        else:
            self.breaker.succeeded(wrote=writes)
        heard(answer)

    def _refused(self, why: str) -> None:
        self._why = why
        self.breaker.failed(unfit=True)
        if self._wire and why.startswith(ELSEWHERE):
            wire, self._wire = self._wire, None
            # What has been answered by now is still to be read.
            self._loop.call_soon(wire.hang_up, why)

    def _ran(self, heard: Heard, script: Script, rest: Command, answer: Any) -> None:
        if isinstance(answer, ReplyError) and str(answer).startswith("NOSCRIPT"):
            self._tell(heard, ("EVAL", script.text, *rest), script.writes)
        else:
            heard(answer)


class Subscription:
    """Hears what is published on one channel, over a connection of its own, which is made anew when it is lost."""

    def __init__(
        self, entrance: Entrance, channel: str, hear: Callable[[bytes], None], joined: Callable[[], None]
    ) -> None:
        self._entrance, self._channel, self._hear, self._joined = entrance, channel, hear, joined
        self._task = asyncio.create_task(self._listen(), name=f"redis {channel}")

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            wire = Wire(PING_EVERY_S, pushed=self._hear)
            try:
                async with asyncio.timeout(PING_EVERY_S):
                    await self._entrance.open(wire)
                wire.send([(pack(("SUBSCRIBE", self._channel)), self._began)])
                while wire.is_open:
                    await asyncio.sleep(PING_EVERY_S)
                    wire.send([(pack(("PING",)), _ignore)])
            except (OSError, TimeoutError, StoreDown):
                await asyncio.sleep(PING_EVERY_S)
            finally:
                wire.hang_up()

    def _began(self, answer: Any) -> None:
        if isinstance(answer, list):
            self._joined()


def _ignore(_: Any) -> None:
    """Whatever it is, there it is."""


def _refuse(commands: Sequence[tuple[bytes, Heard]], why: str) -> None:
    for _, heard in commands:
        heard(StoreDown(why))


def _answered(future: asyncio.Future[Any], read: Callable[[Any], Any] | None, answer: Any) -> None:
    """Tell who asked, if it is still there."""
    if future.done():
        return
    if isinstance(answer, ReplyError):
        future.set_exception(StoreDown(str(answer)))
    elif isinstance(answer, StoreDown):
        future.set_exception(answer)
    else:
        future.set_result(read(answer) if read else answer)
