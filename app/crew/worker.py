"""One of several processes that answer on a gateway's port. Its parent starts it, and asks it what all are asked.

It gets three descriptors: a socket at the address of all workers, the table of limits that all share, and its end of
the channel to the parent, which alone asks it to stop. Signals to stop or to reload it ignores, because whoever stops
a service sends them to all of its processes, and to the parent too. A parent that is gone is a request to stop.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from app.assembly.listeners import Listener, depart, settle
from app.assembly.router_model import fingerprint
from app.crew.channel import Channel
from app.errors import ConfigRejected, UsageError
from app.main import Application, Peers, create_app
from app.settings import Files, load_settings
from app.store.limits.shared_limits import SharedLimits, Table
from app.store.sessions import MemorySessions
from app.upstream.fleet.changes import Change
from app.upstream.fleet.replicas import UnknownReplica

ENDED_BY_USAGE = 64
"""Exit status of a worker that cannot start; its parent says why."""


@dataclass(frozen=True, slots=True)
class Post:
    """Who a worker is, and what it inherits."""

    config: str
    number: int
    workers: int
    listener: int
    channel: int
    limits: int
    gateway: str
    """Its name among gateways."""

    @property
    def arguments(self) -> list[str]:
        """The command that starts it."""
        return [sys.executable, "-m", "app.crew.worker", json.dumps(asdict(self))]


async def work(post: Post) -> None:
    """Answer until asked to stop."""
    worker = _Worker()
    channel = await Channel.over(socket.socket(fileno=post.channel), worker.answer)
    try:
        begin_with = await channel.ask("files")
        settings = load_settings(Path(post.config), files=files_of(begin_with))
        if fingerprint(settings) != begin_with["artifact"]:
            raise UsageError(f"{settings.artifact}: it differs from what the other workers run; put it back, or reload")
        limits = SharedLimits(Table(post.limits, post.workers), post.number, settings.limits.in_flight, time.monotonic)
        worker.sessions = MemorySessions(tell=lambda session: channel.tell("remembered", session))

        def tell(change: Change) -> None:
            channel.tell("changed", asdict(change))

        peers = Peers(limits, tell, worker.sessions, post.gateway, post.workers)
        async with create_app(settings, peers) as application:
            worker.application = application
            await _serve(application, socket.socket(fileno=post.listener), channel, worker)
    except UsageError as exc:
        await channel.ask("failed", str(exc))
        raise SystemExit(ENDED_BY_USAGE) from exc
    finally:
        await channel.aclose()


async def _serve(application: Application, listener: socket.socket, channel: Channel, worker: _Worker) -> None:
    data, live = Listener(application.data), application.live
    await data.open(listener)
    settle()
    await channel.ask("started")
    orphaned = asyncio.create_task(channel.closed.wait())
    done, _ = await asyncio.wait((orphaned, worker.stopped), return_when=asyncio.FIRST_COMPLETED)
    accept = worker.stopped.result() if worker.stopped in done else True
    orphaned.cancel()
    limits = live.now.settings.limits
    await depart(live, (data,), limits.accept_s if accept else 0.0, limits.drain_s, worker.hurried)


class _Worker:
    """Answers the parent."""

    def __init__(self) -> None:
        self.application: Application | None = None
        self.sessions = MemorySessions()
        self.stopped: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Asked to; whether to serve for a while first."""
        self.hurried = asyncio.Event()

    async def answer(self, what: str, value: Any) -> Any:
        if what in ("stop", "hurry"):
            return self._stop(what, bool(value))
        if self.application is None:
            return None
        live, metrics = self.application.live, self.application.telemetry.metrics
        if what == "look":
            return {"ready": live.now.gateway.ready(), "in_flight": live.in_flight, "metrics": metrics.snapshot()}
        if what == "prepare":
            return await self._prepare(value)
        if what == "commit":
            return await live.commit()
        if what == "discard":
            await live.discard()
        elif what == "changed":
            live.now.replicas.hear(Change(**value))
        elif what == "remembered":
            self.sessions.hear(value)
        elif what in ("aside", "back"):
            with suppress(UnknownReplica):  # of a configuration that came meanwhile
                live.set_aside(value, aside=what == "aside")
        elif what in ("leave", "stay"):
            live.leave() if what == "leave" else live.stay()
        return None

    def _stop(self, what: str, accept: bool) -> None:
        if what == "hurry":
            self.hurried.set()
        elif not self.stopped.done():
            self.stopped.set_result(accept)

    async def _prepare(self, files: Mapping[str, str]) -> Any:
        """What is wrong, if anything."""
        assert self.application  # noqa: S101 - for the type checker
        try:
            await self.application.live.prepare(files_of(files))
        except ConfigRejected as exc:
            return (exc.details or {})["problems"]
        return []


def files_of(sent: Mapping[str, str]) -> Files:
    return Files(sent["gateway"].encode("latin-1"), sent["catalog"].encode("latin-1"))


def as_json(files: Files) -> dict[str, str]:
    """The same, fit for JSON."""
    return {"gateway": files.gateway.decode("latin-1"), "catalog": files.catalog.decode("latin-1")}


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(Post(**json.loads(sys.argv[1]))))
