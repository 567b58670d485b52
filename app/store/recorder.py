"""Takes what was spooled to where it is kept, twice a second, and looks after the spools of processes that died.

While the store is down the spool holds everything, and it is applied when the store is back. What a dead process had
not told is told in its place: its requests that had begun and not ended are `interrupted`, at the cost that was
expected of them. Of several processes that notice, the one that gets the lock does it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from app.store.follower import Follower
from app.store.kept import Batch, JournalStore
from app.store.limits import Clock
from app.store.redis_client import StoreDown
from app.store.spool import Mark, Spool, adopt, remove, spools
from app.telemetry import Telemetry

EVERY_S = 0.5
SWEEP_EVERY_S, TRIM_EVERY_S = 60.0, 600.0
# After the store was down: sooner than a minute, for those who look for what a dead process did.
SWEEP_AGAIN_S = 5.0
# How long the end of the process waits for the store. What is not applied by then is, at the next start.
CLOSE_WITHIN_S = 5.0

T = TypeVar("T")


class Recorder:
    """Records one spool. Make it in a running loop."""

    def __init__(
        self, spool: Spool, store: JournalStore, telemetry: Telemetry, clock: Clock, wall_clock: Callable[[], float]
    ) -> None:
        self._spool, self._store, self._telemetry = spool, store, telemetry
        self._clock, self._wall_clock = clock, wall_clock
        self._follower = Follower(spool.path, store.batch_rows)
        self._pending: Batch | None = None
        self._synced = Mark(1, 0)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._was_stopped = False
        self.has_swept = False
        """Whether what dead processes left has been recorded once, as far as it can be read."""
        self._due: dict[str, float] = {}
        telemetry.metrics.refresh_with(self._tell)

    def start(self) -> None:
        """Record from now on, after what dead processes left."""
        self._task = asyncio.create_task(self._run(), name="recorder")

    async def aclose(self) -> None:
        """Record what is left, and end; what the store does not take now stays for the next start."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        is_done = False
        with suppress(TimeoutError, StoreDown, OSError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self.record()
                is_done = not self._spool.is_stopped and not self._follower.open
        self._thread.shutdown(wait=True)
        self._spool.close(is_done=is_done)
        if is_done:
            with suppress(StoreDown):
                await self._store.forget(self._spool.id)

    async def record(self) -> None:
        """Apply all that was spooled by now.

        Raises:
            StoreDown: the store does not take it; it is tried again with the next call.
        """
        async with self._turn:
            self._telemetry.afterwards.finish()
            self._spool.flush()
            end = self._spool.mark
            if end != self._synced:
                # A store must never know of a row that a crash of the machine takes from the spool.
                await self._in_thread(partial(self._spool.sync, self._synced, end))
                self._synced = end
            while True:
                batch = self._pending
                if batch is None:
                    batch = await self._in_thread(partial(self._follower.batch, end))
                if batch.until == self._follower.applied:
                    break
                self._pending = batch
                await self._apply(self._follower, batch)
                self._pending = None
            self._spool.freed(await self._in_thread(lambda: _drop(self._follower)))

    async def recover(self) -> None:
        """Finish what dead processes left.

        Raises:
            StoreDown: as `record`.
        """
        for path in await self._in_thread(lambda: spools(self._spool.path.parent)):
            if path == self._spool.path or (lock := adopt(path)) is None:
                continue
            try:
                # Another process may have finished and dropped it just now.
                if path.exists():
                    await self._finish(path)
            except (StoreDown, OSError):
                raise
            except Exception as exc:  # noqa: BLE001 - one that cannot be read must not keep others from being recorded
                self._failed("recover", exc)
            finally:
                os.close(lock)
        self.has_swept = True

    async def _finish(self, path: Path) -> None:
        follower = Follower(path, self._store.batch_rows, await self._store.applied(path.name))
        records = interrupted = 0
        while batch := await self._in_thread(follower.batch):
            await self._apply(follower, batch)
            records += len(batch.ended)
        for batch in follower.interrupted(round(self._wall_clock(), 3)):
            await self._apply(follower, batch)
            interrupted += len(batch.ended)
        await self._in_thread(lambda: remove(path))
        await self._store.forget(path.name)
        self._telemetry.metrics.journal_interrupted.inc(amount=float(interrupted))
        self._telemetry.log.write("journal.recovered", spool=path.name, records=records, interrupted=interrupted)

    async def _apply(self, follower: Follower, batch: Batch) -> None:
        if batch:
            await self._store.apply(batch)
        follower.applied = batch.until

    async def _run(self) -> None:
        while True:
            await self._step("sweep", SWEEP_EVERY_S, self.recover, SWEEP_AGAIN_S)
            await self._step("record", EVERY_S, self.record, EVERY_S)
            await self._step("trim", TRIM_EVERY_S, self._trim, SWEEP_EVERY_S)
            self._log_change()
            await asyncio.sleep(EVERY_S)

    async def _step(self, name: str, every_s: float, work: Callable[[], Any], again_s: float) -> None:
        """Do a part of the work if it is due; what fails is tried again."""
        if self._clock() < self._due.get(name, 0.0):
            return
        wait_s = again_s
        try:
            await work()
            wait_s = every_s
        except (StoreDown, OSError):
            pass  # the spool has it
        except Exception as exc:  # noqa: BLE001 - nobody else would hear of a bug, and it must not end the recording
            self._failed(name, exc)
        self._due[name] = self._clock() + wait_s - EVERY_S / 10

    def _failed(self, step: str, error: Exception) -> None:
        self._telemetry.log.write("journal.failed", step=step, cause=type(error).__name__)

    def _log_change(self) -> None:
        if self._spool.is_stopped is not self._was_stopped:
            self._was_stopped = self._spool.is_stopped
            log, seen = self._telemetry.log, {"kept_bytes": self._spool.kept_bytes, "dropped": self._spool.dropped}
            if self._was_stopped:
                log.write("journal.stopped", **seen)
            else:
                log.write("journal.resumed", **seen)

    async def _trim(self) -> None:
        await self._store.trim(self._wall_clock())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _tell(self) -> None:
        spool, metrics = self._spool, self._telemetry.metrics
        metrics.journal_rows_dropped.values[()] = float(spool.dropped)
        metrics.journal_spool_bytes.set(float(spool.kept_bytes))
        metrics.journal_stopped.set(float(spool.is_stopped))


def _drop(follower: Follower) -> int:
    """Drop the segments that are done with; how many bytes that were."""
    freed = 0
    for path in follower.done_with():
        freed += path.stat().st_size
        path.unlink()
    return freed
