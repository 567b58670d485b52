"""One of a gateway's workers, as its parent knows it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from app.channel import Channel, OtherSideGone
from app.settings import Files
from app.telemetry.series import State
from app.worker import told


@dataclass(eq=False)
class Member:
    """One worker: its process now, and what it said last."""

    number: int
    process: asyncio.subprocess.Process | None = None
    channel: Channel | None = None
    version: str = ""
    """Of the configuration that it has, or begins with."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    failure: str | None = None
    ready: bool = False
    in_flight: int = 0
    counted: Mapping[str, State] = field(default_factory=dict)

    async def ask(self, what: str, value: Any = None) -> Any:
        """None when it is not there."""
        if self.channel is None:
            return None
        with suppress(OtherSideGone):
            return await self.channel.ask(what, value)
        return None

    async def prepare(self, files: Files) -> list[str]:
        """Have it be ready for these files; returns what is wrong with them, as far as it can tell by now."""
        return await self.ask("prepare", told(files)) or []

    async def commit(self, version: str) -> None:
        """Have it answer by the files of this version, if it was ready for them.

        One that is still starting has nothing to exchange, and begins with the version that it asked for.
        """
        if await self.ask("commit"):
            self.version = version

    async def look(self) -> None:
        """Hear how it is."""
        if seen := await self.ask("look"):
            self.ready, self.in_flight, self.counted = seen["ready"], seen["in_flight"], seen["metrics"]

    def send(self, number: signal.Signals) -> None:
        if self.process:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
