"""Hard budgets are closed until what dead processes spent is recorded, and no longer."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from pathlib import Path

import pytest

from app.assembly.stores import Stores, open_stores
from app.errors import BudgetSpent, BudgetUnavailable
from app.settings import Settings, load_settings
from app.store.journal.rows import Facts, sealed
from app.store.journal.spool import Spool
from app.store.keys.key import Budget
from app.store.money.accounts import SILENT_S
from app.store.money.budgets import Purse
from app.store.money.sqlite_bank import SqliteBank
from app.store.sqlite import open_database
from app.telemetry import Telemetry
from tests.fakes.clock import FakeClock
from tests.fakes.deployment import write_config

BUDGET, SPENT_USD = Budget(10.0), 6.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(write_config(tmp_path, {"small": "http://127.0.0.1:1"}, state_dir=str(tmp_path / "state")))


def _leave_spool(folder: Path) -> None:
    """Of a process that died with what it spent today unrecorded; what it was lent is forgotten by now."""
    spool = Spool(folder / "spool")
    spool.end(
        spool.admit(b'{"key":"k"}'), sealed(Facts(time.time(), SPENT_USD, "k", None), b'{"end":{"outcome":"ok"}}')
    )
    spool.flush()
    spool.close(is_done=False)


def _break_records(folder: Path) -> None:
    """The journal's part of the database takes nothing from now on, as where it is the disk that fails."""
    with closing(open_database(folder)) as connection:
        connection.execute(
            "CREATE TRIGGER no_record BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'as told'); END"
        )


def _mend_records(folder: Path) -> None:
    with closing(open_database(folder)) as connection:
        connection.execute("DROP TRIGGER no_record")


async def _hold(stores: Stores, usd: float) -> float:
    account = stores.budgets.account("k", BUDGET)
    hold = stores.budgets.take(account, usd) or await stores.budgets.draw(account, usd, usd)
    return hold.usd


async def test_a_start_without_dead_processes_opens_hard_budgets_at_once(settings: Settings) -> None:
    async with open_stores(settings, Telemetry()) as stores:
        assert await _hold(stores, BUDGET.usd) == BUDGET.usd


async def test_what_a_dead_process_spent_is_recorded_before_anything_is_lent(settings: Settings) -> None:
    _leave_spool(settings.state_dir)
    async with open_stores(settings, Telemetry()) as stores:
        with pytest.raises(BudgetSpent):
            await _hold(stores, BUDGET.usd)
        assert await _hold(stores, 4.0) == 4.0


async def test_what_a_silent_process_was_lent_stays_lent_while_what_it_spent_is_recorded_by_another(
    tmp_path: Path,
) -> None:
    clock, spools = FakeClock(0.0), {"dead"}
    dead = Purse(SqliteBank(tmp_path, "dead", FakeClock(SILENT_S)))
    await dead.draw(dead.account("k", BUDGET), SPENT_USD, SPENT_USD)
    # As after a start of the machine, whose clock begins anew.
    other = Purse(SqliteBank(tmp_path, "other", clock, has_spool=lambda holder: holder in spools), clock)
    with pytest.raises(BudgetSpent):
        await other.draw(other.account("k", BUDGET), BUDGET.usd, BUDGET.usd)
    spools.clear()
    clock.advance(1.0)
    assert (await other.draw(other.account("k", BUDGET), BUDGET.usd, BUDGET.usd)).usd == BUDGET.usd
    for purse in (dead, other):
        await purse.__aexit__()


async def test_hard_budgets_are_closed_while_it_cannot_be_recorded_and_soft_ones_are_not(
    settings: Settings,
) -> None:
    _leave_spool(settings.state_dir)
    _break_records(settings.state_dir)
    async with open_stores(settings, Telemetry()) as stores:
        with pytest.raises(BudgetUnavailable) as refused:
            await _hold(stores, 1.0)
        assert refused.value.headers()["retry-after"] == "2"
        assert stores.budgets.take(stores.budgets.account("soft", Budget(1.0, hard=False)), 1.0)
        _mend_records(settings.state_dir)
        async with asyncio.timeout(10):
            while await _is_closed(stores):
                await asyncio.sleep(0.1)
        with pytest.raises(BudgetSpent):
            await _hold(stores, BUDGET.usd)


async def _is_closed(stores: Stores) -> bool:
    try:
        await _hold(stores, 0.0)
    except BudgetUnavailable:
        return True
    return False
