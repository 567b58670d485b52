"""Asks workers that are out for one token, to find out whether they are back.

A page such as /health says that a process lives; its engine may hang all the same, and only a completion tells. The
probe is nobody's request: no caller waits for it, none is billed. Services that are paid for are not probed like this.
"""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import Any

from app.domain.models import Catalog, Model
from app.errors import UpstreamError, UpstreamTimeout
from app.upstream.answers.payload import dump, parse, renamed, sound_choices
from app.upstream.answers.refusals import refusal, told_refusal
from app.upstream.answers.told import ToldFailure
from app.upstream.client import Message
from app.upstream.dispatcher import Upstream
from app.upstream.fleet.replica import Replica
from app.upstream.fleet.replicas import Replicas
from app.upstream.http.exchange import read_body

LOOK_EVERY_S = 0.25
# One token takes milliseconds; a worker that needs longer has a queue that callers should not stand in yet.
PROBE_WITHIN_S = 5.0
MAX_BYTES = 64 << 10


class Prober:
    """A task that brings workers back. Start it in a running loop, stop it at shutdown."""

    def __init__(
        self,
        upstream: Upstream,
        replicas: Replicas,
        catalog: Catalog,
        every_s: float = LOOK_EVERY_S,
        within_s: float = PROBE_WITHIN_S,
    ) -> None:
        self._upstream, self._replicas, self._every_s, self._within_s = upstream, replicas, every_s, within_s
        self._models: dict[str, Model] = {}
        for model in catalog.models:
            self._models.setdefault(model.backend, model)
        self._task: asyncio.Task[None] | None = None
        self._probes: set[asyncio.Task[UpstreamError | None]] = set()
        """At most one for each replica."""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="prober")

    async def stop(self) -> None:
        tasks: list[asyncio.Task[Any]] = [*self._probes, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            for replica in self._replicas.ejections.due_probes():
                task = asyncio.create_task(self._probe(replica), name="probe")
                self._probes.add(task)
                # Not in the probe itself: one that is cancelled before it begins never runs.
                task.add_done_callback(partial(self._report, replica))
            await asyncio.sleep(self._every_s)

    async def _probe(self, replica: Replica) -> UpstreamError | None:
        """What keeps this one from writing a token, if anything does."""
        try:
            async with asyncio.timeout(self._within_s):
                await self._ask(replica)
        except UpstreamError as exc:
            return exc
        except TimeoutError:
            return UpstreamTimeout(f"no token within {self._within_s:g} s")
        return None

    def _report(self, replica: Replica, probe: asyncio.Task[UpstreamError | None]) -> None:
        """Tell `Ejections` how a probe went."""
        self._probes.discard(probe)
        error: UpstreamError | None = UpstreamTimeout("the probe was given up")
        try:
            if not probe.cancelled():
                error = probe.result()
        finally:
            self._replicas.ejections.probed(replica, error)

    async def _ask(self, replica: Replica) -> None:
        model = self._models.get(replica.backend.name)
        if model is None:
            return
        message = _one_token(model, replica)
        exchange = await self._upstream.send(replica.backend.name, replica.url, message)
        try:
            if exchange.status != 200:
                raise await refusal(exchange, model)
            sound_choices(parse(await read_body(exchange, MAX_BYTES)))
        except ToldFailure as exc:
            raise told_refusal(exc, model) from exc
        finally:
            exchange.close()


def _one_token(model: Model, replica: Replica) -> Message:
    chat = "chat" in model.card.capabilities
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": "1"}]} if chat else {"prompt": "1"}
    body = dump(renamed({**prompt, "model": model.served_as, "max_tokens": 1}, replica.backend.rename))
    path = "/chat/completions" if chat else "/completions"
    return Message(path, body, stream=False, request_id=f"probe-{uuid.uuid4().hex[:12]}")
