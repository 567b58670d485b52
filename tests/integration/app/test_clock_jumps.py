"""R19: the time of day jumps by an hour, there and back, and no caller notices."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.backend import FakeBackend, Script
from tests.fakes.caller import chat
from tests.fakes.process import GatewayProcess, gateway_process
from tests.fakes.redis_server import running_redis

pytestmark = [pytest.mark.slow, pytest.mark.timing]

RATE = 50.0
HOUR_S = 3600
JUMPS = ("+0", f"+{HOUR_S}", f"-{HOUR_S}", "+0")
LIMIT = 6
"""Requests a minute."""
_FREE: dict[str, Any] = {"models": ["*"], "requests_per_minute": None, "tokens_per_minute": None, "concurrency": None}
KEYS = [
    {"id": "free", "secret": "sk-free", "max_priority": "high", **_FREE},
    {"id": "limited", "secret": "sk-limited", "max_priority": "high", **_FREE, "requests_per_minute": LIMIT},
]
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@dataclass
class World:
    """A gateway whose time of day is in a file."""

    gateway: GatewayProcess
    clock: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of the key that may ask as often as it likes."""

    def jump(self, to: str) -> None:
        """The clock is read at most a second later."""
        written = self.clock.with_suffix(".new")
        written.write_text(to)
        written.rename(self.clock)

    async def ask(self, session: aiohttp.ClientSession, secret: str = "sk-free", model: str = "small") -> str:
        headers = {"authorization": f"Bearer {secret}", "x-thalamus-priority": "high"}
        body = chat(model=model, stream=model == "slow")
        async with session.post("/v1/chat/completions", json=body, headers=headers) as answer:
            text = await answer.text()
        outcome = str(answer.status)
        if answer.status == 200 and model == "slow" and not text.endswith("data: [DONE]\n\n"):
            outcome = "cut"
        if answer.status != 200:
            outcome += " " + json.loads(text)["error"]["code"]
        if secret == "sk-free":
            self.outcomes[outcome] += 1
        return outcome

    async def ask_at_a_rate(self, session: aiohttp.ClientSession, seconds: float) -> None:
        """Also with streams that are open when the clock jumps."""
        began_at = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(round(RATE * seconds)):
                await asyncio.sleep(began_at + number / RATE - time.monotonic())
                tasks.create_task(self.ask(session, model="slow" if number % 10 == 0 else "small"))


@asynccontextmanager
async def running(folder: Path, *, on_redis: bool) -> AsyncIterator[World]:
    if FAKETIME is None:
        pytest.skip("libfaketime is not installed (Debian: faketime)")
    clock = folder / "clock"
    clock.write_text(JUMPS[0])
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    async with AsyncExitStack() as stack:
        changes: dict[str, Any] = {"keys": KEYS}
        if on_redis:
            changes["store"] = stack.enter_context(running_redis(folder, known=True)).url
        small = await stack.enter_async_context(FakeBackend(models=("org/small",)))
        slow = await stack.enter_async_context(FakeBackend(Script(event_delay_s=0.2), models=("org/slow",)))
        urls = {"small": small.url, "slow": slow.url}
        gateway = gateway_process(folder, urls, environment=environment, **changes)
        yield World(await stack.enter_async_context(gateway), clock)


@pytest.mark.parametrize("on_redis", [False, True], ids=["embedded", "redis"])
async def test_an_hour_more_or_less_changes_nothing(tmp_path: Path, full_size: bool, on_redis: bool) -> None:
    if not (full_size or on_redis):
        pytest.skip("at full size only: with Redis there is all that there is without")
    seconds = 15.0 if full_size else 2.0
    connector = aiohttp.TCPConnector(limit=0)
    async with running(tmp_path, on_redis=on_redis) as world:
        async with aiohttp.ClientSession(world.gateway.url, connector=connector) as session:
            began_at = time.monotonic()
            limited = [await world.ask(session, "sk-limited") for _ in range(LIMIT + 1)]
            asking = asyncio.create_task(world.ask_at_a_rate(session, seconds * len(JUMPS)))
            for jump in JUMPS:
                world.jump(jump)
                await asyncio.sleep(seconds)
                limited.append(await world.ask(session, "sk-limited"))
            await asking
            await asyncio.sleep(max(0.0, 60 / LIMIT + 0.5 - (time.monotonic() - began_at)))
            limited.append(await world.ask(session, "sk-limited"))
            lasted_s = time.monotonic() - began_at
        ejections = await world.gateway.metric("thalamus_ejections_total")
        errors = await world.gateway.metric("thalamus_upstream_errors_total")
        times = [event["time"] for event in world.gateway.completed]
    granted, due = limited.count("200"), LIMIT + int(lasted_s * LIMIT / 60)
    figures = {"ejections": ejections, "upstream_errors": errors, "granted": granted, "due": due}
    print(json.dumps({"row": "R19", "outcomes": world.outcomes, **figures, "s": round(lasted_s, 1)}))
    assert max(times) - min(times) > 1.9 * HOUR_S, "the clock of the gateway did jump"
    assert world.outcomes == {"200": round(RATE * seconds * len(JUMPS))}
    assert (ejections, errors) == (0, 0)
    # The second of these comes after the first jump; by then there may be one more.
    too_many = 2 if seconds < 60 / LIMIT else 1
    assert limited[: LIMIT + too_many] == ["200"] * LIMIT + ["429 rate_limit_exceeded"] * too_many
    assert LIMIT < granted <= due, "one more after each ten seconds, and no other"
