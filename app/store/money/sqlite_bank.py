"""The bank of one machine's processes: two tables beside the journal, so that what is spent and what is lent agree."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.domain.clock import Clock
from app.store.money.accounts import NANO_USD, SILENT_S, Claim, Standing, slice_of
from app.store.redis_client import StoreDown
from app.store.sqlite import open_database, transaction


class SqliteBank:
    """A `Bank` in a folder. All of SQLite's work is done in one thread of its own."""

    forgets = False

    def __init__(
        self,
        folder: Path,
        holder: str,
        clock: Clock = time.monotonic,
        silent_s: float = SILENT_S,
        has_spool: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`holder` names this process; `clock` is the machine's, which all of its processes share; `has_spool` says
        whether a holder may have spent what is not recorded yet.

        Raises:
            UsageError: the database cannot be opened.
        """
        self._connection, self._holder = open_database(folder), holder
        # After a crash of the machine nobody is left who was lent anything, so nothing has to reach the disk at once.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._clock, self._silent_s, self._has_spool = clock, silent_s, has_spool
        self._held_usd: dict[tuple[str, str], float] = {}
        """What this holder was lent in all, less what came back, while there is a row of it; a purse is wrong about
        that once an exchange has failed."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bank")

    async def hello(self) -> float:
        """Each exchange says who lives."""
        return 0.0

    async def exchange(self, claim: Claim) -> Standing:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._exchange, claim)
        except sqlite3.Error as exc:
            raise StoreDown(str(exc)) from exc

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=True)

    def _exchange(self, claim: Claim) -> Standing:
        account, now = (claim.key_id, claim.period), self._clock()
        with transaction(self._connection) as connection:
            self._forget_the_dead(account, now)
            spent_usd = _sum(connection, "SELECT usd FROM spent WHERE key_id = ? AND period = ?", account)
            lent = dict(
                connection.execute("SELECT holder, usd FROM leases WHERE key_id = ? AND period = ?", account).fetchall()
            )
            held_usd, own_usd = claim.held_usd, claim.own_usd
            if self._holder in lent:
                held_usd, own_usd = self._held_usd.get(account, held_usd), lent.pop(self._holder)
            # Below zero is who has spent more than it was lent, which is in what was spent.
            others_usd = sum(max(0.0, usd) for usd in lent.values())
            left_usd = claim.limit_usd - spent_usd - others_usd - max(0.0, own_usd)
            change_usd = slice_of(left_usd, claim.most_usd, claim.least_usd) - claim.back_usd
            held_usd, own_usd = held_usd + change_usd, own_usd + change_usd
            self._keep(account, own_usd, now)
        self._remember(account, held_usd, own_usd)
        return Standing(held_usd, own_usd, spent_usd, others_usd + max(0.0, own_usd))

    def _remember(self, account: tuple[str, str], held_usd: float, own_usd: float) -> None:
        if _is_nothing(own_usd):
            self._held_usd.pop(account, None)
        else:
            self._held_usd[account] = held_usd

    def _forget_the_dead(self, account: tuple[str, str], now: float) -> None:
        # A time to come is of before the machine was started.
        silent = self._connection.execute(
            "SELECT holder FROM leases"
            " WHERE key_id = ? AND period = ? AND holder <> ? AND (seen_at < ? OR seen_at > ?)",
            (*account, self._holder, now - self._silent_s, now + 1.0),
        ).fetchall()
        # Who records a spool frees what is left of its lease.
        dead = [(*account, holder) for (holder,) in silent if not self._has_spool(holder)]
        if dead:
            self._connection.executemany("DELETE FROM leases WHERE key_id = ? AND period = ? AND holder = ?", dead)

    def _keep(self, account: tuple[str, str], own_usd: float, now: float) -> None:
        if _is_nothing(own_usd):
            self._connection.execute(
                "DELETE FROM leases WHERE key_id = ? AND period = ? AND holder = ?", (*account, self._holder)
            )
            return
        self._connection.execute(
            "INSERT INTO leases (key_id, period, holder, usd, seen_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (key_id, period, holder) DO UPDATE SET usd = excluded.usd, seen_at = excluded.seen_at",
            (*account, self._holder, own_usd, now),
        )


def _is_nothing(usd: float) -> bool:
    return abs(usd) < NANO_USD


def _sum(connection: sqlite3.Connection, query: str, values: tuple[str, str]) -> float:
    found = connection.execute(query, values).fetchone()
    return found[0] if found else 0.0
