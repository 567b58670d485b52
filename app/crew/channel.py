"""Questions and answers between a gateway's parent and its workers: one JSON object a line, in both directions.

A question has a number, and its answer the same one. Either side may ask at any time. When the other side is gone, or
fails to find the answer, whoever waits for it hears so.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from app.telemetry.logging import where

# Metrics of a large catalogue are some megabytes.
MAX_LINE_BYTES = 64 << 20
# An end that stands still reads nothing. Some minutes of what is told to all are worth keeping for it, not hours.
MAX_UNREAD_BYTES = 16 << 20

Answering = Callable[[str, Any], Awaitable[Any]]
"""Answers a question by its name and what comes with it."""


class OtherSideGone(ConnectionError):
    """There is nobody to answer."""


class NotAnswered(Exception):
    """A bug of the other side's: it is there, and could not answer; the message is its kind and place."""


class Channel:
    """One end of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answering: Answering) -> None:
        self._reader, self._writer, self._answering = reader, writer, answering
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="channel")

    @classmethod
    async def over(cls, end: socket.socket, answering: Answering) -> Channel:
        """Talk over a socket."""
        reader, writer = await asyncio.open_connection(sock=end, limit=MAX_LINE_BYTES)
        return cls(reader, writer, answering)

    async def ask(self, what: str, value: Any = None, within_s: float | None = None) -> Any:
        """
        Raises:
            OtherSideGone: before it answered.
            NotAnswered: it failed to.
            TimeoutError: it took longer than that. What it does about the question all the same is not known.
        """
        if self.closed.is_set():
            raise OtherSideGone(what)
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._write({"ask": what, "number": number, "value": value})
        try:
            async with asyncio.timeout(within_s):
                return await answer
        finally:
            self._waiting.pop(number, None)

    def tell(self, what: str, value: Any = None) -> None:
        """Ask without waiting for the answer. It is lost on an end that has not read for very long."""
        if not self.closed.is_set() and self._writer.transport.get_write_buffer_size() < MAX_UNREAD_BYTES:
            self._write({"ask": what, "number": next(self._numbers), "value": value})

    async def aclose(self) -> None:
        """Hang up, whatever is still to be answered."""
        self._writer.close()
        tasks = [self._task, *self._answers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except (OSError, ValueError):
            pass
        finally:
            self.closed.set()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(OtherSideGone())
            self._waiting.clear()

    def _take(self, message: dict[str, Any]) -> None:
        if "ask" in message:
            task = asyncio.create_task(self._answer(message))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
        elif (waiting := self._waiting.pop(message["number"], None)) and not waiting.done():
            if failure := message.get("failure"):
                waiting.set_exception(NotAnswered(failure))
            else:
                waiting.set_result(message["value"])

    async def _answer(self, message: dict[str, Any]) -> None:
        number = message["number"]
        try:
            self._write({"number": number, "value": await self._answering(message["ask"], message["value"])})
        except Exception as exc:
            self._write({"number": number, "failure": where(exc)})
            # Perhaps nobody waits for it: the event loop tells as well.
            raise

    def _write(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")
