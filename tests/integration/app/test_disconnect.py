"""Callers who leave, and workers that die under many requests: nothing stays held, nobody gets half an answer twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest

from app.upstream.served import Served
from tests.fakes.backend import TOKENS, FakeBackend, Script
from tests.fakes.gateway import bench, catalog_of, client_of
from tests.fakes.upstream import texts
from tests.fakes.world import FakeKey, request

pytestmark = pytest.mark.timing

KEY = FakeKey()
STREAMED = request(stream=True, max_tokens=1)
# A cancelled call must be closed upstream within this long.
CLOSED_WITHIN_S = 0.05


@pytest.mark.parametrize("stream", [True, False], ids=["before the first byte", "plain"])
async def test_leaving_while_the_answer_is_awaited_cancels_the_backend(stream: bool) -> None:
    async with FakeBackend(Script(hang=True)) as small:
        catalog = catalog_of(small=small)
        async with client_of(catalog) as client:
            gateway = bench(catalog, client)
            call = asyncio.create_task(gateway.gateway.complete(replace(STREAMED, stream=stream), KEY))
            await small.until(in_flight=1)

            left_at = time.monotonic()
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            await small.until(in_flight=0)

            assert time.monotonic() - left_at < CLOSED_WITHIN_S
            assert (small.aborted, gateway.in_flight) == (1, (0, 0, 0))
            assert [(one["outcome"], one["status"]) for one in gateway.completed] == [("cancelled", 499)]


async def test_leaving_in_the_middle_of_a_stream_cancels_the_backend() -> None:
    async with FakeBackend(Script(hang_after=3)) as small:
        catalog = catalog_of(small=small)
        async with client_of(catalog) as client:
            gateway = bench(catalog, client)
            served = await gateway.gateway.complete(STREAMED, KEY)
            said = texts(await anext(served.answer))

            left_at = time.monotonic()
            await served.answer.aclose()
            await served.answer.aclose()
            await small.until(in_flight=0)

            assert time.monotonic() - left_at < CLOSED_WITHIN_S
            assert said
            assert "".join(TOKENS).startswith(said)
            assert (small.aborted, gateway.in_flight) == (1, (0, 0, 0))
            (record,) = gateway.completed
            assert (record["outcome"], record["usage_counted"]) == ("cancelled", True)


async def test_an_answer_that_is_never_read_gives_everything_back_when_closed() -> None:
    async with FakeBackend() as small:
        catalog = catalog_of(small=small)
        async with client_of(catalog) as client:
            gateway = bench(catalog, client)
            for stream in (True, False):
                served = await gateway.gateway.complete(replace(STREAMED, stream=stream), KEY)
                await served.answer.aclose()
            assert gateway.in_flight == (0, 0, 0)
            assert [record["outcome"] for record in gateway.completed] == ["cancelled", "cancelled"]


async def test_a_worker_that_dies_under_a_hundred_requests_loses_none_that_had_no_byte_yet() -> None:
    """Half of them have begun when it dies: these end with one error event each."""
    async with FakeBackend(Script(hang_after=3)) as small, FakeBackend() as large:
        catalog = catalog_of(small=small, large=large)
        async with client_of(catalog) as client:
            gateway = bench(catalog, client)
            handles_before = psutil.Process().num_fds()

            begun = [asyncio.create_task(_read(gateway.gateway.complete(STREAMED, KEY))) for _ in range(50)]
            await small.until(in_flight=50)
            small.script = Script(hang=True)
            waiting = [asyncio.create_task(_read(gateway.gateway.complete(STREAMED, KEY))) for _ in range(50)]
            await small.until(in_flight=100)
            await asyncio.sleep(0.05)
            await small.stop()

            cut = await asyncio.gather(*begun)
            whole = await asyncio.gather(*waiting)

            assert {(served.candidate.model.name, texts(sent)) for served, sent in whole} == {
                ("large", "".join(TOKENS))
            }
            assert all(sent.count(b'"error"') == 1 and b"[DONE]" not in sent for _, sent in cut)
            assert all("".join(TOKENS).startswith(texts(sent)) for _, sent in cut)
            assert gateway.in_flight == (0, 0, 0)
            assert len(gateway.completed) == 100
        await asyncio.sleep(0.05)
        assert psutil.Process().num_fds() <= handles_before + 2


async def test_a_pool_that_was_cancelled_under_contention_is_whole_afterwards() -> None:
    """Forty callers on a pool of twenty, each leaving at some point within 40 ms: no slot stays taken."""
    async with FakeBackend(Script(delay_s=0.01, event_delay_s=0.002)) as small:
        catalog = catalog_of(small=small)
        backends = tuple(replace(backend, max_connections=20) for backend in catalog.backends)
        catalog = replace(catalog, backends=backends)
        async with client_of(catalog) as client:
            gateway = bench(catalog, client)

            async def leave_after(seconds: float) -> None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await _read(gateway.gateway.complete(STREAMED, KEY))

            for turn in range(10):
                await asyncio.gather(*(leave_after((turn + 4 * caller) % 40 / 1000) for caller in range(40)))
            await small.until(in_flight=0)

            assert gateway.in_flight == (0, 0, 0)
            began_at = time.monotonic()
            _, sent = await _read(gateway.gateway.complete(STREAMED, KEY))
            assert texts(sent) == "".join(TOKENS)
            assert time.monotonic() - began_at < 0.3


async def _read(call: Awaitable[Served]) -> tuple[Served, bytes]:
    served = await call
    try:
        return served, b"".join([piece async for piece in served.answer])
    finally:
        await served.answer.aclose()
