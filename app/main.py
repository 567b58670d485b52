"""Builds the gateway from settings, opens it, and closes it in reverse."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, nullcontext
from dataclasses import dataclass, field

import uvloop

from app.admission.shedding import Shedding
from app.api import Plane, admin_plane, data_plane
from app.assembly.first_key import begin_with_a_key
from app.assembly.listeners import Listener, Signals, depart, leave_no_core, listening_socket, settle
from app.assembly.reload import Live
from app.assembly.rumours import Rumours, both
from app.assembly.snapshot import Lasting
from app.assembly.stores import Stores, open_stores
from app.settings import Settings
from app.store.limits.limits import Limits, max_connections
from app.store.sessions import MemorySessions
from app.telemetry import Telemetry
from app.telemetry.afterwards import MOST
from app.upstream.fleet.changes import Tell


@dataclass(frozen=True, slots=True)
class Peers:
    """What one process shares with the others of its gateway."""

    limits: Limits | None = None
    """What callers may use at a time, where it is kept outside this process."""
    tell: Tell = lambda _: None
    """Hears of changes of replicas."""
    sessions: MemorySessions | None = None
    """Those that the others hear of, where no store shares them."""
    gateway: str = field(default_factory=lambda: secrets.token_hex(8))
    """The name that all of them have, among gateways."""
    processes: int = 1
    """How many they are together."""


@dataclass(frozen=True, slots=True)
class Application:
    """An open gateway and its two faces."""

    live: Live
    data: Plane
    admin: Plane
    telemetry: Telemetry
    stores: Stores


@asynccontextmanager
async def create_app(
    settings: Settings, peers: Peers | None = None, together: int = MOST
) -> AsyncIterator[Application]:
    """Build everything and open it, for as long as the block runs; `peers` are the other processes, if any.

    What is counted, kept and logged waits for `together` of its kind, or for 10 ms.

    Raises:
        UsageError: the artifact or a backend's address cannot be used.
    """
    peers, telemetry = peers or Peers(), Telemetry(together=together)
    with closing(telemetry.log):
        async with open_stores(settings, telemetry, peers.limits, peers.sessions, peers.processes) as stores:
            with Shedding(stores.limits.fullness) as shedding:
                stores.keys.heard_by(telemetry.log)
                rumours = Rumours(stores.redis, peers.gateway) if stores.redis else None
                tell = both(peers.tell, rumours.tell) if rumours else peers.tell
                live = Live(Lasting(stores, shedding, telemetry, tell=tell, processes=peers.processes))
                try:
                    await live.open(settings)
                    data = data_plane(live.doors, max_connections=max_connections())
                    async with heard(rumours, live):
                        yield Application(live, data, admin_plane(live.doors, data, live), telemetry, stores)
                finally:
                    await live.aclose()


def heard(rumours: Rumours | None, live: Live) -> AbstractAsyncContextManager[None]:
    """Have the replicas of whatever configuration answers hear what other gateways tell of them."""
    return rumours.heard_by(lambda change: live.now.replicas.hear(change, from_afar=True)) if rumours else nullcontext()


def serve(settings: Settings) -> None:
    """Answer on both listeners until SIGTERM or SIGINT; read the configuration again at each SIGHUP.

    Raises:
        UsageError: something cannot be opened; the message is one line.
    """
    leave_no_core()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    with listening_socket(settings.listen) as data_socket, listening_socket(settings.admin_listen) as admin_socket:
        async with create_app(settings) as application:
            log, live = application.telemetry.log, application.live
            await begin_with_a_key(settings, live.keys, log)
            data, admin = Listener(application.data), Listener(application.admin)
            with Signals(live) as signals:
                await data.open(data_socket)
                await admin.open(admin_socket)
                settle()
                log.write("gateway.started", listen=str(settings.listen), admin=str(settings.admin_listen))
                accept = await signals.asked_to_stop()
                limits = live.now.settings.limits
                log.write("gateway.draining", in_flight=live.in_flight)
                await depart(live, (data, admin), limits.accept_s if accept else 0.0, limits.drain_s, signals.hurried)
            application.telemetry.afterwards.finish()
            log.write("gateway.stopped")
