"""Two gateways behind a proxy are restarted one after the other, and no caller notices."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_ports
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import write_config
from tests.fakes.program import KEYS, URGENT, Callers, Program, serving
from tests.fakes.proxies import haproxy, nginx

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STREAM: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
    "routing": URGENT,
}
PLAIN = {**STREAM, "stream": False}


class Replica:
    """One gateway that can be restarted at its address."""

    def __init__(self, folder: Path, backend: FakeBackend) -> None:
        folder.mkdir()
        data, admin = free_ports(2)
        self.address = f"127.0.0.1:{data}"
        listen: dict[str, Any] = {"listen": self.address, "admin_listen": f"127.0.0.1:{admin}"}
        self._config = write_config(folder, {"small": backend.url}, **listen, keys=KEYS, limits={"accept_s": 2})
        self._stack = AsyncExitStack()
        self.program: Program

    async def start(self) -> None:
        self.program = await self._stack.enter_async_context(serving(self._config))

    async def restart(self) -> None:
        """Until it is used again."""
        self.program.send(signal.SIGTERM)
        assert await self.program.process.wait() == 0
        await self.start()
        await self.program.until("request.completed")

    async def aclose(self) -> None:
        await self._stack.aclose()


@pytest.mark.parametrize("proxy", [haproxy, nginx], ids=["haproxy", "nginx"])
async def test_a_rolling_restart_fails_no_request(
    proxy: Callable[[Path, list[str]], AbstractAsyncContextManager[str]], tmp_path: Path, full_size: bool
) -> None:
    if not full_size and proxy is nginx:
        pytest.skip("at full size only: HAProxy sees more of a gateway that leaves")
    restarts, requests, per_s = (8, 10_000, 150.0) if full_size else (2, 500, 100.0)
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(FakeBackend(Script(event_delay_s=0.05)))
        replicas = [Replica(tmp_path / name, backend) for name in "ab"]
        for replica in replicas:
            stack.push_async_callback(replica.aclose)
            await replica.start()
        url = await stack.enter_async_context(proxy(tmp_path, [replica.address for replica in replicas]))
        # Checks have to see both before the first one goes.
        await asyncio.sleep(1)
        callers = [Callers(url, PLAIN), Callers(url, STREAM)]
        load = [asyncio.create_task(one.run(per_s / 2)) for one in callers]
        for number in range(restarts):
            await replicas[number % 2].restart()
        while sum(len(one.ended) for one in callers) < requests:
            await asyncio.sleep(0.1)
        for task in load:
            task.cancel()
        await asyncio.gather(*load, return_exceptions=True)
    outcomes = sum((one.outcomes for one in callers), start=type(callers[0].outcomes)())
    cut = sum(b"[DONE]" not in body for _, body in callers[1].answers)
    codes = Counter(
        json.loads(body)["error"]["code"] for one in callers for _, body in one.answers if b'{"error"' in body
    )
    figures = {
        "codes": codes,
        "requests": sum(outcomes.values()),
        "restarts": restarts,
        "outcomes": outcomes,
        "streams_cut": cut,
    }
    print(json.dumps(figures))
    assert set(outcomes) == {"200"}
    assert cut == 0
    assert outcomes["200"] >= requests
