"""What it costs to hold money back for a request and to settle it. Prints its figure."""

from __future__ import annotations

import asyncio
import json
import os
import time

import pytest

from app.admission.affording import afford
from app.store.keys.key import Budget
from app.store.money.budgets import Purse
from tests.fakes.bank import MemoryBank
from tests.fakes.world import decision, request
from tests.fakes.yardstick import SHARED, Machine

# Of some 120 microseconds of CPU that a whole request may take on an idle core; a shared one is given three times that.
BUDGET_US = 10.0
DECISION, ASKED = decision(*(f"model-{number}" for number in range(10))), request(max_tokens=100)
BUDGET = Budget(1_000.0)


async def _cpu_us(requests: int) -> tuple[float, int]:
    """CPU of one request, and how often the bank was asked."""
    bank = MemoryBank()
    purse = Purse(bank)
    await purse.tend()
    began_s = time.process_time()
    for _ in range(requests):
        afforded = await afford(purse, purse.account("k", BUDGET), ASKED, DECISION)
        afforded.hold.settle(0.0001)
    return (time.process_time() - began_s) / requests * 1e6, bank.vault.exchanges


@pytest.mark.slow
def test_a_budget_costs_a_request_ten_microseconds_and_asks_the_bank_seldom(machine: Machine) -> None:
    cpu_us, exchanges = min(asyncio.run(_cpu_us(5_000)) for _ in range(7))
    figures = {"budget_cpu_us": round(cpu_us, 2), "budget_us": BUDGET_US, "exchanges_of_5000": exchanges}
    print(f"\n{json.dumps({**figures, 'cores': os.cpu_count()})}")
    assert cpu_us < SHARED * machine.slowness() * BUDGET_US
    assert exchanges < 5_000 / 100
