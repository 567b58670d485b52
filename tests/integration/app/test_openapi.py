"""R21: what the document of the API allows, and what it forbids, sent to a real gateway. Prints how much was tried."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import SECRET
from tests.fakes.process import GatewayProcess, gateway_process

pytestmark = pytest.mark.slow

# A call that the document allows may still be refused: no schema says that a stream's options need a stream, and 1.0 is
# a whole number to a schema alone. A body that is too large is refused before anybody looks into it, and so is feedback
# that comes too often.
# A walk over several operations takes many calls, so there are fewer of those.
CONFIG = """
generation.max-examples = {examples}
[phases.stateful]
generation.max-examples = {walks}
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "400", "403", "404", "413", "429"]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "413", "415", "422", "429"]
"""
SHOWN_BYTES = 4_000


class Size(NamedTuple):
    """How much is tried."""

    examples: int
    """For each operation: so many that the document allows, and as many that it forbids; of a body eight times that."""
    walks: int


SMALL, WHOLE, WHOLE_WITH_BODY = Size(2, 2), Size(2_500, 500), Size(300, 500)
# At least so many for each operation in the whole.
CASES = 5_000


class Tried(NamedTuple):
    """How a run ended."""

    status: int
    cases: int
    written: str

    def check(self) -> None:
        lines = [line[:300] for line in self.written.splitlines()]
        assert self.status == 0, "\n".join(lines)[-SHOWN_BYTES:]


async def tried(gateway: GatewayProcess, folder: Path, size: Size, *options: str) -> Tried:
    """Run Schemathesis in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "schemathesis.toml").write_text(CONFIG.format(**size._asdict()))
    process = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{gateway.admin_url}/openapi.json"),
        *("--url", gateway.url, "--header", f"Authorization: Bearer {SECRET}", "--checks", "all"),
        *("--seed", "1", "--no-color", "--warnings", "off", *options),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    written = output.decode(errors="replace")
    cases = re.search(r"(\d+) generated", written)
    return Tried(process.returncode, int(cases[1]) if cases else 0, written)


class Operation(NamedTuple):
    """One that is documented."""

    method: str
    path: str
    has_body: bool


async def operations(gateway: GatewayProcess) -> list[Operation]:
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.admin_url}/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    return [
        Operation(method.upper(), path, "requestBody" in described)
        for path, item in paths.items()
        for method, described in item.items()
    ]


async def tried_singly(gateway: GatewayProcess, folder: Path) -> dict[str, Tried]:
    """All operations, then walks over several of them.

    A run makes some ten calls a second and keeps one processor busy, so each operation has one of its own.
    """
    turns = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(number: int, operation: Operation) -> Tried:
        method, path, has_body = operation
        async with turns:
            only = ("--include-method", method, "--include-path", path, "--phases", "examples,coverage,fuzzing")
            size = WHOLE_WITH_BODY if has_body else WHOLE
            result = await tried(gateway, folder / f"operation-{number}", size, *only)
            # It takes long, so each is told when it is known.
            print(
                json.dumps({"operation": f"{method} {path}", "cases": result.cases, "exit": result.status}), flush=True
            )
            return result

    known = await operations(gateway)
    results = await asyncio.gather(*(one(number, each) for number, each in enumerate(known)))
    names = [f"{each.method} {each.path}" for each in known]
    walks = await tried(gateway, folder / "walks", WHOLE, "--phases", "stateful")
    return dict(zip(names, results, strict=True), walks=walks)


@pytest.mark.timeout(3 * 3_600)
async def test_the_document_of_the_api_is_kept(tmp_path: Path, full_size: bool) -> None:
    """No 5xx of ours, no status that is not told, nothing without a key, nothing accepted that is forbidden."""
    async with FakeBackend(Script()) as backend, gateway_process(tmp_path, {"small": backend.url}) as gateway:
        if full_size:
            results = await tried_singly(gateway, tmp_path)
        else:
            results = {"all": await tried(gateway, tmp_path / "all", SMALL)}
        crashed = gateway.events("request.crashed")
    print(json.dumps({"test": "R21", "cases": {name: result.cases for name, result in results.items()}}))
    for result in results.values():
        result.check()
    if full_size:
        assert min(result.cases for name, result in results.items() if name != "walks") >= CASES
    assert not crashed
