"""Hard budgets under many parallel calls, processes that are killed, and a Redis that goes away.

Two gateways on one Redis, or two workers of one gateway on SQLite. Each test prints its figures.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.affording import TEMPLATE_TOKENS
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import SECRET
from tests.fakes.process import GatewayProcess, gateway_process, until
from tests.fakes.redis_server import RedisServer, running_redis

pytestmark = pytest.mark.slow

TOKENS = 1_000
PROMPT = "Say something."
PROMPT_TOKENS = 4 * (-(-len(PROMPT) // 4) + 4) + TEMPLATE_TOKENS
USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS}
COST_USD = (0.8 * PROMPT_TOKENS + 1.6 * TOKENS) / 1e6
"""Of a request: its worst case, which is also what it takes."""
BODY: dict[str, Any] = {
    "model": "small",
    "max_tokens": TOKENS,
    "messages": [{"role": "user", "content": PROMPT}],
}
ANSWERS = Script(usage=USAGE, delay_s=0.5)


def _keys(usd: float, **more: Any) -> list[dict[str, Any]]:
    limits = {"requests_per_minute": None, "tokens_per_minute": None, "concurrency": None, **more}
    key = {"id": "k", "secret": SECRET, "models": ["*"], "max_priority": "high", "budget": {"usd": usd}, **limits}
    free = {**key, "id": "free", "secret": "sk-free", "budget": None}
    return [key, free]


@dataclass
class Fleet:
    """Gateways that share one store."""

    gateways: list[GatewayProcess]
    backend: FakeBackend
    money: Money
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: list[dict[str, Any]] = field(default_factory=list)

    async def ask(self, number: int, body: dict[str, Any] = BODY, secret: str = SECRET) -> str:
        """One request to one of them; returns its status, or what came of it."""
        url = self.gateways[number % len(self.gateways)].url
        headers = {"authorization": f"Bearer {secret}", "x-thalamus-priority": "high"}
        connector = aiohttp.TCPConnector(force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer,
            ):
                text = await answer.text()
                outcome = str(answer.status)
                if answer.status in (429, 503):
                    self.refusals.append(
                        {**json.loads(text)["error"], **{name.lower(): value for name, value in answer.headers.items()}}
                    )
                    outcome += " " + self.refusals[-1]["code"]
        except (aiohttp.ClientError, OSError) as exc:
            outcome = type(exc).__name__
        self.outcomes[outcome] += 1
        return outcome

    async def ask_all(self, numbers: Iterable[int], body: dict[str, Any] = BODY) -> None:
        await asyncio.gather(*(self.ask(number, body) for number in numbers))

    @property
    def billed_usd(self) -> float:
        """What the gateways say it cost."""
        return sum(float(one.get("cost_usd", 0.0)) for gateway in self.gateways for one in gateway.completed)


@dataclass(frozen=True)
class Money:
    """What the store says."""

    redis: RedisServer | None
    folder: Path

    @property
    def spent_usd(self) -> float:
        return self._read()[0]

    @property
    def lent_usd(self) -> float:
        return self._read()[1]

    def _read(self) -> tuple[float, float]:
        if self.redis:
            (name,) = (one for one in self.redis.do("KEYS", "thalamus:spent:k:*") if one.count(b"-") == 2)
            fields = self.redis.do("HGETALL", name)
            fields = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
            leases = [float(value) for field, value in fields.items() if field.startswith(b"lease:")]
            return float(fields.get(b"spent", 0.0)), sum(leases)
        with sqlite3.connect(self.folder / "state/journal.sqlite") as database:
            (spent,) = database.execute("SELECT sum(usd) FROM spent WHERE length(period) = 10").fetchone()
            (lent,) = database.execute("SELECT sum(usd) FROM leases").fetchone()
        return spent or 0.0, lent or 0.0

    def let_ten_minutes_pass(self, holders: Iterable[bytes]) -> None:
        """For those who say nothing."""
        assert self.redis
        (name,) = (one for one in self.redis.do("KEYS", "thalamus:spent:k:*") if one.count(b"-") == 2)
        for holder in holders:
            self.redis.do("HSET", name, b"seen:" + holder, time.time() - 601)

    def holders(self) -> set[bytes]:
        assert self.redis
        (name,) = (one for one in self.redis.do("KEYS", "thalamus:spent:k:*") if one.count(b"-") == 2)
        return {field[6:] for field in self.redis.do("HKEYS", name) if field.startswith(b"lease:")}


@asynccontextmanager
async def _two_gateways(folder: Path, usd: float, script: Script = ANSWERS, **more: Any) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        (folder / "redis").mkdir()
        redis = stack.enter_context(running_redis(folder / "redis", tcp=True))
        backend = await stack.enter_async_context(FakeBackend(script, models=("org/small",)))
        gateways = []
        for name in ("one", "other"):
            (folder / name).mkdir()
            gateway = gateway_process(folder / name, {"small": backend.url}, store=redis.url, keys=_keys(usd, **more))
            gateways.append(await stack.enter_async_context(gateway))
        yield Fleet(gateways, backend, Money(redis, folder))


@asynccontextmanager
async def _two_workers(folder: Path, usd: float, script: Script = ANSWERS) -> AsyncIterator[Fleet]:
    async with (
        FakeBackend(script, models=("org/small",)) as backend,
        gateway_process(folder, {"small": backend.url}, workers=2, keys=_keys(usd)) as gateway,
    ):
        yield Fleet([gateway], backend, Money(None, folder))


def _report(**figures: Any) -> None:
    print(f"\n{json.dumps(figures)}")


@pytest.mark.parametrize("start", [_two_gateways, _two_workers])
async def test_a_budget_for_ten_admits_ten_of_two_hundred(tmp_path: Path, start: Any) -> None:
    async with start(tmp_path, 10 * COST_USD) as fleet:
        await fleet.ask_all(range(200))
        await until(lambda: round(fleet.money.spent_usd, 9), round(10 * COST_USD, 9), 10.0)
        _report(
            test="budget for 10", start=start.__name__, outcomes=fleet.outcomes, calls=fleet.backend.calls,
            spent_usd=fleet.money.spent_usd, budget_usd=10 * COST_USD,
        )  # fmt: skip
        assert fleet.outcomes == {"200": 10, "429 insufficient_quota": 190}
        assert fleet.backend.calls == 10
        assert fleet.money.spent_usd <= 10 * COST_USD + 1e-9
        assert await fleet.ask(0) == "429 insufficient_quota"
        assert fleet.refusals[-1]["x-should-retry"] == "false"
        assert int(fleet.refusals[-1]["retry-after"]) <= 86_401
