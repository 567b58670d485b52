"""A gateway whose standard error nobody reads any more: it answers, and it stops when it is told to."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ROOT, free_ports
from tests.fakes.deployment import SECRET, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timing]

REQUESTS, AT_ONCE = 1_000, 20


async def refused(url: str, requests: int) -> int:
    """How many of so many calls, each of which writes a line of the log, were answered."""
    headers = {"authorization": f"Bearer {SECRET}"}
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

        async def some() -> int:
            answers = 0
            for number in range(requests // AT_ONCE):
                async with session.get(f"{url}/v1/none-{number}") as answer:
                    answers += answer.status == 404
            return answers

        return sum(await asyncio.gather(*(some() for _ in range(AT_ONCE))))


async def ready(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(200):
            try:
                async with session.get(f"{url}/healthz"):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    raise AssertionError("the gateway does not come up")


async def test_a_log_that_nobody_reads_holds_nothing_up(tmp_path: Path) -> None:
    worker, gateway, admin = free_ports(3)
    listen = {"listen": f"127.0.0.1:{gateway}", "admin_listen": f"127.0.0.1:{admin}"}
    config = write_config(tmp_path, {"small": f"http://127.0.0.1:{worker}"}, predicted=False, **listen)
    command = [sys.executable, "-m", "app.cli", "serve", "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        try:
            await ready(f"http://127.0.0.1:{gateway}")
            began_at = time.monotonic()
            answers = await refused(f"http://127.0.0.1:{gateway}", REQUESTS)
            took_s = time.monotonic() - began_at
            assert process.poll() is None
            process.terminate()
            stopping_at = time.monotonic()
            status = process.wait(10)
            stopped_s = time.monotonic() - stopping_at
        finally:
            process.kill()
    figures = {"status": status, "answers": answers, "took_s": round(took_s, 2), "stopped_s": round(stopped_s, 2)}
    print(f"\n{json.dumps(figures)}")
    assert answers == REQUESTS
    assert status == 0
    assert stopped_s < 8
