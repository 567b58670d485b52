"""What it costs to admit a request, to count it, to remember it and to log it. Prints its figure."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from app.admission.gate import Admission
from app.admission.ledger import Ledger
from app.admission.promises import Promises
from app.domain.usage import Usage
from app.store.journal.journal import RecentDecisions
from app.store.limits.limits import MemoryLimits
from app.store.money.budgets import Purse
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from app.telemetry.metrics import Metrics
from app.telemetry.sinks import BackgroundSink
from app.upstream.answers.answer import Answer, Form
from app.upstream.served import Served
from tests.fakes.bank import MemoryBank
from tests.fakes.world import FakeKey, decision, request
from tests.fakes.yardstick import SHARED, Machine

# Of some 120 microseconds of CPU that a whole request may take on an idle core.
BUDGET_US = 20.0
MODELS = tuple(f"model-{number}" for number in range(10))
ASKED, DECISION, KEY, USAGE = request(stream=True), decision(*MODELS), FakeKey(), Usage(812, 164)


async def _one(admission: Admission, metrics: Metrics) -> None:
    async with admission.admit(ASKED, KEY) as admitted:
        metrics.decision_took(0.0001)
        metrics.predicted("static")
        admitted.decided(DECISION)
        metrics.attempted(MODELS[0], "ok")
        served = admitted.hand_over(_served())
    served.answer.close()


def _served() -> Served:
    answer = Answer(Form(MODELS[0], stream=True))
    answer.usage, answer.complete = USAGE, True
    return Served(DECISION, DECISION.candidates[0], 1, answer, "http://10.0.0.1:8000", 0.03)


async def _cpu_us(admission: Admission, metrics: Metrics, requests: int) -> float:
    """CPU of one request beyond the answer itself, the log's writing included."""
    began_s = time.process_time()
    for _ in range(requests):
        await _one(admission, metrics)
    middle_s = time.process_time()
    for _ in range(requests):
        _served().answer.close()
    return (2 * middle_s - began_s - time.process_time()) / requests * 1e6


@pytest.mark.slow
def test_the_ledger_of_a_request_costs_a_tenth_of_it(tmp_path: Path, machine: Machine) -> None:
    metrics = Metrics(MODELS, ["default"], ["pool"])
    log = EventLog(sink=BackgroundSink(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)))
    limits, budgets = MemoryLimits(512, time.monotonic), Purse(MemoryBank())
    ledger = Ledger(limits, RecentDecisions(), budgets, Telemetry(metrics, log), Promises(metrics.promises))
    admission = Admission(ledger, time.monotonic, 600.0)
    cpu_us = min(asyncio.run(_cpu_us(admission, metrics, 5_000)) for _ in range(7))
    log.close()
    assert log.dropped == 0
    print(f"\n{json.dumps({'ledger_cpu_us': round(cpu_us, 2), 'budget_us': BUDGET_US, 'cores': os.cpu_count()})}")
    assert cpu_us < SHARED * machine.slowness() * BUDGET_US
