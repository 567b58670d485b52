"""A gateway that runs out of open files refuses or answers 503, goes on, and is well again afterwards."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.conftest import free_ports
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import write_config
from tests.fakes.process import until
from tests.fakes.program import KEYS, URGENT, Callers, serving

pytestmark = pytest.mark.slow

CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "routing": URGENT}
LIMIT = 120


async def test_with_few_open_files_nothing_crashes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(FakeBackend(Script(delay_s=1)))
        data, admin = free_ports(2)
        listen: dict[str, Any] = {"listen": f"127.0.0.1:{data}", "admin_listen": f"127.0.0.1:{admin}"}
        config = write_config(tmp_path, {"small": backend.url}, keys=KEYS, **listen, limits={"accept_s": 0})
        program = await stack.enter_async_context(serving(config, open_files=LIMIT))
        process = psutil.Process(program.process.pid)
        before = process.num_fds()
        # Connections that say nothing take the open files, and callers come on top of them.
        idle = [await asyncio.open_connection("127.0.0.1", data) for _ in range(LIMIT)]
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        callers = Callers(program.url, CHAT, connector, timeout_s=3)
        await callers.run(per_s=100, count=200)
        async with aiohttp.ClientSession() as session, session.get(f"{program.admin}/healthz") as answer:
            health = answer.status
        for _, writer in idle:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        await asyncio.sleep(1)
        backend.script = Script()
        after = Callers(program.url, CHAT)
        await after.run(per_s=50, count=50)
        with suppress(TimeoutError):
            await until(lambda: process.num_fds() - before <= 5, True, 20)
        left = process.num_fds()
        crashed = program.events("request.crashed")
    outcomes = Counter(callers.outcomes)
    print(json.dumps({"open_files": LIMIT, "outcomes": outcomes, "afterwards": after.outcomes, "left": left - before}))
    assert (health, after.outcomes, crashed) == (200, {"200": 50}, [])
    assert outcomes.keys() <= {"200", "503", "ServerDisconnectedError", "ClientOSError", "TimeoutError"}
    assert left - before <= 5
