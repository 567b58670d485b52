"""R21: what the document of the API allows, and what it forbids, sent to a real gateway. Prints how much was tried."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

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
    walks: int
    options: tuple[str, ...] = ()


SMALL = Size(5, 5)
# It makes some ten calls a second, and goes on for as long as it may.
WHOLE = Size(5_000, 500, ("--max-time", "2400"))


async def tried(gateway: GatewayProcess, folder: Path, size: Size) -> tuple[int, str]:
    """How it ended, and what was written."""
    (folder / "schemathesis.toml").write_text(CONFIG.format(examples=size.examples, walks=size.walks))
    process = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{gateway.admin_url}/openapi.json"),
        *("--url", gateway.url, "--header", f"Authorization: Bearer {SECRET}", "--checks", "all"),
        *("--seed", "1", "--no-color", "--warnings", "off", *size.options),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    written, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, written.decode(errors="replace")


@pytest.mark.timeout(3_600)
async def test_the_document_of_the_api_is_kept(tmp_path: Path, full_size: bool) -> None:
    """No 5xx of ours, no status that is not told, nothing without a key, nothing accepted that is forbidden."""
    async with FakeBackend(Script()) as backend, gateway_process(tmp_path, {"small": backend.url}) as gateway:
        status, written = await tried(gateway, tmp_path, WHOLE if full_size else SMALL)
        crashed = gateway.events("request.crashed")
    cases = re.search(r"(\d+) generated", written)
    print(json.dumps({"test": "R21", "cases": int(cases[1]) if cases else None, "exit": status}))
    lines = [line[:300] for line in written.splitlines()]
    assert status == 0, "\n".join(lines)[-SHOWN_BYTES:]
    assert not crashed
