"""Questions and answers between a gateway's parent and its workers: one JSON object a line, in both directions.

A question has a number, and its answer the same one. Either side may ask at any time. When the other side is gone,
whoever waits for it hears so.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

# Metrics of a large catalogue are some megabytes.
MAX_LINE_BYTES = 64 << 20

Answering = Callable[[str, Any], Awaitable[Any]]
"""Answers a question by its name and what comes with it."""


class OtherSideGone(ConnectionError):
    """There is nobody to answer."""


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

    async def ask(self, what: str, value: Any = None) -> Any:
        """
        Raises:
            OtherSideGone: before it answered.
        """
        if self.closed.is_set():
            raise OtherSideGone(what)
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._write({"ask": what, "number": number, "value": value})
        return await answer

    def tell(self, what: str, value: Any) -> None:
        """Ask without waiting for the answer."""
        if not self.closed.is_set():
            self._write({"ask": what, "number": next(self._numbers), "value": value})

    async def aclose(self) -> None:
        self._writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, *self._answers, return_exceptions=True)

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
            waiting.set_result(message["value"])

    async def _answer(self, message: dict[str, Any]) -> None:
        value = await self._answering(message["ask"], message["value"])
        self._write({"number": message["number"], "value": value})

    def _write(self, message: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")
