"""HAProxy with the file of `deploy/` in front of a gateway.

Who leaves is heard of, events come one by one, and who cannot be served hears so from the gateway.
"""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.backend import Script
from tests.fakes.deployment import SECRET, Deployment, deployed
from tests.fakes.proxies import shipped_haproxy

CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
OUT_AFTER_S = 5.0
"""Two checks, two seconds apart, and some."""
HEADERS = {"authorization": f"Bearer {SECRET}"}


def _addresses(fleet: Deployment) -> list[str]:
    return [fleet.url.removeprefix("http://")] * 2


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_worker_hears_at_once_of_a_caller_who_leaves(stream: bool, tmp_path: Path) -> None:
    async with deployed(tmp_path, "small") as fleet, shipped_haproxy(tmp_path, _addresses(fleet)) as url:
        worker = fleet.backends["small"]
        worker.script = Script(hang=True)
        body = json.dumps({**CHAT, "stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {SECRET}\r\n"
        _, caller = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        caller.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await worker.until(in_flight=1)
        caller.close()
        await worker.until(in_flight=0, within_s=1.0)


async def test_events_come_one_by_one(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small") as fleet, shipped_haproxy(tmp_path, _addresses(fleet)) as url:
        fleet.backends["small"].script = Script(tokens=tuple(f" w{i}" for i in range(40)), event_delay_s=0.03)
        came_at = await _events(url)
    later = [after - before for before, after in pairwise(came_at)]
    apart = sum(seconds > 0.01 for seconds in later)
    print(json.dumps({"events": len(came_at), "apart": apart, "most_s": round(max(later), 3)}))
    assert apart > 0.8 * len(later)


async def test_callers_hear_from_the_gateway_that_no_worker_is_there(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small") as fleet, shipped_haproxy(tmp_path, _addresses(fleet)) as url:
        await fleet.backends["small"].stop()
        async with aiohttp.ClientSession() as session:
            while (await _ready(session, fleet.url)) == 200:
                await session.post(f"{fleet.url}/v1/chat/completions", json=CHAT, headers=HEADERS)
            await asyncio.sleep(OUT_AFTER_S)
            async with session.post(f"{url}/v1/chat/completions", json=CHAT, headers=HEADERS) as answer:
                assert (answer.status, answer.content_type) == (503, "application/json")
                assert (await answer.json())["error"]["code"] == "no_backend"
                assert int(answer.headers["retry-after"]) > 0


async def _ready(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(f"{url}/readyz") as answer:
        return answer.status


async def _events(url: str) -> list[float]:
    """When each event came."""
    async with aiohttp.ClientSession() as session:
        body = {**CHAT, "stream": True}
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=HEADERS) as answer:
            assert answer.status == 200
            return [time.monotonic() async for line in answer.content if line.startswith(b"data: {")]
