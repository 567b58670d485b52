"""Who sends one call after the other to a backend that ends its bodies a moment after its answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from tests.fakes.backend import Script
from tests.fakes.caller import call, hang_up, request
from tests.fakes.deployment import GATEWAY, deployed
from tests.fakes.process import until

pytestmark = pytest.mark.timing

LATE_END = Script(end_delay_s=0.05)
LAST_CHUNK = b"\r\n0\r\n\r\n"


async def test_a_key_that_may_have_one_call_at_a_time_is_free_with_the_last_byte_of_it(tmp_path: Path) -> None:
    one = {**GATEWAY["keys"][0], "concurrency": 1}
    async with deployed(tmp_path, "small", keys=[one]) as deployment:
        deployment.backends["small"].script = LATE_END
        writers = []
        for _ in range(5):
            reader, writer = await call(deployment.port, model="small", stream=True)
            writers.append(writer)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            await reader.readuntil(LAST_CHUNK)
        for writer in writers:
            writer.close()


async def test_a_large_call_may_follow_at_once_on_the_same_connection(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small") as deployment:
        deployment.backends["small"].script = LATE_END
        reader, writer = await call(deployment.port, model="small", stream=True)
        for _ in range(3):
            await reader.readuntil(LAST_CHUNK)
            writer.write(request(model="small", messages=[{"role": "user", "content": "word " * 20_000}]))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 "), "it is larger than the model's context, and was read"
            await reader.readuntil(b"}}")
            writer.write(request(model="small", stream=True))
        writer.close()


async def test_who_hangs_up_after_the_answer_does_not_cost_the_backends_connection(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small") as deployment:
        backend = deployment.backends["small"]
        backend.script = LATE_END
        for _ in range(3):
            reader, writer = await call(deployment.port, model="small", stream=True)
            await reader.readuntil(LAST_CHUNK)
            hang_up(writer, reset=True)
            await backend.until(in_flight=0)
        assert (backend.calls, backend.aborted) == (3, 0)


async def test_a_stop_leaves_nothing_of_bodies_that_have_not_ended(tmp_path: Path) -> None:
    def held() -> tuple[int, int]:
        return psutil.Process().num_fds(), len(asyncio.all_tasks())

    async def stopped_behind(calls: int) -> None:
        async with deployed(tmp_path, "small") as deployment:
            backend = deployment.backends["small"]
            backend.script = Script(end_delay_s=60.0)
            for _ in range(calls):
                reader, writer = await call(deployment.port, model="small", stream=True)
                await reader.readuntil(LAST_CHUNK)
                writer.close()
            assert backend.in_flight > 0, "the last one has a moment"

    await stopped_behind(1)
    before = held()
    await stopped_behind(9)
    await until(held, before)
