"""Metrics say what keys have left, and whether the store answers, while it does and while it does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.fakes.deployment import GATEWAY, SECRET, Deployment, deployed
from tests.fakes.full_disk import files_of_at_most
from tests.fakes.process import until
from tests.fakes.redis_server import running_redis

BODY = {"model": "small", "messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 8}
BUDGET = {"usd": 5.0, "per": "month", "hard": False}
KEYS = [{**GATEWAY["keys"][0], "budget": BUDGET, "max_priority": "high"}]


class Operator:
    """Asks as a caller, and reads as Prometheus does."""

    def __init__(self, deployment: Deployment, session: aiohttp.ClientSession) -> None:
        self._deployment, self._session = deployment, session

    async def ask(self) -> None:
        headers = {"authorization": f"Bearer {SECRET}"}
        async with self._session.post(
            f"{self._deployment.url}/v1/chat/completions", json=BODY, headers=headers
        ) as answer:
            assert answer.status == 200, await answer.text()

    async def metrics(self) -> dict[str, float]:
        async with self._session.get(f"{self._deployment.admin_url}/metrics") as page:
            lines = [line for line in (await page.text()).splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    async def reload(self) -> None:
        await self._deployment.application.live.reload()

    async def down(self) -> set[str]:
        """Features that have no store."""
        name = 'thalamus_store_up{feature="'
        metrics = await self.metrics()
        return {one.removeprefix(name).rstrip('"}') for one, up in metrics.items() if one.startswith(name) and not up}


@asynccontextmanager
async def operated(folder: Path, **changes: Any) -> AsyncIterator[Operator]:
    async with deployed(folder, "small", keys=KEYS, **changes) as deployment, aiohttp.ClientSession() as session:
        yield Operator(deployment, session)


async def test_what_a_key_has_left_is_its_budget_less_what_it_spent(tmp_path: Path) -> None:
    async with operated(tmp_path) as operator:
        await operator.ask()
        metrics = await operator.metrics()
    labels = '{key="tester",period="month"}'
    spent = metrics['thalamus_key_cost_usd_total{key="tester"}']
    assert metrics[f"thalamus_key_budget_usd{labels}"] == 5.0
    assert metrics[f"thalamus_key_budget_left_usd{labels}"] == 5.0 - spent
    assert spent > 0


async def test_a_reload_tells_the_new_budget_at_once_and_the_old_one_no_more(tmp_path: Path) -> None:
    async with operated(tmp_path) as operator:
        await operator.ask()
        for usd, period in ((7.0, "month"), (3.0, "day")):
            path = tmp_path / "gateway.yaml"
            (key,) = KEYS
            changed = {"keys": [{**key, "budget": {"usd": usd, "per": period}}]}
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changed))
            await operator.reload()
            metrics = await operator.metrics()
            told = {name: value for name, value in metrics.items() if name.startswith("thalamus_key_budget_usd{")}
            assert told == {f'thalamus_key_budget_usd{{key="tester",period="{period}"}}': usd}
        left = 'thalamus_key_budget_left_usd{key="tester",period="day"}'
        spent = metrics['thalamus_key_cost_usd_total{key="tester"}']

        async def is_told() -> bool:
            return (await operator.metrics())[left] == pytest.approx(3.0 - spent)

        await until(is_told, True)
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"keys": [{**key, "budget": None}]}))
        await operator.reload()
        assert left not in await operator.metrics()


async def test_every_feature_has_its_store_while_there_is_none_but_this_process(tmp_path: Path) -> None:
    async with operated(tmp_path) as operator:
        metrics = await operator.metrics()
    up = {name: value for name, value in metrics.items() if name.startswith("thalamus_store_up")}
    assert len(up) == 6
    assert set(up.values()) == {1.0}


async def test_a_disk_that_is_full_is_told_as_a_journal_that_stopped_and_not_as_a_store_that_is_down(
    tmp_path: Path,
) -> None:
    async with operated(tmp_path) as operator:
        with files_of_at_most(4_096):
            for _ in range(20):
                await operator.ask()
            metrics = await operator.metrics()
    assert metrics["thalamus_journal_stopped"] == 1.0
    assert {value for name, value in metrics.items() if name.startswith("thalamus_store_up")} == {1.0}


async def test_what_a_store_refuses_is_told_of_the_features_that_need_it(tmp_path: Path) -> None:
    with running_redis(tmp_path, known=True) as redis:
        async with operated(tmp_path, store=redis.url) as operator:
            await operator.ask()
            redis.do("ACL", "SETUSER", "default", "-@scripting")
            await operator.ask()
            await until(lambda: operator.down(), {"budgets", "journal", "limits"}, 10)
            redis.do("ACL", "SETUSER", "default", "+@scripting")
            await until(lambda: operator.down(), set(), 20)


@pytest.mark.slow
async def test_a_redis_that_is_gone_is_seen_in_the_metrics_and_so_is_its_return(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis", known=True) as redis:
        async with operated(tmp_path, store=redis.url) as operator:

            async def until(up: float) -> None:
                ends_at = time.monotonic() + 20
                while (await operator.metrics())['thalamus_store_up{feature="limits"}'] != up:
                    assert time.monotonic() < ends_at
                    await operator.ask()
                    await asyncio.sleep(0.05)

            await until(1.0)
            redis.kill()
            await until(0.0)
            redis.start()
            await until(1.0)
