"""Callers who hang up, over real sockets: in all three phases the backend is cut off and nothing stays held."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.fakes.backend import Script
from tests.fakes.caller import call, hang_up
from tests.fakes.deployment import SECRET, deployed
from tests.fakes.process import until

pytestmark = pytest.mark.timing

# From the caller's end to the backend's: RELIABILITY asks 250 ms at most.
WITHIN_S = 0.25


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize(
    ("stream", "script", "begun"),
    [
        (True, Script(hang=True), False),
        (False, Script(hang=True), False),
        (True, Script(hang_after=3), True),
    ],
    ids=["before the first byte", "plain", "in the middle"],
)
async def test_a_caller_who_hangs_up_cuts_off_the_backend(
    tmp_path: Path, stream: bool, script: Script, begun: bool, reset: bool
) -> None:
    async with deployed(tmp_path, "small") as deployment:
        backend = deployment.backends["small"]
        backend.script = script
        reader, writer = await call(deployment.port, model="small", stream=stream)
        await backend.until(in_flight=1)
        if begun:
            await reader.readuntil(b"data: ")

        left_at = time.monotonic()
        hang_up(writer, reset=reset)
        await backend.until(in_flight=0)

        assert time.monotonic() - left_at < WITHIN_S
        assert backend.aborted == 1
        metrics = deployment.application.telemetry.metrics
        for _ in range(100):
            if metrics.registry.get_sample_value("thalamus_requests_in_flight") == 0:
                break
            await asyncio.sleep(0.001)
        labels = {"operation": "chat", "outcome": "cancelled"}
        assert metrics.registry.get_sample_value("thalamus_requests_in_flight") == 0
        assert metrics.registry.get_sample_value("thalamus_requests_total", labels) == 1


async def test_a_caller_who_hangs_up_while_sending_is_forgotten(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small") as deployment:
        _, writer = await asyncio.open_connection("127.0.0.1", deployment.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %b\r\ncontent-length: 100\r\n\r\n{" % SECRET.encode()
        )
        await writer.drain()
        front, uploads = deployment.application.data.front, deployment.application.live.doors.uploads
        await until(lambda: (len(front.connections), uploads.bytes > 0), (1, True))
        writer.close()
        await until(lambda: (len(front.connections), uploads.bytes), (0, 0))
        metrics = deployment.application.telemetry.metrics
        assert metrics.registry.get_sample_value("thalamus_requests_in_flight") == 0
        assert deployment.backends["small"].calls == 0
