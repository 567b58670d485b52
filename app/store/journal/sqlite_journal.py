"""The journal and what was spent in SQLite: a batch, and how far its spool has come, in one transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import orjson

from app.store.journal.kept import DAY_S, KEEP, Batch, Ended, Keep, Kept, told_feedback
from app.store.redis_client import StoreDown
from app.store.sqlite import open_database, transaction

# A record takes 2 KB.
RECORDS = 1_000_000
# So many go at a time, so that nobody waits long for the lock.
TRIMMED_AT_ONCE = 5_000
# Each statement lets go of the interpreter and takes it back, and the thread that answers callers pays for that too.
# A power of two.
INSERTED_AT_ONCE = 128

T = TypeVar("T")


class SqliteJournal:
    """A `JournalStore` in a folder. All of SQLite's work is done in one thread of its own."""

    # Four times as many as in a step of 100 take a third less each; a step takes some milliseconds.
    batch_rows = 400

    def __init__(self, folder: Path, keep: Keep = KEEP) -> None:
        """
        Raises:
            UsageError: the database cannot be opened.
        """
        self._connection, self._keep = open_database(folder), keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=True)

    async def applied(self, spool: str) -> int:
        return await self._do(lambda: _applied(self._connection, spool))

    async def apply(self, batch: Batch) -> None:
        await self._do(lambda: self._apply(batch))

    async def forget(self, spool: str) -> None:
        """All that its process had spent is recorded, so what it had been lent beyond that is free."""
        await self._do(lambda: self._connection.execute("DELETE FROM leases WHERE holder = ?", (spool,)))
        await self._do(lambda: self._connection.execute("DELETE FROM spools WHERE spool = ?", (spool,)))

    async def find(self, decision_id: str) -> Kept | None:
        return await self._do(lambda: self._find(decision_id))

    async def feedback(self, decision_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        return await self._do(lambda: self._feedback(decision_ids))

    async def after(self, place: str | None, most: int) -> list[tuple[str, bytes]]:
        return await self._do(lambda: self._after(int(place or 0), most))

    async def place_before(self, latest: int) -> str | None:
        """Numbers have no gaps but the old ones."""
        return await self._do(lambda: str(max(0, _last(self._connection) - latest)))

    async def trim(self, now: float) -> None:
        while await self._do(lambda: self._trim(now)) == TRIMMED_AT_ONCE:
            pass

    async def _do(self, work: Callable[[], T]) -> T:
        """
        Raises:
            StoreDown: the disk is full, or another process holds the database for too long.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as exc:
            raise StoreDown(str(exc)) from exc

    def _apply(self, batch: Batch) -> None:
        with transaction(self._connection) as connection:
            applied = _applied(connection, batch.spool)
            ended = [one for one in batch.ended if one.seq > applied]
            _insert(connection, batch.spool, ended)
            _spend(connection, batch.spool, ended)
            connection.executemany(
                "INSERT INTO feedback (decision_id, key_id, given_at, feedback) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (decision_id) DO UPDATE SET given_at = excluded.given_at, feedback = excluded.feedback"
                " WHERE excluded.given_at >= feedback.given_at",
                [(one.decision_id, one.key_id, one.at, one.payload) for one in batch.feedback if one.seq > applied],
            )
            connection.execute(
                "INSERT INTO spools (spool, applied) VALUES (?, ?)"
                " ON CONFLICT (spool) DO UPDATE SET applied = max(applied, excluded.applied)",
                (batch.spool, batch.until),
            )

    def _find(self, decision_id: str) -> Kept | None:
        found = self._connection.execute(
            "SELECT key_id, record FROM records WHERE decision_id = ?", (decision_id,)
        ).fetchone()
        if found is None:
            return None
        return Kept(found[0], orjson.loads(found[1]), self._feedback([decision_id]).get(decision_id))

    def _feedback(self, decision_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        told: dict[str, dict[str, Any]] = {}
        for decision_id in decision_ids:
            found = self._connection.execute(
                "SELECT feedback FROM feedback WHERE decision_id = ?", (decision_id,)
            ).fetchone()
            if found is not None:
                told[decision_id] = told_feedback(found[0])
        return told

    def _after(self, number: int, most: int) -> list[tuple[str, bytes]]:
        rows = self._connection.execute(
            "SELECT number, record FROM records WHERE number > ? ORDER BY number LIMIT ?", (number, most)
        )
        return [(str(place), record) for place, record in rows]

    def _trim(self, now: float) -> int:
        with transaction(self._connection) as connection:
            keep_after = _last(connection) - (self._keep.records or RECORDS)
            since = now - self._keep.days * DAY_S
            # One from the future was made while the clock was wrong, and would keep all that came after it.
            # Numbers follow the order of application, which is nearly that of time: only the oldest are looked at.
            dropped = connection.execute(
                "DELETE FROM records WHERE number IN (SELECT number FROM records ORDER BY number LIMIT ?)"
                " AND (number <= ? OR at < ? OR at > ?)",
                (TRIMMED_AT_ONCE, keep_after, since, now + DAY_S),
            ).rowcount
            connection.execute("DELETE FROM feedback WHERE given_at < ?", (since,))
            return dropped


def _applied(connection: sqlite3.Connection, spool: str) -> int:
    found = connection.execute("SELECT applied FROM spools WHERE spool = ?", (spool,)).fetchone()
    return int(found[0]) if found else 0


def _last(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute("SELECT max(number) FROM records").fetchone()
    return number or 0


def _insert(connection: sqlite3.Connection, spool: str, ended: Sequence[Ended]) -> None:
    at = 0
    while at < len(ended):
        # Powers of two only: every length is a statement of its own, and what is prepared for it takes memory for good.
        count = min(1 << (len(ended) - at).bit_length() - 1, INSERTED_AT_ONCE)
        marks = ", ".join(["(?, ?, ?, ?, ?, ?)"] * count)
        connection.execute(
            f"INSERT INTO records (spool, seq, at, key_id, decision_id, record) VALUES {marks} ON CONFLICT DO NOTHING",  # noqa: S608 - marks
            [
                value
                for one in ended[at : at + count]
                for value in (spool, one.of, one.at, one.key_id, one.decision_id, one.record)
            ],
        )
        at += count


def _spend(connection: sqlite3.Connection, holder: str, ended: Sequence[Ended]) -> None:
    """Add what was spent; what its process had been lent for it is lent no more."""
    usd: defaultdict[tuple[str, str], float] = defaultdict(float)
    held_usd: defaultdict[tuple[str, str], float] = defaultdict(float)
    for one in ended:
        for period in one.periods if one.usd else ():
            usd[one.key_id, period] += one.usd
        if one.held_in and one.usd:
            held_usd[one.key_id, one.held_in] += one.usd
    connection.executemany(
        "INSERT INTO spent (key_id, period, usd) VALUES (?, ?, ?)"
        " ON CONFLICT (key_id, period) DO UPDATE SET usd = usd + excluded.usd",
        [(*where, amount) for where, amount in usd.items()],
    )
    connection.executemany(
        "UPDATE leases SET usd = usd - ? WHERE key_id = ? AND period = ? AND holder = ?",
        [(amount, *where, holder) for where, amount in held_usd.items()],
    )
