"""Callers who do not wait for each other: each sends one request at its time, whatever became of the others.

Run it as `python -m tests.load.crowd URL PHASES`, where `PHASES` is JSON: `[[requests per second, seconds, {priority:
share}], ...]`. It prints one row for each request as JSON: `[phase, due, priority, status, took, retry_after]`. Seconds
count from the moment at which a request was due, so that a sender that is late itself hides nothing.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Iterator

import aiohttp
import uvloop

Row = tuple[int, float, str, int, float, int, float]
Phase = tuple[float, float, dict[str, float]]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
GIVEN_UP = 0
"""The status of a request without an answer."""


def planned(phases: list[Phase]) -> Iterator[tuple[int, float, str]]:
    """Phase, due second and priority of each request."""
    chance = random.Random(7)
    began_s = 0.0
    for number, (rate, seconds, shares) in enumerate(phases):
        for index in range(int(rate * seconds)):
            priority = chance.choices(list(shares), list(shares.values()))[0]
            yield number, began_s + index / rate, priority
        began_s += seconds


async def send(session: aiohttp.ClientSession, url: str, priority: str) -> tuple[int, int]:
    """The status of the answer, and its `retry-after`."""
    body = {"model": "auto", "messages": MESSAGES}
    headers = {"authorization": "Bearer sk-test", "x-thalamus-priority": priority}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
            await answer.read()
            return answer.status, int(answer.headers.get("retry-after", 0))
    except (aiohttp.ClientError, TimeoutError):
        return GIVEN_UP, 0


async def crowd(url: str, phases: list[Phase]) -> list[Row]:
    loop = asyncio.get_running_loop()
    rows: list[Row] = []

    async def one(phase: int, due_s: float, priority: str) -> None:
        late_s = loop.time() - began_at - due_s
        status, retry_after_s = await send(session, url, priority)
        rows.append((phase, due_s, priority, status, loop.time() - began_at - due_s, retry_after_s, late_s))

    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
        asyncio.TaskGroup() as group,
    ):
        began_at = loop.time() + 0.1
        for phase, due_s, priority in planned(phases):
            await asyncio.sleep(max(0.0, began_at + due_s - loop.time()))
            group.create_task(one(phase, due_s, priority))
    return rows


if __name__ == "__main__":
    print(json.dumps(uvloop.run(crowd(sys.argv[1], json.loads(sys.argv[2])))))
