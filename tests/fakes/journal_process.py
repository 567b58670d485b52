"""A process that journals requests as fast as it can, until it has done its share or is killed.

Run it with a JSON object of `Work`. What it did it appends to a file, one line each, after the fact: `a` and the id of
a request that was admitted and may be sent, `s`, the id and the machine's clock when it is settled.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from app.domain.usage import Usage
from app.routing.outline import Outlines
from app.store.journal.journal import Entry, Outcome
from app.store.journal.kept import JournalStore
from app.store.journal.recorder import Recorder
from app.store.journal.recording import RecordedJournal
from app.store.journal.redis_journal import PATIENCE_S, RedisJournal
from app.store.journal.spool import Spool
from app.store.journal.sqlite_journal import SqliteJournal
from app.store.redis_client import RedisClient
from app.telemetry import Telemetry
from tests.fakes.world import decision, request

COST_USD = 0.001
AT_A_TIME = 40
# Some requests run while many segments are filled, so that they are carried on.
SEGMENT_BYTES, LONG_EVERY, LONG_S = 32 << 10, 300, 1.5


@dataclass(frozen=True)
class Work:
    """What a process is to do."""

    folder: str
    redis: str | None
    first: int
    """Requests have numbers from here on."""
    count: int
    file_bytes: int | None = None
    """The largest file that it may write."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.fakes.journal_process", json.dumps(asdict(self))]


@asynccontextmanager
async def opened(folder: Path, redis: str | None) -> AsyncIterator[JournalStore]:
    """The store in this folder, or in Redis."""
    client = RedisClient(redis, None, time.monotonic, PATIENCE_S) if redis else None
    store: JournalStore = RedisJournal(client) if client else SqliteJournal(folder)
    try:
        yield store
    finally:
        await store.aclose()
        if client:
            await client.aclose()


@asynccontextmanager
async def recording(folder: Path, redis: str | None, **limits: int) -> AsyncIterator[tuple[RecordedJournal, Recorder]]:
    """A journal whose recorder runs."""
    spool = Spool(folder / "spool", **limits)
    async with opened(folder, redis) as store:
        recorder = Recorder(spool, store, Telemetry(), time.monotonic, time.time)
        recorder.start()
        try:
            yield RecordedJournal(spool, store, Outlines(), time.time), recorder
        finally:
            await recorder.aclose()


def entry(number: int, key_id: str = "tester") -> Entry:
    """One that was admitted and is to be decided."""
    return Entry(f"req-{number}", key_id, decided(number), request=request())


def decided(number: int):  # type: ignore[no-untyped-def]  # what `decision` makes
    from dataclasses import replace

    return replace(decision("small", "large"), decision_id=f"dec-{number}")


OK = Outcome("ok", model="small", attempts=1, usage=Usage(100, 20), cost_usd=COST_USD, ttft_s=0.1, duration_s=0.2)


async def _work(work: Work) -> None:
    folder = Path(work.folder)
    told = os.open(folder / "told", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    places = asyncio.Semaphore(AT_A_TIME)
    limits = {"segment_bytes": SEGMENT_BYTES}
    async with recording(folder, work.redis, **limits) as (journal, _), asyncio.TaskGroup() as tasks:
        for number in range(work.first, work.first + work.count):
            await places.acquire()
            tasks.create_task(_one(journal, number, told, places))


async def _one(journal: RecordedJournal, number: int, told: int, places: asyncio.Semaphore) -> None:
    one = entry(number)
    journal.admitted(one)
    journal.decided(one)
    os.write(told, f"a req-{number}\n".encode())
    await asyncio.sleep(random.uniform(0.0, 0.02) if number % LONG_EVERY else LONG_S)
    one.outcome = OK
    journal.closed(one)
    os.write(told, f"s req-{number} {time.monotonic()}\n".encode())
    places.release()


if __name__ == "__main__":
    asyncio.run(_work(Work(**json.loads(sys.argv[1]))))
