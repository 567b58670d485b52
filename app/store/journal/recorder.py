"""Takes what was spooled to where it is kept, twice a second, and looks after the spools of processes that died.

What has happened is on the disk half a second later, whatever the store does: a task of its own sees to that. While
the store is down the spool holds everything, and it is applied when the store is back. What a dead process had not told
is told in its place: its requests that had begun and not ended are `interrupted`, at the cost that was expected of
them. Of several processes that notice, the one that gets the lock does it.
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

from app.domain.clock import Clock
from app.store.journal.follower import Follower
from app.store.journal.kept import Batch, JournalStore
from app.store.journal.spool import Mark, Spool, adopt, remove, spools
from app.store.redis_client import StoreDown
from app.store.results import Heard, nobody
from app.telemetry import Telemetry

EVERY_S = 0.5
# How many segments before the present one are kept for requests that run for long, until those are carried on.
KEPT_BEHIND = 1
SWEEP_EVERY_S, TRIM_EVERY_S = 60.0, 600.0
# After the store was down: sooner than a minute, for those who look for what a dead process did.
SWEEP_AGAIN_S = 5.0
# How long the end of the process waits for the store. What is not applied by then is, at the next start.
CLOSE_WITHIN_S = 5.0

T = TypeVar("T")


class Recorder:
    """Records one spool. Make it in a running loop."""

    def __init__(
        self,
        spool: Spool,
        store: JournalStore,
        telemetry: Telemetry,
        clock: Clock,
        wall_clock: Callable[[], float],
        heard: Heard = nobody,
    ) -> None:
        self._spool, self._store, self._telemetry = spool, store, telemetry
        self._clock, self._wall_clock, self._heard = clock, wall_clock, heard
        self._follower = Follower(spool.path, store.batch_rows)
        self._synced = Mark(1, 0)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._sync_thread = ThreadPoolExecutor(1, thread_name_prefix="journal-sync")
        self._tasks: list[asyncio.Task[None]] = []
        self._turn, self._sync_turn = asyncio.Lock(), asyncio.Lock()
        self._was_stopped = False
        self.has_swept = False
        """Whether what dead processes left has been recorded once, as far as it can be read."""
        self._due: dict[str, float] = {}
        telemetry.metrics.refresh_with(self._publish)

    def start(self) -> None:
        """Record from now on, after what dead processes left."""
        self._tasks = [
            asyncio.create_task(self._run(), name="recorder"),
            asyncio.create_task(self._sync_for_ever(), name="recorder-sync"),
        ]

    async def aclose(self) -> None:
        """Record what is left, and end; what the store does not take now stays for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        is_done = False
        with suppress(TimeoutError, StoreDown, OSError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self.record()
                is_done = not self._spool.is_stopped and not self._follower.open
        self._thread.shutdown(wait=True)
        self._sync_thread.shutdown(wait=True)
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
            # A store must never know of a row that a crash of the machine takes from the spool.
            end = await self.sync()
            while True:
                batch = await self._in_thread(partial(self._follower.batch, end))
                if batch.until == self._follower.applied:
                    break
                await self._apply(self._follower, batch)
            self._spool.freed(await self._in_thread(lambda: _drop(self._follower)))
            # The segments that they keep can go when the rows that are written now were synced and read.
            self._spool.carry(self._follower.left_behind(KEPT_BEHIND))

    async def sync(self) -> Mark:
        """See to it that what has happened by now survives the machine; returns the end of what does.

        Raises:
            OSError: it may not.
        """
        async with self._sync_turn:
            self._telemetry.afterwards.finish()
            self._spool.flush()
            end = self._spool.mark
            if end != self._synced:
                await _done_in(self._sync_thread, partial(self._spool.sync, self._synced, end))
                self._synced = end
            return end

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
            try:
                await self._store.apply(batch)
            except StoreDown as exc:
                self._heard(exc)
                raise
            self._heard(None)
        follower.applied = batch.until

    async def _run(self) -> None:
        while True:
            await self._step("sweep", SWEEP_EVERY_S, self.recover, SWEEP_AGAIN_S)
            await self._step("record", EVERY_S, self.record, EVERY_S)
            await self._step("trim", TRIM_EVERY_S, self._trim, SWEEP_EVERY_S)
            await asyncio.sleep(EVERY_S)

    async def _sync_for_ever(self) -> None:
        while True:
            await self._step("sync", 0.0, self.sync, 0.0)
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
        return await _done_in(self._thread, work)

    def _publish(self) -> None:
        spool, metrics = self._spool, self._telemetry.metrics
        metrics.journal_rows_dropped.values[()] = float(spool.dropped)
        metrics.journal_spool_bytes.set(float(spool.kept_bytes))
        metrics.journal_stopped.set(float(spool.is_stopped))


async def _done_in(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Whoever is cancelled meanwhile still waits for its end, so that nobody else takes up what it is at."""
    doing = asyncio.get_running_loop().run_in_executor(thread, work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise


def _drop(follower: Follower) -> int:
    """Drop the segments that are done with; how many bytes that were."""
    freed = 0
    for path in follower.done_with():
        freed += path.stat().st_size
        path.unlink()
    return freed
