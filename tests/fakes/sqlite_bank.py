"""Real banks in a file, which fail or lose their answers when told to, as those of `tests.fakes.bank` do."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from app.store.money.accounts import Claim, Standing
from app.store.money.budgets import Bank
from app.store.money.sqlite_bank import SqliteBank
from app.store.redis_client import StoreDown
from app.store.sqlite import FILE, open_database, transaction

CHANGES = ("INSERT", "UPDATE", "DELETE")


def break_leases(folder: Path) -> None:
    """From now on nothing that is lent or comes back can be written."""
    for what in CHANGES:
        _do(folder, f"CREATE TRIGGER no_{what} BEFORE {what} ON leases BEGIN SELECT RAISE(ABORT, 'as told'); END")


def mend_leases(folder: Path) -> None:
    for what in CHANGES:
        _do(folder, f"DROP TRIGGER no_{what}")


class SqliteVault:
    """What several banks share: a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_down, self.fails, self.loses_answers = False, 0, 0
        self._connection = open_database(folder)
        self._banks: list[SqliteBank] = []

    def bank(self, holder: str) -> Bank:
        self._banks.append(SqliteBank(self.folder, holder))
        return FailingBank(self._banks[-1], self)

    def accounts(self) -> set[tuple[str, str]]:
        found = self._connection.execute("SELECT key_id, period FROM spent UNION SELECT key_id, period FROM leases")
        return set(found.fetchall())

    def spent(self, account: tuple[str, str]) -> float:
        return self._sum("SELECT sum(usd) FROM spent WHERE key_id = ? AND period = ?", account)

    def committed_usd(self, account: tuple[str, str]) -> float:
        lent = "SELECT sum(max(0.0, usd)) FROM leases WHERE key_id = ? AND period = ?"
        return self.spent(account) + self._sum(lent, account)

    def record(self, holder: str, account: tuple[str, str], usd: float, *, is_held: bool = True) -> None:
        """As the journal does when it applies what a request cost."""
        with transaction(self._connection) as connection:
            connection.execute("INSERT OR IGNORE INTO spent VALUES (?, ?, 0)", account)
            connection.execute("UPDATE spent SET usd = usd + ? WHERE key_id = ? AND period = ?", (usd, *account))
            lent = "UPDATE leases SET usd = usd - ? WHERE key_id = ? AND period = ? AND holder = ?"
            connection.execute(lent, (usd if is_held else 0.0, *account, holder))

    def forget(self, holder: str) -> None:
        self._connection.execute("DELETE FROM leases WHERE holder = ?", (holder,))

    async def aclose(self) -> None:
        for bank in self._banks:
            await bank.aclose()
        self._connection.close()

    def _sum(self, query: str, account: tuple[str, str]) -> float:
        (usd,) = self._connection.execute(query, account).fetchone()
        return usd or 0.0


class FailingBank(Bank):
    """One holder's."""

    forgets = False

    def __init__(self, bank: SqliteBank, vault: SqliteVault) -> None:
        self._bank, self._vault = bank, vault

    async def hello(self) -> float:
        self._check()
        return await self._bank.hello()

    async def exchange(self, claim: Claim) -> Standing:
        self._check()
        if self._vault.fails:
            self._vault.fails -= 1
            return await self._fail(claim)
        standing = await self._bank.exchange(claim)
        if self._vault.loses_answers:
            self._vault.loses_answers -= 1
            raise StoreDown("as told")
        return standing

    async def aclose(self) -> None:
        """The vault does."""

    async def _fail(self, claim: Claim) -> Standing:
        break_leases(self._vault.folder)
        try:
            return await self._bank.exchange(claim)
        finally:
            mend_leases(self._vault.folder)

    def _check(self) -> None:
        if self._vault.is_down:
            raise StoreDown("as told")


def _do(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as connection:
        connection.execute(statement)
