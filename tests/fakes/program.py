"""The gateway as a program of its own, and callers that note how each of their requests ended."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.fakes.deployment import GATEWAY, SECRET
from tests.fakes.log_lines import logged

URGENT = {"priority": "high"}
"""`routing` of requests that are not to be turned away when the machine itself is busy with something else."""
KEYS: list[dict[str, Any]] = [{**GATEWAY["keys"][0], "max_priority": "high"}]


@dataclass(frozen=True)
class Program:
    """A running `thalamus serve`."""

    process: asyncio.subprocess.Process
    log: Path
    url: str
    admin: str

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """What it has logged so far."""
        return logged(self.log, name)

    async def until(self, event: str, count: int = 1, within_s: float = 30.0) -> None:
        """Wait until it has logged this so often."""
        async with asyncio.timeout(within_s):
            while len(self.events(event)) < count:
                assert self.process.returncode is None or self.events(event), self.log.read_text()
                await asyncio.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def serving(config: Path, open_files: int | None = None) -> AsyncIterator[Program]:
    """The program with this configuration, once it takes requests; with so many open files at most."""
    log = config.with_suffix(f".{time.monotonic_ns()}.log")
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *_limited(open_files),
            *(sys.executable, "-m", "app.cli", "serve", "--config", str(config)),
            stdout=output,
            stderr=output,
        )
    program = Program(process, log, "", "")
    try:
        await program.until("gateway.started")
        started = program.events("gateway.started")[0]
        yield Program(process, log, f"http://{started['listen']}", f"http://{started['admin']}")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _limited(open_files: int | None) -> tuple[str, ...]:
    return () if open_files is None else ("sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh")


@dataclass
class Callers:
    """Sends requests at a steady rate, whether the ones before are answered or not."""

    url: str
    body: Mapping[str, Any]
    connector: aiohttp.TCPConnector | None = None
    timeout_s: float = 60.0
    outcomes: Counter[str] = field(default_factory=Counter)
    """By what happened: the status, or the name of the exception."""
    ended: list[tuple[float, str]] = field(default_factory=list)
    """When each request was sent (monotonic), and its outcome."""
    answers: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, per_s: float, count: int | None = None) -> None:
        """So many, or until cancelled; then waits for the answers."""
        async with aiohttp.ClientSession(
            connector=self.connector, timeout=aiohttp.ClientTimeout(total=self.timeout_s)
        ) as session:
            began_at, number = time.monotonic(), 0
            try:
                while count is None or number < count:
                    task = asyncio.create_task(self._one(session))
                    self._open.add(task)
                    task.add_done_callback(self._open.discard)
                    number += 1
                    await asyncio.sleep(max(0.0, began_at + number / per_s - time.monotonic()))
            finally:
                await asyncio.gather(*self._open)

    async def _one(self, session: aiohttp.ClientSession) -> None:
        sent_at = time.monotonic()
        headers = {"authorization": f"Bearer {SECRET}"}
        try:
            async with session.post(f"{self.url}/v1/chat/completions", json=dict(self.body), headers=headers) as answer:
                body = await answer.read()
                self.answers.append((answer.headers, body))
                outcome = str(answer.status)
        except (aiohttp.ClientError, OSError) as exc:
            outcome = type(exc).__name__
        self.outcomes[outcome] += 1
        self.ended.append((sent_at, outcome))
