"""A caller who leaves cancels what is under way for him.

ASGI tells of it only to who asks: while the answer is awaited, while it is written and while it is streamed alike. So
a small task asks, next to the work, and cancels the work when told.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive


class ClientLeft(Exception):
    """Nobody is there to be answered."""


class Watching:
    """`async with Watching(receive): ...` runs the block until the caller leaves, then cancels it.

    The body of the request has to be read before: whatever else arrives is dropped.

    Raises:
        ClientLeft: in place of the cancellation that the leaving caused.
    """

    __slots__ = ("_left", "_receive", "_watcher", "_work")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> None:
        work = asyncio.current_task()
        assert work is not None  # noqa: S101 - a coroutine that runs is run by a task
        self._work = work
        self._watcher = asyncio.ensure_future(self._watch())

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        if self._left and self._work.uncancel() == 0:
            raise ClientLeft from error

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._work.cancel()
