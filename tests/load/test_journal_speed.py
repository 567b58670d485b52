"""What the journal costs a request: its rows before and after, and their way to SQLite. Prints its figure."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.domain.decision import Decision
from app.store.journal import Entry, Journal, RecentDecisions
from tests.fakes.journal_process import OK, recording
from tests.fakes.routing import fleet_of, llm, world_of
from tests.fakes.world import request

# A shared core is given three times as much before it counts as a regression.
BUDGET_US = 40.0
REQUESTS, ROUNDS = 4_000, 5


async def _decision(models: int) -> Decision:
    rng = np.random.default_rng(7)
    catalog = [llm(f"m{number}") for number in range(models)]
    world = world_of(
        *catalog,
        quality={model.name: float(rng.random()) for model in catalog},
        output_tokens={model.name: float(rng.uniform(10, 800)) for model in catalog},
    )
    return await world.router.route(request(), fleet_of(*catalog))


async def _cpu_us(journal: Journal, decision: Decision) -> float:
    """CPU of one request in all threads, once everything is recorded."""
    asked = request()
    began_s = time.process_time()
    for number in range(REQUESTS):
        entry = Entry("req-1", "tester", replace(decision, decision_id=f"dec-{number}"), request=asked)
        journal.admitted(entry)
        journal.decided(entry)
        entry.outcome = OK
        journal.closed(entry)
        if number % 200 == 0:
            await asyncio.sleep(0)
    return (time.process_time() - began_s) / REQUESTS * 1e6


async def _measure(folder: Path, models: int) -> dict[str, float]:
    decision = await _decision(models)
    request_us, recorder_us = [], []
    for _ in range(ROUNDS):
        nothing_us = await _cpu_us(RecentDecisions(), decision)
        async with recording(folder, None) as (journal, recorder):
            request_us.append(await _cpu_us(journal, decision) - nothing_us)
            began_s = time.process_time()
            await recorder.record()
            recorder_us.append((time.process_time() - began_s) / REQUESTS * 1e6)
    return {"models": models, "request_us": round(min(request_us), 1), "recorder_us": round(min(recorder_us), 1)}


@pytest.mark.slow
@pytest.mark.parametrize("models", [10, 10_000])
def test_a_request_is_journalled_within_its_budget(tmp_path: Path, models: int) -> None:
    figures = asyncio.run(_measure(tmp_path, models))
    print(f"\n{json.dumps({**figures, 'budget_us': BUDGET_US, 'cores': os.cpu_count()})}")
    if models == 10:
        assert figures["request_us"] + figures["recorder_us"] < 3 * BUDGET_US
