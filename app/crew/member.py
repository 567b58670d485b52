"""One of a gateway's workers, as its parent knows it.

It may stand still: a disk that does not answer, a swapping machine, a debugger. What is asked of it is given up after a
while then, and what it was asked it does when it moves again, in the order in which it was asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from app.crew.channel import Channel, NotAnswered, OtherSideGone
from app.crew.worker import as_json
from app.settings import Files
from app.telemetry.series import State


@dataclass(frozen=True)
class Patience:
    """How long a worker may take to answer."""

    start_s: float = 120.0
    """From its process to its first call. Loading takes it seconds, more where all workers start at once."""
    look_s: float = 1.0
    """Reading metrics takes it milliseconds. Who asks for those of all workers waits for the slowest one."""
    silent_s: float = 5.0
    """One that says nothing for so long is not believed to take requests; a shorter pause may be a busy machine."""
    reload_s: float = 30.0
    """For each half. Loading an artifact takes seconds, on a machine where all workers do so at once."""


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
    patience: Patience = Patience()
    ready: bool = False
    in_flight: int = 0
    counted: Mapping[str, State] = field(default_factory=dict)
    _look: asyncio.Task[None] | None = None
    _looked_at: float = 0.0

    def tell(self, what: str, value: Any = None) -> None:
        """Say it, if it is there."""
        if self.channel is not None:
            self.channel.tell(what, value)

    async def prepare(self, files: Files) -> list[str]:
        """Have it be ready for these files; returns what is wrong with them, as far as it can tell by now."""
        limit_s = self.patience.reload_s
        try:
            return await self._ask("prepare", as_json(files), limit_s) or []
        except TimeoutError:
            return [f"worker {self.number} did not answer within {limit_s:g} s; reload again when it does"]
        except NotAnswered as exc:
            return [f"worker {self.number} failed to read it: {exc}"]

    async def commit(self, version: str) -> None:
        """Have it answer by the files of this version, if it was ready for them.

        One that is still starting has nothing to exchange, and begins with the version that it asked for. One that
        stands still does it when it moves again. One that cannot leaves, and another one begins with these files.
        """
        try:
            if await self._ask("commit", None, self.patience.reload_s):
                self.version = version
        except TimeoutError:
            pass
        except NotAnswered:
            self.tell("stop", True)

    async def look(self) -> None:
        """Hear how it is; of one that does not say so soon, what it said last stays until it does."""
        if self._look is None:
            self._look, self._looked_at = asyncio.create_task(self._hear()), time.monotonic()
        # It is asked once, however often somebody looks meanwhile.
        await asyncio.wait((self._look,), timeout=self.patience.look_s)
        if self.is_silent:
            self.ready = False

    @property
    def is_silent(self) -> bool:
        """Whether it has not said for long how it is, though it had before: it does not just start."""
        return bool(self._look and self.counted) and time.monotonic() - self._looked_at > self.patience.silent_s

    async def _hear(self) -> None:
        try:
            if seen := await self._ask("look"):
                self.ready, self.in_flight, self.counted = seen["ready"], seen["in_flight"], seen["metrics"]
        except NotAnswered:
            self.ready = False
        finally:
            self._look = None

    async def _ask(self, what: str, value: Any = None, within_s: float | None = None) -> Any:
        """None when it is not there."""
        if self.channel is None:
            return None
        with suppress(OtherSideGone):
            return await self.channel.ask(what, value, within_s)
        return None

    def kill(self) -> None:
        if self.process:
            with suppress(ProcessLookupError):
                self.process.kill()
