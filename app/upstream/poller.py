"""Asks vLLM workers, about once a second, how many requests run and wait on them.

The gauges are of all clients of a worker, so they correct what one gateway knows. They are not a sign of health: a
worker whose engine hangs goes on answering this page. Only a page that refuses connections says something, and one that
was silent and answers again: the worker was started anew. One that is refused, too large to read or not vLLM's is told
of, and says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable
from typing import Protocol

from app.errors import AnswerTooLarge, UpstreamError
from app.upstream.answers.refusals import RefusedKey, RefusedPage
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.replicas import Replicas
from app.upstream.http.addresses import root

POLL_EVERY_S = 1.0
# A page that takes longer would be stale when it comes.
PAGE_WITHIN_S = 1.0
AT_ONCE = 8

# A hundred times what any worker takes in. Who says more is not believed: a load must be a number to reckon with.
MOST_REQUESTS = 1e6

# Labels end in their line, or a page of lines that never close theirs would be searched to its end for each of them.
_GAUGE = re.compile(rb"^vllm:num_requests_(running|waiting)(?:\{[^}\n]*\})? (\S{1,64})", re.MULTILINE)


class Pages(Protocol):
    """Fetches a small page of a backend."""

    async def fetch(self, backend: str, url: str, timeout_s: float) -> bytes:
        """The page's body.

        Raises:
            UpstreamError: it cannot be had.
        """
        ...


class Poller:
    """A task that keeps the replicas' queues up to date. Start it in a running loop, stop it at shutdown."""

    def __init__(self, pages: Pages, replicas: Replicas, every_s: float = POLL_EVERY_S) -> None:
        self._pages, self._replicas, self._every_s = pages, replicas, every_s
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="poller")

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def poll(self, replicas: Iterable[Replica]) -> None:
        """Ask each of these once."""
        await asyncio.gather(*(self._ask(replica) for replica in replicas))

    async def _run(self) -> None:
        workers = [replica for replica in self._replicas.all if replica.backend.kind == "vllm"]
        while workers:
            await self.poll(workers)
            await asyncio.sleep(self._every_s)

    async def _ask(self, replica: Replica) -> None:
        async with self._at_once:
            try:
                page = await self._pages.fetch(replica.backend.name, root(replica.url) + "/metrics", PAGE_WITHIN_S)
            except AnswerTooLarge:
                self._replicas.unread(replica, "it is too large")
            except RefusedKey:
                self._replicas.unread(replica, "the gateway's key is not accepted there")
            except RefusedPage as exc:
                self._replicas.unread(replica, str(exc))
            except UpstreamError as exc:
                self._replicas.silent(replica, exc)
            else:
                self._take(replica, page)

    def _take(self, replica: Replica, page: bytes) -> None:
        gauges = parse_gauges(page)
        if gauges:
            self._replicas.scraped(replica, gauges.get("running", 0), gauges.get("waiting", 0))
        else:
            self._replicas.unread(replica, "it has none of vLLM's gauges, or none that can be read")


def parse_gauges(page: bytes) -> dict[str, int]:
    """`running` and `waiting` of a vLLM metrics page, summed over its engines; without what the page does not have."""
    found: dict[str, int] = {}
    for gauge, text in _GAUGE.findall(page):
        with contextlib.suppress(ValueError):
            value = float(text)
            if 0 <= value <= MOST_REQUESTS:
                name = gauge.decode()
                found[name] = found.get(name, 0) + int(value)
    return found
