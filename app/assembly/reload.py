"""The configuration that answers now, and its exchange for another one while requests run.

How it works: the files are read and checked in full, away from the event loop. What is wrong is refused with one line
for each thing, and nothing changes. Else all calls from one moment on see the new snapshot; those that began before
end on the old one, whose connections to backends are closed after the last of them. So each request sees one version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.admission.gate import Gate
from app.api.connection.doors import Doors
from app.api.connection.front import Patience
from app.assembly.generated_keys import GeneratedKeys
from app.assembly.snapshot import Draft, Lasting, Snapshot
from app.errors import ConfigRejected, UsageError
from app.settings import Files, Settings, load_settings
from app.store.keys.issuer import Issuer
from app.telemetry import Telemetry

# What a backend that was taken out of the configuration still answers may take so long.
BACKEND_DRAINS_S = 60.0
# How often it is looked whether an old snapshot is still used.
LOOK_EVERY_S = 0.1


class Live:
    """Leads calls to the snapshot of now. Open it in a running loop, close it when nothing is served any more."""

    def __init__(self, lasting: Lasting) -> None:
        self._lasting = lasting
        self._turn = asyncio.Lock()
        self._retired: dict[Snapshot, asyncio.Task[None]] = {}
        self._now: Snapshot | None = None
        self._prepared: Draft | None = None
        self._doors: Doors | None = None

    @property
    def now(self) -> Snapshot:
        assert self._now is not None  # noqa: S101 - for the type checker: it is opened before it is used
        return self._now

    @property
    def doors(self) -> Doors:
        """Where calls go through; the same object before and after a reload."""
        assert self._doors is not None  # noqa: S101 - as above
        return self._doors

    @property
    def gate(self) -> Gate:
        return self._lasting.gate

    @property
    def keys(self) -> GeneratedKeys:
        return self._lasting.stores.keys

    @property
    def issuer(self) -> Issuer:
        return self.keys.issuer

    @property
    def in_flight(self) -> int:
        return sum(snapshot.admission.in_flight for snapshot in (self.now, *self._retired))

    def cut(self) -> None:
        """End all that is in flight."""
        for snapshot in (self.now, *self._retired):
            snapshot.admission.cut()

    async def open(self, settings: Settings) -> None:
        """Answer by these settings.

        Raises:
            UsageError: something that they name cannot be used.
        """
        await self._take_over(await _opened(await asyncio.to_thread(Draft.of, settings)))

    async def aclose(self) -> None:
        await self.discard()
        for task in self._retired.values():
            task.cancel()
        await asyncio.gather(*self._retired.values(), return_exceptions=True)
        for snapshot in (*self._retired, *([self._now] if self._now else [])):
            await snapshot.close()

    async def reload(self) -> Mapping[str, Any]:
        """Read the same files again; return the version that answers from now on.

        Raises:
            ConfigRejected: they are wrong; what was before stays.
        """
        async with self._turn:
            began_at = time.monotonic()
            try:
                await self._take_over(await self._drafted())
            except ConfigRejected as exc:
                rejected(self._lasting.telemetry, exc)
                raise
            self._lasting.telemetry.metrics.config_applied.inc()
            seconds = round(time.monotonic() - began_at, 3)
            self._lasting.telemetry.log.write("config.applied", config=self.now.settings.version, seconds=seconds)
            return {"config": self.now.settings.version, "seconds": seconds}

    async def metrics(self) -> bytes:
        return self._lasting.telemetry.metrics.render()

    def leave(self) -> None:
        self.gate.leaving = True

    def stay(self) -> None:
        self.gate.leaving = False

    def set_aside(self, replica: str, *, aside: bool) -> list[str]:
        return self.now.replicas.set_aside(replica, aside=aside)

    async def prepare(self, files: Files) -> None:
        """The first half of a reload: be ready to take these files over, or to `discard` them.

        Raises:
            ConfigRejected: they are wrong.
        """
        # Who asked may have given up and asked for something else: all of it is done in the order of asking.
        async with self._turn:
            await self._forget()
            self._prepared = await self._drafted(files)

    async def commit(self) -> bool:
        """The second half: answer by what was prepared, if anything was; returns whether it was."""
        async with self._turn:
            if self._prepared is None:
                return False
            draft, self._prepared = self._prepared, None
            await self._take_over(draft)
            return True

    async def discard(self) -> None:
        """Forget what was prepared."""
        async with self._turn:
            await self._forget()

    async def _forget(self) -> None:
        if self._prepared:
            await self._prepared.discard()
            self._prepared = None

    async def _drafted(self, files: Files | None = None) -> Draft:
        try:
            return await _opened(await asyncio.to_thread(self._draft, files))
        except UsageError as exc:
            raise rejection(str(exc).splitlines()) from exc
        except Exception as exc:  # whatever it is, a file must not end a gateway that runs
            raise rejection([f"{type(exc).__name__} while it was read"]) from exc

    def _draft(self, files: Files | None) -> Draft:
        settings = load_settings(self.now.settings.path, files=files)
        return Draft.of(settings, self.now)

    async def _take_over(self, draft: Draft) -> None:
        before, now = self._now, Snapshot(draft, self._lasting, self._now)
        self._now = now
        if self._doors is None:
            self._doors = replace(now.doors)
        else:
            self._doors.become(now.doors)
        await now.watch()
        if before:
            self._retired[before] = asyncio.create_task(self._retire(before), name="retire")

    async def _retire(self, snapshot: Snapshot) -> None:
        """Close a snapshot after its last request; whoever still waits for a backend that is gone is cut at last."""
        await snapshot.retire()
        cut_at = time.monotonic() + BACKEND_DRAINS_S
        # A call that came just before may still be sending its body, and is not in flight before that is here.
        await asyncio.sleep(Patience().body_s + 1)
        while snapshot.admission.in_flight:
            if time.monotonic() > cut_at:
                snapshot.admission.cut(snapshot.backends - self.now.backends)
            await asyncio.sleep(LOOK_EVERY_S)
        del self._retired[snapshot]
        snapshot.replicas.ejections.gone(self.now.replicas.ejections)
        await snapshot.close()


async def _opened(draft: Draft) -> Draft:
    """The draft, with all that has to be awaited before it can run."""
    try:
        await draft.router.tabulate()
        await draft.client.open()
    except BaseException:
        await draft.discard()
        raise
    return draft


def rejection(lines: Sequence[str]) -> ConfigRejected:
    """What an operator hears of a configuration that is wrong."""
    ways = "one way" if len(lines) == 1 else f"{len(lines)} ways"
    message = f"the configuration is wrong in {ways}, and the one before stays; see details"
    return ConfigRejected(message, details={"problems": list(lines)})


def rejected(telemetry: Telemetry, rejection: ConfigRejected) -> None:
    """Count and log it."""
    telemetry.metrics.config_rejected.inc()
    telemetry.log.write("config.rejected", problems=(rejection.details or {})["problems"])
