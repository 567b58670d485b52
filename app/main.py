"""Builds the gateway from settings, opens it, and closes it in reverse; runs it on two listeners."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass

import uvicorn
import uvloop

from app.admission import Admission, Ledger
from app.api import Plane, admin_plane, data_plane
from app.api.access import Access
from app.api.doors import Doors
from app.api.wire import SEND_BUFFER_BYTES
from app.errors import UsageError
from app.gateway import Desk, Gateway
from app.memory import memory_share
from app.router_model import RouterModel, load_router_model
from app.routing.candidates import CandidateTable
from app.routing.record import describe
from app.routing.router import Learned, Router
from app.settings import Address, Settings
from app.shedding import Shedding
from app.store.journal import RecentDecisions
from app.store.keys import Keys, OpenToAll, StaticKeys
from app.store.limits import MemoryLimits
from app.telemetry import Telemetry
from app.telemetry.metrics import Metrics
from app.upstream.client import UpstreamClient
from app.upstream.dispatcher import Dispatcher, DispatchLimits
from app.upstream.poller import Poller
from app.upstream.prober import Prober
from app.upstream.replicas import Replicas

BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Application:
    """An open gateway and its two faces."""

    gateway: Gateway
    router: Router
    data: Plane
    admin: Plane
    telemetry: Telemetry


@asynccontextmanager
async def create_app(settings: Settings) -> AsyncIterator[Application]:
    """Build everything and open it, for as long as the block runs.

    Raises:
        UsageError: the artifact or a backend's address cannot be used.
    """
    telemetry = _telemetry(settings)
    with (
        closing(telemetry.log),
        _admission(settings, telemetry) as admission,
        load_router_model(settings) as router_model,
    ):
        router = create_router(settings, router_model, telemetry.metrics.predicted)
        await router.tabulate()
        async with create_client(settings) as client:
            replicas = Replicas(settings.catalog, time.monotonic, telemetry)
            gateway = _gateway(settings, admission, router, client, replicas)
            poller, prober = Poller(client, replicas), Prober(client, replicas, settings.catalog)
            await poller.start()
            await prober.start()
            try:
                yield _application(settings, gateway, router, telemetry)
            finally:
                await prober.stop()
                await poller.stop()


def create_router(
    settings: Settings, router_model: RouterModel | None, count: Callable[[str], None] = lambda _: None
) -> Router:
    """The router alone: it needs no backend. `count` hears which encoder each predicted decision was made with."""
    versions = {"config": _version(settings)}
    if router_model is None:
        return Router(CandidateTable(settings.catalog, (), settings.scales), Learned(), settings.profiles, versions)
    learned = Learned(router_model.predictor, router_model.curve)
    table = CandidateTable(settings.catalog, router_model.predictor.models, settings.scales)
    return Router(table, learned, settings.profiles, versions | {"artifact": router_model.version}, count)


def serve(settings: Settings) -> None:
    """Answer on both listeners until SIGTERM or SIGINT.

    Raises:
        UsageError: something cannot be opened; the message is one line.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


def _telemetry(settings: Settings) -> Telemetry:
    catalog = settings.catalog
    metrics = Metrics(
        [model.name for model in catalog.models], settings.profiles, [backend.name for backend in catalog.backends]
    )
    return Telemetry(metrics)


def create_client(settings: Settings) -> UpstreamClient:
    keys = {backend: secret.reveal() for backend, secret in settings.backend_keys.items()}
    loopback = settings.listen.is_loopback
    return UpstreamClient(settings.catalog.backends, keys, settings.timeouts, allow_loopback=loopback)


@contextmanager
def _admission(settings: Settings, telemetry: Telemetry) -> Iterator[Admission]:
    limits = MemoryLimits(settings.limits.in_flight, time.monotonic)
    ledger = Ledger(limits, RecentDecisions(), telemetry)
    with Shedding(limits.fullness, memory_share(settings.limits.memory_mib)) as shedding:
        yield Admission(ledger, time.monotonic, settings.timeouts.total_s, shedding)


def _gateway(
    settings: Settings, admission: Admission, router: Router, client: UpstreamClient, replicas: Replicas
) -> Gateway:
    journal, telemetry = admission.ledger.journal, admission.ledger.telemetry
    dispatch = DispatchLimits(settings.timeouts, settings.max_attempts, settings.hedge)
    dispatcher = Dispatcher(client, replicas, dispatch, time.monotonic, telemetry)
    return Gateway(admission, Desk(router, journal, describe), dispatcher, replicas, telemetry)


def _application(settings: Settings, gateway: Gateway, router: Router, telemetry: Telemetry) -> Application:
    access = Access(settings.catalog, settings.profiles)
    doors = Doors(_keys(settings, telemetry), access, gateway, telemetry, settings.limits.body_bytes)
    data = data_plane(doors)
    return Application(gateway, router, data, admin_plane(doors, data), telemetry)


def _keys(settings: Settings, telemetry: Telemetry) -> Keys:
    if settings.keys:
        return StaticKeys(settings.keys)
    # Settings have checked that nobody but this machine can reach the listener.
    telemetry.log.write("keys.missing", meaning="every caller on this machine is let in, with the default limits")
    return OpenToAll()


def _version(settings: Settings) -> str:
    content = settings.path.read_bytes() + settings.catalog_path.read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


class _Server(uvicorn.Server):
    """One of several in a loop, so it leaves signals to who runs them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(settings: Settings) -> None:
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    with _listener(settings.listen) as data_socket, _listener(settings.admin_listen) as admin_socket:
        async with create_app(settings) as application:
            servers = [_server(application.data, settings), _server(application.admin, settings)]
            _stop_on_signals(application.gateway, servers)
            application.telemetry.log.write(
                "gateway.started", listen=str(settings.listen), admin=str(settings.admin_listen)
            )
            await asyncio.gather(
                *(server.serve([one]) for server, one in zip(servers, (data_socket, admin_socket), strict=True))
            )
            application.telemetry.log.write("gateway.stopped")


def _server(plane: Plane, settings: Settings) -> _Server:
    return _Server(
        uvicorn.Config(
            plane.app,
            http=plane.protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=round(settings.limits.drain_s),
            backlog=BACKLOG,
        )
    )


def _stop_on_signals(gateway: Gateway, servers: list[_Server]) -> None:
    def stop() -> None:
        gateway.drain()
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def _listener(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as exc:
        cause = os.strerror(exc.errno or 0)
        raise UsageError(f"cannot listen on {address}: {cause}; stop what does, or change the address") from exc
    # Accepted connections inherit it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return listener
