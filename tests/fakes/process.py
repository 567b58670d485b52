"""`thalamus serve` as a process of its own, and what it costs: its memory, and the bytes that it reads."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import free_ports
from tests.fakes.backend import FakeBackend
from tests.fakes.deployment import write_config


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    pid: int
    port: int
    url: str
    admin_url: str

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


@asynccontextmanager
async def serving(folder: Path, backend: FakeBackend) -> AsyncIterator[Gateway]:
    """A gateway in front of this backend, while the block runs; its log is in the folder."""
    data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    config = write_config(folder, {"small": backend.url}, listen=data, admin_listen=admin)
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli", "serve", "--config", str(config)),
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        async with asyncio.timeout(60):
            while not _has_started(log):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.02)
        yield Gateway(process.pid, int(data.rpartition(":")[2]), f"http://{data}", f"http://{admin}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _has_started(log: Path) -> bool:
    lines = log.read_text().splitlines()
    return any(json.loads(line)["event"] == "gateway.started" for line in lines if line.endswith("}"))
