"""A caller's connection without a socket: what the gateway writes to it is kept."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from app.api import Plane
from app.api.connection.wire import Wire


class CallerTransport(asyncio.Transport):
    """Takes everything at once, until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = self.aborted = self.half_closed = self.paused = False
        self.unsent = 0
        """What `get_write_buffer_size` says."""
        self.writes = 0
        self.high_water_bytes: int | None = None

    def write(self, data: Any) -> None:
        self.writes += 1
        self.written += data

    def write_eof(self) -> None:
        self.half_closed = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high_water_bytes = high

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class FakeConnection:
    """One caller of a plane, inside a running loop."""

    def __init__(self, plane: Plane) -> None:
        self.transport = CallerTransport()
        config = Config(plane.app, http=plane.protocol, lifespan="off", log_config=None)
        config.load()
        self.server = ServerState()
        make = cast("Any", plane.protocol)
        self.wire: Wire = make(config=config, server_state=self.server, app_state={})
        self.wire.connection_made(self.transport)

    @property
    def written(self) -> bytes:
        return bytes(self.transport.written)

    def send(self, data: bytes) -> None:
        self.wire.data_received(data)

    def leave(self) -> None:
        self.transport.closed = True
        self.wire.connection_lost(None)

    async def ask(self, data: bytes) -> bytes:
        """Send this, and return what was written until all calls were answered."""
        seen = len(self.written)
        self.send(data)
        await self.settle()
        return self.written[seen:]

    async def settle(self) -> None:
        """Let all calls be answered."""
        while self.server.tasks:
            await asyncio.gather(*self.server.tasks, return_exceptions=True)
        await asyncio.sleep(0)
