"""Listeners, and how a gateway leaves without failing anybody.

How it works: asked to stop, the gateway says in `/readyz` that it leaves, goes on serving whatever comes for a while,
and closes each connection with its answer. Then nothing new is accepted, and what is in flight has its time. What is
not over by then is told so: a stream gets one error event, a request without an answer a 503. At last connections
whose callers do not read are cut.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Protocol, cast

import uvicorn

from app.admission.gate import Gate
from app.api import Plane
from app.api.connection.wire import SEND_BUFFER_BYTES, Wire
from app.errors import ConfigRejected, UsageError
from app.settings import Address

BACKLOG = 1024
# Between a connection and its first request; more than a round trip round the world.
FIRST_REQUEST_S = 0.5
# For the last events to reach their callers.
LAST_WORDS_S = 1.0

# Of the three ages: some hundred requests' worth of objects, then a few times that. What fails and who leaves makes
# objects that refer to each other in a circle; those that were in use when the youngest were looked at wait for the
# older ages to be, and for that reason these must not wait for hours.
COLLECT_AFTER = (20_000, 3, 3)


class Serving(Protocol):
    """What is served."""

    @property
    def gate(self) -> Gate: ...

    def cut(self) -> None:
        """End all that is in flight."""


class Reloadable(Protocol):
    async def reload(self) -> object:
        """
        Raises:
            ConfigRejected: nothing changed.
        """
        ...


class Listener(uvicorn.Server):
    """Answers on one socket. uvicorn's own way to stop waits for streams without limit, or cuts them silently."""

    def __init__(self, plane: Plane) -> None:
        super().__init__(_config(plane))

    async def open(self, listener: socket.socket) -> None:
        """Take connections from now on."""
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        await self.startup([listener])
        self._ticking = asyncio.create_task(self.main_loop(), name="listener")

    def refuse(self) -> None:
        """Take no new connections."""
        for server in self.servers:
            server.close()

    def let_go(self) -> None:
        """Close connections that wait for nothing, and the others with their answer."""
        for connection in tuple(self.server_state.connections):
            connection.shutdown()

    @property
    def is_idle(self) -> bool:
        return not self.server_state.connections and not self.server_state.tasks

    async def aclose(self) -> None:
        """Cut what is left."""
        for task in tuple(self.server_state.tasks):
            task.cancel()
        for connection in cast("set[Wire]", self.server_state.connections).copy():
            connection.abort()
        self._ticking.cancel()
        await asyncio.gather(self._ticking, *self.server_state.tasks, return_exceptions=True)


class Signals:
    """What the process is asked for from outside: to stop, to hurry, or to read its configuration again."""

    def __init__(self, reloadable: Reloadable) -> None:
        self._reloadable = reloadable
        self._asked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.hurried = asyncio.Event()
        """Set by the second signal to stop."""
        self._reloads: set[asyncio.Task[None]] = set()

    async def asked_to_stop(self) -> bool:
        """Whether a load balancer may be there that has to be told first: who presses Ctrl-C needs no such time."""
        return await self._asked

    def __enter__(self) -> Signals:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, True)
        loop.add_signal_handler(signal.SIGINT, self._stop, False)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        return self

    def __exit__(self, _type: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)

    def _stop(self, accept: bool) -> None:
        if self._asked.done():
            self.hurried.set()
        else:
            self._asked.set_result(accept)

    def _reload(self) -> None:
        task = asyncio.create_task(self._reload_quietly(), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_quietly(self) -> None:
        # What is wrong is in the log.
        with suppress(ConfigRejected):
            await self._reloadable.reload()


async def depart(
    serving: Serving, listeners: Sequence[Listener], accept_s: float, drain_s: float, hurried: asyncio.Event
) -> None:
    """Leave: the first listener is the callers', and closes first."""
    data = listeners[0]
    if accept_s:
        serving.gate.leaving = True
        await _wait(hurried, accept_s)
    # Connections that wait to be accepted are taken in one turn of the loop.
    await asyncio.sleep(0)
    serving.gate.leaving = True
    data.refuse()
    await _wait(hurried, FIRST_REQUEST_S)
    data.let_go()
    await _until_idle(data, hurried, drain_s - FIRST_REQUEST_S)
    serving.gate.closed = True
    serving.cut()
    for listener in listeners:
        listener.refuse()
        listener.let_go()
    await asyncio.gather(*(_until_idle(listener, asyncio.Event(), LAST_WORDS_S) for listener in listeners))
    for listener in listeners:
        await listener.aclose()


def leave_no_core() -> None:
    """Write no picture of the memory when the process crashes: it would show prompts and keys to whoever reads it."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def settle() -> None:
    """What was made by now stays to the end: spare the garbage collector looking at it again and again.

    A request's own objects hardly ever refer to each other in a circle, so they go without a collector, and looking
    less often took a tenth off a request's cost.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def listening_socket(address: Address) -> socket.socket:
    """
    Raises:
        UsageError: it cannot be listened on.
    """
    try:
        listener = socket.create_server((address.host, address.port), family=_family(address), backlog=BACKLOG)
    except OSError as exc:
        cause = os.strerror(exc.errno or 0)
        raise UsageError(f"cannot listen on {address}: {cause}; stop what does, or change the address") from exc
    # Accepted connections inherit it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return listener


def shared_socket(address: Address) -> socket.socket:
    """A socket for one of several processes on an address: each begins to listen when it is ready.

    The kernel gives each of them its share of the connections, and none to one that is gone.

    Raises:
        OSError: there is none to be had, or not at this address.
    """
    listener = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind((address.host, address.port))
    except OSError:
        listener.close()
        raise
    return listener


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET


def _config(plane: Plane) -> uvicorn.Config:
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    return uvicorn.Config(
        plane.app,
        http=plane.protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
    )


async def _until_idle(listener: Listener, hurried: asyncio.Event, within_s: float) -> None:
    """Wait until nothing is in flight on it, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, within_s)):
            while not (listener.is_idle or hurried.is_set()):  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(0.02)


async def _wait(event: asyncio.Event, within_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
