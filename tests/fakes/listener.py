"""A gateway's planes on a real loopback socket, in the test's own loop."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from app.api import Plane, data_plane
from app.api.access import Access
from app.api.connection.doors import Doors
from app.api.connection.wire import SEND_BUFFER_BYTES
from app.domain.models import Catalog
from app.domain.preferences import Profile
from app.errors import ConfigRejected
from app.store.keys.credentials import PepperFile
from app.store.keys.issuer import Issuer
from app.store.keys.key import Key, Keys, Secret, StaticKeys
from app.store.keys.key_store import SqliteKeys
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.telemetry.metrics import Metrics
from tests.fakes.gateway import Bench

UNLIMITED: Mapping[str, Any] = dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency", "budget"))
KEY = Key("tester", models=("*",), **UNLIMITED)
SECRET = "sk-test"
PROFILES = {"default": Profile(), "cheap": Profile()}


def keys(**secrets: Key) -> StaticKeys:
    """`keys(sk_a=Key(...))`: the names are the secrets, with - for _."""
    named = {name.replace("_", "-"): key for name, key in secrets.items()}
    return StaticKeys((Secret(secret), key) for secret, key in {SECRET: KEY, **named}.items())


def doors(bench: Bench, catalog: Catalog, known: Keys | None = None, body_limit_bytes: int = 4 << 20) -> Doors:
    access = Access(catalog, PROFILES)
    telemetry = Telemetry(bench.metrics, EventLog(bench.log))
    return Doors(known or keys(), access, bench.gateway, telemetry, body_limit_bytes)


@dataclass
class FakeRunning:
    """A running gateway of which only the configuration can be wrong."""

    problems: Sequence[str] = ()
    reloads: int = 0
    leaving: bool = False
    ejected: set[str] = field(default_factory=set)
    issuer: Issuer = field(
        default_factory=lambda: Issuer(SqliteKeys(Path("/dev/null/keys")), PepperFile(Path("/dev/null/pepper")))
    )

    async def reload(self) -> Mapping[str, Any]:
        if self.problems:
            raise ConfigRejected("wrong", details={"problems": list(self.problems)})
        self.reloads += 1
        return {"config": f"v{self.reloads}"}

    async def metrics(self) -> bytes:
        return Metrics().render()

    def leave(self) -> None:
        self.leaving = True

    def stay(self) -> None:
        self.leaving = False

    def set_aside(self, replica: str, *, aside: bool) -> Sequence[str]:
        (self.ejected.add if aside else self.ejected.discard)(replica)
        return sorted(self.ejected)


def application(bench: Bench, catalog: Catalog, known: Keys | None = None, **more: Any) -> Plane:
    return data_plane(doors(bench, catalog, known, **more))


class _Server(uvicorn.Server):
    """Leaves the signals of the test's process alone."""

    def install_signal_handlers(self) -> None:
        """Nothing."""


@asynccontextmanager
async def listening(plane: Plane) -> AsyncIterator[str]:
    """The address of a plane, while the block runs."""
    listener = socket.create_server(("127.0.0.1", 0))
    # Asyncio forgets to set this for listeners that it did not make: each answer would take 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    config = uvicorn.Config(plane.app, http=plane.protocol, log_level="critical", lifespan="off", server_header=False)
    config.load()
    server = _Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await _stop(server, listener)
        await _end(plane)


async def _stop(server: uvicorn.Server, listener: socket.socket) -> None:
    """As uvicorn does in a hurry, but for the tenth of a second that it waits even where nothing is open."""
    for one in server.servers:
        one.close()
    listener.close()
    for connection in tuple(server.server_state.connections):
        connection.shutdown()
    ends_at = time.monotonic() + 0.1
    while server.server_state.connections and time.monotonic() < ends_at:
        await asyncio.sleep(0.002)
    for task in tuple(server.server_state.tasks):
        task.cancel()
    await asyncio.sleep(0)


async def _end(plane: Plane) -> None:
    """Wait for nobody: what is open yet has its time cut short, phase by phase."""
    for _ in range(5):
        for connection in tuple(plane.front.connections):
            connection.overdue()
        await asyncio.sleep(0)
