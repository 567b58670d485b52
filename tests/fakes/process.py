"""A gateway in a process of its own, as an operator runs it: `thalamus serve` with files and ports of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from tests.conftest import free_ports
from tests.fakes.deployment import SECRET, write_config
from tests.fakes.log_lines import logged

HEADERS = {"authorization": f"Bearer {SECRET}"}
READY_WITHIN_S = 60.0


class GatewayProcess:
    """What runs, where, and how to look into it from outside."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, admin_url: str, log: Path) -> None:
        self.process, self.url, self.admin_url, self._log = process, url, admin_url, log
        self.seen_by_system = psutil.Process(process.pid)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """What it has logged so far."""
        return logged(self._log, name)

    @property
    def completed(self) -> list[dict[str, Any]]:
        return self.events("request.completed")

    @property
    def pid(self) -> int:
        return self.process.pid

    def forget_peak(self) -> int:
        """Begin to look for the highest memory anew; returns what it is now, in bytes."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.peak_bytes()

    def peak_bytes(self) -> int:
        """The most memory that was in use since it was forgotten."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

    def read_bytes(self) -> int:
        """What the process has read from files and sockets."""
        return int(Path(f"/proc/{self.pid}/io").read_text().split()[1])

    def rss_bytes(self) -> int:
        size: int = self.seen_by_system.memory_info().rss
        return size

    def cpu_s(self) -> float:
        times = self.seen_by_system.cpu_times()
        return float(times.user + times.system)

    async def metric(self, name: str, **labels: str) -> float:
        """A series of its metrics page, summed over the labels that are not named; 0 when there is none yet."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin_url}/metrics") as page:
            text = await page.text()
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for has, value in found if all(one in has for one in wanted))

    async def until_idle(self, within_s: float = 5.0) -> None:
        """Wait until no request is in flight."""
        await until(lambda: self.metric("thalamus_requests_in_flight"), 0, within_s)


async def until(measure: Callable[[], Any], value: object, within_s: float = 5.0) -> None:
    """Wait until something measured, by awaiting it or not, has this value."""
    ends_at, seen = time.monotonic() + within_s, object()
    while time.monotonic() < ends_at:
        seen = measure()
        if asyncio.iscoroutine(seen):
            seen = await seen
        if seen == value:
            return
        await asyncio.sleep(0.002)
    raise TimeoutError(f"it is {seen!r} after {within_s:g} s, not {value!r}")


@asynccontextmanager
async def gateway_process(
    folder: Path,
    urls: Mapping[str, str],
    backend: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    **changes: Any,
) -> AsyncIterator[GatewayProcess]:
    """One model per URL, named like it, tried in this order; `backend` is said of all backends in the catalogue.

    `environment` is what the process has in its own beside ours.
    """
    data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    config = write_config(folder, urls, listen=data, admin_listen=admin, **changes)
    if backend:
        _amend(folder / "catalog.yaml", backend)
    log = folder / "gateway.log"
    with log.open("w") as stderr:
        command = (sys.executable, "-m", "app.cli", "serve", "--config", str(config))
        process = await asyncio.create_subprocess_exec(
            *command, stderr=stderr, env={**os.environ, **(environment or {})}
        )
    gateway = GatewayProcess(process, f"http://{data}", f"http://{admin}", log)
    try:
        await until(lambda: len(gateway.events("gateway.started")), 1, READY_WITHIN_S)
        yield gateway
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _amend(path: Path, backend: Mapping[str, Any]) -> None:
    content = yaml.safe_load(path.read_text())
    for one in content["backends"]:
        one.update(backend)
    path.write_text(yaml.safe_dump(content))
