"""Redis, asked with little patience: what many gateways share must not hold one of them up.

How it works: commands that are asked in one turn of the event loop travel together, over a connection that only this
module uses. So a caller that leaves cancels nothing on the wire, and can never read what another one asked. Each
exchange has 50 ms. After five failures in a row Redis is left alone for five seconds, then one exchange tries it; all
others hear at once that it is down, and each feature decides what to do without it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from app.store.limits import Clock

# A healthy exchange on a local network takes one millisecond; redis-py's own five seconds would stop a gateway.
PATIENCE_S = 0.05
FAILURES_IN_A_ROW = 5
LEFT_ALONE_S = 5.0

Command = tuple[Any, ...]


class StoreDown(Exception):
    """Redis does not answer, or not as it should. Whoever asked knows what its feature does without it."""


class Script:
    """A Lua script, which travels as its digest once Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Breaker:
    """Whether it is worth asking."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures, self._closed_until = 0, 0.0

    @property
    def is_down(self) -> bool:
        """Five failures in a row, and no success since."""
        return self._failures >= FAILURES_IN_A_ROW

    def lets_through(self) -> bool:
        """Whether to ask now; when it is down that is one exchange each five seconds."""
        if not self.is_down:
            return True
        if self._clock() < self._closed_until:
            return False
        self._closed_until = self._clock() + LEFT_ALONE_S
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures == FAILURES_IN_A_ROW:
            self._closed_until = self._clock() + LEFT_ALONE_S


class RedisClient:
    """Asks one Redis. Make it in a running loop."""

    def __init__(self, url: str, password: str | None, clock: Clock, patience_s: float = PATIENCE_S) -> None:
        """`url` as redis-py reads it: `redis://host:6379/0`, `rediss://...`, `unix://...`.

        More patience is for what no caller waits for.
        """
        once = Retry(NoBackoff(), 0)
        self.redis: Redis = Redis.from_url(
            url, password=password, socket_timeout=patience_s, socket_connect_timeout=patience_s, retry=once
        )
        self.breaker, self._patience_s = Breaker(clock), patience_s
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._exchanges: set[asyncio.Task[None]] = set()

    @property
    def is_down(self) -> bool:
        return self.breaker.is_down

    async def aclose(self) -> None:
        """Wait for what is on its way, then hang up."""
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        with suppress(RedisError, OSError):
            await self.redis.aclose()

    async def ask(self, *command: Any) -> Any:
        """
        Raises:
            StoreDown: there is no answer, or it is an error.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._send)
        self._waiting.append((command, answer))
        return await answer

    async def run(self, script: Script, keys: Sequence[str], *values: Any) -> Any:
        """
        Raises:
            StoreDown: as `ask`.
        """
        return await self.ask("EVALSHA", script, len(keys), *keys, *values)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not self.breaker.lets_through():
            _tell(waiting, [StoreDown("left alone for a while")] * len(waiting))
            return
        task = asyncio.create_task(self._exchange(waiting), name="redis")
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)

    async def _exchange(self, waiting: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        commands = [command for command, _ in waiting]
        try:
            async with asyncio.timeout(self._patience_s):
                answers = await self._pipelined(commands)
        except (RedisError, OSError, TimeoutError) as exc:
            self.breaker.failed()
            _tell(waiting, [StoreDown(type(exc).__name__)] * len(waiting))
            return
        broken = [_broken(answer) for answer in answers]
        self.breaker.failed() if any(broken) else self.breaker.succeeded()
        _tell(waiting, [StoreDown(str(answer)) if _broken(answer) else answer for answer in answers])

    async def _pipelined(self, commands: Sequence[Command]) -> list[Any]:
        answers = await self._execute([_with_digest(command) for command in commands])
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = await self._execute([_with_text(commands[number]) for number in unknown])
            for number, answer in zip(unknown, again, strict=True):
                answers[number] = answer
        return answers

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        async with self.redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers


def _with_digest(command: Command) -> Command:
    return ("EVALSHA", command[1].digest, *command[2:]) if command[0] == "EVALSHA" else command


def _with_text(command: Command) -> Command:
    return ("EVAL", command[1].text, *command[2:])


def _broken(answer: object) -> bool:
    """Out of memory, read only, still loading, a value of the wrong type: all of them are no answer."""
    return isinstance(answer, RedisError)


def _tell(waiting: Sequence[tuple[Command, asyncio.Future[Any]]], answers: Sequence[Any]) -> None:
    for (_, future), answer in zip(waiting, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, StoreDown):
            future.set_exception(answer)
        else:
            future.set_result(answer)
