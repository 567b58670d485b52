"""What the journal costs a request: its rows before and after, and their way to SQLite. Prints its figure."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.store.journal.journal import Entry, Journal, RecentDecisions
from tests.fakes.journal_process import OK, recording
from tests.fakes.redis_server import running_redis
from tests.fakes.routing import World, fleet_of, llm, world_of
from tests.fakes.world import request
from tests.fakes.yardstick import SHARED, Machine

BUDGET_US = 40.0
ROUNDS = 7


def _world(models: int) -> World:
    rng = np.random.default_rng(7)
    catalog = [llm(f"m{number}") for number in range(models)]
    return world_of(
        *catalog,
        quality={model.name: float(rng.random()) for model in catalog},
        output_tokens={model.name: float(rng.uniform(10, 800)) for model in catalog},
    )


async def _cpu_us(journal: Journal, world: World, requests: int, record: Callable[[], Awaitable[None]]) -> float:
    """CPU of one request in all threads, its decision included, once everything is recorded."""
    asked, fleet = request(), fleet_of(*world.models)
    began_s = time.process_time()
    for number in range(requests):
        entry = Entry(f"req-{number}", "tester", await world.router.route(asked, fleet), request=asked)
        journal.admitted(entry)
        journal.decided(entry)
        entry.outcome = OK
        journal.closed(entry)
    await record()
    return (time.process_time() - began_s) / requests * 1e6


async def _measure(folder: Path, models: int, redis: str | None = None) -> dict[str, float]:
    world, requests = _world(models), 4_000 if models == 10 else 200
    without_us, with_us = [], []
    for _ in range(ROUNDS):
        without_us.append(await _cpu_us(RecentDecisions(), world, requests, lambda: asyncio.sleep(0)))
        async with recording(folder, redis) as (journal, recorder):
            with_us.append(await _cpu_us(journal, world, requests, recorder.record))
    return {"models": models, "journal_us": round(min(with_us) - min(without_us), 1)}


@pytest.mark.slow
@pytest.mark.parametrize("models", [10, 10_000])
def test_a_request_is_journalled_within_its_budget(tmp_path: Path, models: int, machine: Machine) -> None:
    figures = asyncio.run(_measure(tmp_path, models))
    _print(figures)
    if models == 10:
        assert figures["journal_us"] < SHARED * machine.slowness() * BUDGET_US


@pytest.mark.slow
def test_so_it_is_with_redis(tmp_path: Path, machine: Machine) -> None:
    with running_redis(tmp_path) as redis:
        figures = asyncio.run(_measure(tmp_path, 10, redis.url))
    _print({**figures, "store": "redis"})
    assert figures["journal_us"] < SHARED * machine.slowness() * BUDGET_US


def _print(figures: dict[str, Any]) -> None:
    print(f"\n{json.dumps({**figures, 'budget_us': BUDGET_US, 'cores': os.cpu_count()})}")
