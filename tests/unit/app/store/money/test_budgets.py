"""Whatever happens in whatever order, no budget is overdrawn and no money stays behind."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.errors import BudgetSpent, BudgetUnavailable
from app.store.keys.key import Budget
from app.store.money.accounts import NANO_USD, Hold, window_of
from app.store.money.budgets import REFUSED_FOR_S, TELL_AGAIN_S, TOLD_AT_ONCE, TRUST_S, Purse
from tests.fakes.bank import MemoryBank, Vault
from tests.fakes.clock import FakeClock

NOW = 1_795_700_000.0
"""Some time on 2026-11-26."""
BUDGET, SOFT = Budget(1.0), Budget(1.0, hard=False)
USD = st.floats(0.0, 1.2).map(lambda usd: round(usd, 4))
PROCESSES = st.integers(0, 2)


@dataclass
class Process:
    """A purse, what it holds, and what it has written down that is not applied yet."""

    holder: str
    purse: Purse
    open: list[tuple[tuple[str, str], Hold]] = field(default_factory=list)
    written: list[tuple[tuple[str, str], float, bool]] = field(default_factory=list)
    """Each with whether it was held of a hard budget."""


class Bookkeeping(RuleBasedStateMachine):
    """Three processes that reserve, settle, record, rest and die; at times their bank is down, or fails, whether
    before or after it has done what it was asked to, and at times the budget is a soft one."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.vault, self.wall, self.clock = self.new_vault(), FakeClock(NOW), FakeClock()
        self.started, self.cost_usd, self.budget = 0, 0.0, BUDGET
        self.softly_usd = defaultdict[tuple[str, str], float](float)
        self.dead: list[Process] = []
        self.processes = [self._new_process() for _ in range(3)]

    def new_vault(self) -> Any:
        return Vault()

    def _new_process(self) -> Process:
        self.started += 1
        holder = f"process-{self.started}"
        return Process(holder, Purse(self.vault.bank(holder), self.clock, self.wall))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @rule(number=PROCESSES, most=USD, share=st.floats(0, 1))
    def reserve(self, number: int, most: float, share: float) -> None:
        process = self.processes[number]
        account = process.purse.account("k", self.budget)
        try:
            hold = process.purse.take(account, most) or self._run(process.purse.draw(account, most, most * share))
        except (BudgetSpent, BudgetUnavailable):
            return
        assert (most * share if self.budget.hard else 0.0) - 2 * NANO_USD <= hold.usd <= most + NANO_USD
        process.open.append(((account.key_id, account.period), hold))

    @rule(number=PROCESSES, which=st.integers(0, 50), share=st.floats(0, 1))
    def settle(self, number: int, which: int, share: float) -> None:
        process = self.processes[number]
        if process.open:
            account, hold = process.open.pop(which % len(process.open))
            usd = max(0.0, hold.usd if hold.period else 1.0) * share
            hold.settle(usd)
            process.written.append((account, usd, hold.period is not None))
            self.softly_usd[account] += 0.0 if hold.period else usd

    @rule(number=PROCESSES)
    def record(self, number: int) -> None:
        self._record(self.processes[number])

    def _record(self, process: Process) -> None:
        for account, usd, is_held in process.written:
            self.vault.record(process.holder, account, usd, is_held=is_held)
        process.written.clear()

    @precondition(lambda self: not self.vault.is_down)
    @rule(number=PROCESSES, failed=st.integers(0, 1))
    def rest(self, number: int, failed: int) -> None:
        self.vault.fails = failed
        self._run(self.processes[number].purse.tend())
        self.clock.advance(REFUSED_FOR_S)

    @rule(number=PROCESSES)
    def die(self, number: int) -> None:
        process = self.processes[number]
        process.open.clear()
        self.dead.append(process)
        self.processes[number] = self._new_process()

    @rule()
    def bury(self) -> None:
        """What the dead wrote is applied, then what they were lent is lent to others."""
        for process in self.dead:
            self._record(process)
            self.vault.forget(process.holder)
        self.dead.clear()

    @rule(down=st.booleans())
    def break_or_mend(self, down: bool) -> None:
        self.vault.is_down = down
        self.clock.advance(TRUST_S + 0.1 if down else 0.0)

    @rule(lost=st.integers(0, 4))
    def lose_answers(self, lost: int) -> None:
        self.vault.loses_answers = lost

    @rule(failed=st.integers(0, 2))
    def fail(self, failed: int) -> None:
        self.vault.fails = failed

    @rule(hard=st.booleans())
    def reload(self, hard: bool) -> None:
        self.budget = BUDGET if hard else SOFT

    @rule()
    def go_on_to_the_next_day(self) -> None:
        self.wall.advance(86_400.0)

    @invariant()
    def nothing_is_overdrawn(self) -> None:
        for account in self.vault.accounts() if hasattr(self, "vault") else ():
            written = sum(usd for one in (*self.processes, *self.dead) for of, usd, _ in one.written if of == account)
            most_usd = BUDGET.usd + self.softly_usd[account] + 1e-6
            assert self.vault.spent(account) + written <= most_usd
            assert self.vault.committed_usd(account) <= most_usd

    @invariant()
    def nobody_owes(self) -> None:
        for process in self.processes if hasattr(self, "processes") else ():
            account = process.purse.account("k", self.budget)
            assert account.free_usd > -1e-6
            assert account.reserved_usd >= -1e-9

    def teardown(self) -> None:
        if not hasattr(self, "vault"):
            return
        self.vault.is_down, self.vault.loses_answers, self.vault.fails = False, 0, 0
        for process in self.processes:
            for account, hold in process.open:
                hold.settle(0.0)
                process.written.append((account, 0.0, hold.period is not None))
            self._record(process)
        self.bury()
        for process in 3 * self.processes:
            self._run(process.purse.tend())
        today = "k", window_of(BUDGET, self.wall()).period
        stays_behind_usd = self.vault.committed_usd(today) - self.vault.spent(today)
        self._run(self.vault.aclose())
        self.loop.close()
        assert stays_behind_usd == pytest.approx(0.0, abs=1e-6)


Bookkeeping.TestCase.settings = settings(
    max_examples=80, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBookkeeping = Bookkeeping.TestCase


async def test_a_refusal_asks_the_bank_once_for_a_while() -> None:
    vault = Vault()
    purse = Purse(MemoryBank(vault))
    account = purse.account("k", BUDGET)
    (await purse.draw(account, 1.0, 1.0)).settle(1.0)
    for _ in range(100):
        with pytest.raises(BudgetSpent):
            await purse.draw(account, 0.1, 0.1)
    assert vault.exchanges <= 2


async def test_a_bank_that_forgets_hears_of_idle_accounts_several_times_a_minute_and_of_no_more_than_some() -> None:
    vault, clock = Vault(), FakeClock()
    purse = Purse(MemoryBank(vault), clock)
    for number in range(TOLD_AT_ONCE + 20):
        (await purse.draw(purse.account(f"k{number}", BUDGET), 0.1, 0.1)).settle(0.1)
    for _ in range(2):
        await purse.tend()
    heard = []
    for wait_s in (1.0, TELL_AGAIN_S, 1.0, 1.0):
        before = vault.exchanges
        clock.advance(wait_s)
        await purse.tend()
        heard.append(vault.exchanges - before)
    assert heard == [0, TOLD_AT_ONCE, 20, 0]


async def test_what_was_given_back_is_out_of_reach_though_nobody_confirmed_it() -> None:
    vault = Vault()
    purse = Purse(MemoryBank(vault))
    account = purse.account("k", BUDGET)
    (await purse.draw(account, 0.8, 0.8)).settle(0.0)
    await purse.tend()
    vault.loses_answers = 1
    await purse.tend()
    assert vault.committed_usd((account.key_id, account.period)) == pytest.approx(0.0)
    assert purse.take(account, 0.01) is None


async def test_who_asks_again_after_a_lost_answer_takes_no_more_than_it_needs() -> None:
    vault = Vault(loses_answers=1)
    one, other = Purse(MemoryBank(vault, "one")), Purse(MemoryBank(vault, "other"))
    await one.tend()
    assert (await one.draw(one.account("k", BUDGET), 0.4, 0.4)).usd == 0.4
    assert (await other.draw(other.account("k", BUDGET), 0.6, 0.6)).usd == pytest.approx(0.6)


async def test_what_cannot_be_recorded_is_not_spent() -> None:
    purse = Purse(MemoryBank(), may_record=lambda: False)
    account = purse.account("k", BUDGET)
    assert purse.take(account, 0.0) is None
    with pytest.raises(BudgetUnavailable):
        await purse.draw(account, 0.1, 0.1)
    assert purse.take(purse.account("soft", Budget(1.0, hard=False)), 0.1)


async def test_a_request_is_charged_to_the_day_on_which_it_was_admitted() -> None:
    wall = FakeClock(NOW)
    purse = Purse(MemoryBank(), wall_clock=wall)
    (await purse.draw(purse.account("k", BUDGET), 1.0, 1.0)).settle(1.0)
    wall.advance(86_400)
    tomorrow, yesterday = purse.account("k", BUDGET), purse.account("k", BUDGET, at=NOW)
    assert await purse.draw(tomorrow, 1.0, 1.0)
    with pytest.raises(BudgetSpent):
        await purse.draw(yesterday, 0.5, 0.5)


async def test_another_budget_for_a_key_counts_from_now_on_and_what_was_spent_stays() -> None:
    purse = Purse(MemoryBank())
    (await purse.draw(purse.account("k", BUDGET), 1.0, 1.0)).settle(1.0)
    hold = await purse.draw(purse.account("k", Budget(3.0)), 3.0, 0.1)
    assert hold.usd == pytest.approx(2.0)


@pytest.mark.parametrize("is_told", [True, False])
async def test_what_was_spent_under_a_soft_budget_counts_once_when_it_is_hard(is_told: bool) -> None:
    vault, hard, soft = Vault(), Budget(1.0), Budget(1.0, hard=False)
    purse = Purse(MemoryBank(vault))
    (await purse.draw(purse.account("k", hard), 0.1, 0.1)).settle(0.1)
    softly = [purse.take(purse.account("k", soft), 5.0) for _ in range(2)]
    account = purse.account("k", soft)
    assert all(softly)
    assert [hold.period for hold in softly if hold] == [None, None]
    for hold in softly[:1]:
        assert hold
        hold.settle(0.6)
    assert account.known_spent_usd == pytest.approx(0.7)
    where = account.key_id, account.period
    vault.record("me", where, 0.1)
    vault.record("me", where, 0.6, is_held=False)
    for _ in range(2 if is_told else 0):
        await purse.tend()
    account = purse.account("k", hard)
    with pytest.raises(BudgetSpent):
        await purse.draw(account, 0.31, 0.31)
    held = await purse.draw(account, 0.3, 0.3)
    assert (held.usd, held.period) == (0.3, account.period)
    assert softly[1]
    softly[1].settle(0.2)
    assert account.free_usd == pytest.approx(0.0)


async def test_what_was_settled_softly_counts_before_it_is_recorded_and_once_then() -> None:
    vault, soft = Vault(), Budget(0.001, hard=False)
    purse = Purse(MemoryBank(vault))
    account = purse.account("k", soft)
    where = account.key_id, account.period
    for calls in range(1, 5):
        hold = purse.take(account, 0.0)
        assert hold
        hold.settle(0.0022)
        await purse.tend()  # the journal comes after this
        assert account.left_usd == pytest.approx(0.001 - calls * 0.0022)
        assert hold.over_usd == pytest.approx(calls * 0.0022 - 0.001)
        vault.record("me", where, 0.0022, is_held=False)
    vault.record("another", where, 0.005, is_held=False)
    await purse.tend()
    assert account.left_usd == pytest.approx(0.001 - 4 * 0.0022 - 0.005), "the bank is asked again by itself"
    for _ in range(5):
        await purse.tend()
    assert vault.exchanges == 4 + 2, "but not for ever"


async def test_a_request_under_a_hard_budget_is_still_held_when_it_is_soft() -> None:
    vault, hard, soft = Vault(), Budget(1.0), Budget(1.0, hard=False)
    purse = Purse(MemoryBank(vault))
    held = await purse.draw(purse.account("k", hard), 0.5, 0.5)
    account = purse.account("k", soft)
    assert held.period == account.period
    held.settle(0.4)
    vault.record("me", (account.key_id, account.period), 0.4)
    for _ in range(2):
        await purse.tend()
    assert account.known_spent_usd == pytest.approx(0.4)
    assert account.free_usd == pytest.approx(0.0)
    assert vault.committed_usd((account.key_id, account.period)) == pytest.approx(0.4)


async def test_a_budget_that_was_for_days_and_is_for_months_leaves_nothing_behind() -> None:
    vault, monthly = Vault(), Budget(5.0, "month")
    purse = Purse(MemoryBank(vault))
    daily = purse.account("k", BUDGET)
    (await purse.draw(daily, 1.0, 1.0)).settle(0.0)
    account = purse.account("k", monthly)
    assert account is purse.account("k", monthly) is not daily
    assert [one.budget for one in purse.told()] == [monthly]
    await purse.tend()
    await purse.tend()
    assert vault.committed_usd((daily.key_id, daily.period)) == 0.0
    assert purse.account("k", BUDGET) is daily


@pytest.mark.parametrize(
    ("period", "now", "name", "days"),
    [
        ("day", NOW, "2026-11-26", 1),
        ("month", NOW, "2026-11", 30),
        ("month", 1_798_000_000.0, "2026-12", 31),
        ("month", 1_709_000_000.0, "2024-02", 29),
    ],
)
def test_days_and_months_are_those_of_utc(period: Any, now: float, name: str, days: int) -> None:
    window = window_of(Budget(1.0, period), now)
    assert (window.period, window.ends_at - window.begins_at) == (name, days * 86_400)
    assert window.begins_at <= now < window.ends_at
