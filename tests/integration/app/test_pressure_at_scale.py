"""Callers who read slowly, backends without a free connection, networks that cut finely: nobody else is hurt by it."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.backend import FakeBackend, Script
from tests.fakes.caller import CHAT, Heard, call, chat, hear, session_to
from tests.fakes.fault_proxy import FaultProxy, Toxics
from tests.fakes.open_loop import loop_lag
from tests.fakes.process import HEADERS, GatewayProcess, gateway_process, until

pytestmark = [pytest.mark.slow, pytest.mark.timing]

MIB = 1 << 20
LONG = ("x" * 4096,) * 2560
"""A stream of over 10 MiB."""
PATIENT = {"idle_timeout_s": 30, "total_timeout_s": 600}


class SlowReader:
    """Reads 1 KiB a second, and has little room for more."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setblocking(False)
        self._port = port
        self.began_with = b""
        self.read_bytes = 0

    async def read_for(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        body = json.dumps(chat(model="small", stream=True)).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += f"authorization: {HEADERS['authorization']}\r\ncontent-length: {len(body)}\r\n\r\n"
        await loop.sock_sendall(self._socket, head.encode() + body)
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            read = await loop.sock_recv(self._socket, 1024)
            self.began_with = self.began_with or read[:12]
            self.read_bytes += len(read)
            await asyncio.sleep(1.0)

    async def rest(self) -> bytes:
        """What is still to be read of the answer, at once."""
        read = [b""]
        while not read[-1].endswith(b"0\r\n\r\n"):
            read.append(await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16))
        return b"".join(read)

    def close(self) -> None:
        self._socket.close()


async def warm_bytes(gateway: GatewayProcess, backend: FakeBackend) -> int:
    """Memory after a few whole answers, once the gateway has got over their speed: nobody is turned away for it."""
    async with session_to(gateway.url) as session:
        await asyncio.gather(*(hear(session, model="small", stream=True) for _ in range(4)))
    await backend.until(in_flight=0)
    await until(lambda: gateway.metric("thalamus_pressure", reading="strain"), 0)
    return gateway.rss_bytes()


async def settled(backend: FakeBackend, for_s: float = 2.0) -> int:
    """What the backend has sent once it stands still: the buffers of the system on the way are full."""
    async with asyncio.timeout(60):
        sent_bytes = -1
        while sent_bytes != backend.streamed_bytes:
            sent_bytes = backend.streamed_bytes
            await asyncio.sleep(for_s)
    return sent_bytes


async def test_slow_readers_pause_the_backend(tmp_path: Path, full_size: bool) -> None:
    readers, seconds = (200, 60) if full_size else (20, 6)
    async with (
        FakeBackend(Script(LONG)) as backend,
        gateway_process(tmp_path, {"small": backend.url}, upstream=PATIENT, limits={"in_flight": 1000}) as gateway,
    ):
        before_bytes = await warm_bytes(gateway, backend)
        slow = [SlowReader(gateway.port) for _ in range(readers)]
        reading = asyncio.gather(*(one.read_for(seconds) for one in slow))
        sent_bytes = await settled(backend)
        await reading
        assert sent_bytes < readers * 10 * MIB
        sent_late = backend.streamed_bytes - sent_bytes
        rss_bytes, held = gateway.rss_bytes() - before_bytes, backend.in_flight
        assert {one.began_with for one in slow} == {b"HTTP/1.1 200"}
        for one in slow:
            one.close()
        await gateway.until_idle()
        await until(lambda: backend.in_flight, 0)
    figures = {
        "readers": readers,
        "read_kib_each": sum(one.read_bytes for one in slow) // readers // 1024,
        "sent_late_kib_each": sent_late // readers // 1024,
        "rss_mib": round(rss_bytes / MIB, 1),
    }
    print(json.dumps(figures))
    assert held == readers
    assert rss_bytes <= readers * 64 * 1024 + 20 * MIB
    # What buffers of the system do not hold is asked for as slowly as it is read, a few buffers at a time.
    assert sent_late <= readers * 128 * 1024


async def test_pool_exhaustion_is_told_at_once_and_stays_with_its_backend(tmp_path: Path, full_size: bool) -> None:
    slots, more, probes = 20, 100, 1000 if full_size else 600
    async with FakeBackend(Script(hang_after=3)) as full, FakeBackend() as free:
        urls = {"small": full.url, "large": free.url}
        async with (
            gateway_process(tmp_path, urls, {"max_connections": slots}) as gateway,
            session_to(gateway.url) as session,
            loop_lag() as lags_s,
        ):
            base_s = await times_s(session, probes)
            holders = [await call(gateway.port, model="small", stream=True) for _ in range(slots)]
            await full.until(in_flight=slots)
            crowd = asyncio.gather(*(one_of_many(session, number) for number in range(more)))
            beside_s = await times_s(session, probes)
            refused = await crowd
            for _, writer in holders:
                writer.close()
            await gateway.until_idle()
    waits_s = [one.took_s for one in refused]
    figures = {
        "refused": len(refused),
        "p50_s": round(at(waits_s, 0.5), 3),
        "max_s": round(max(waits_s), 3),
        "other_p99_ms": round(at(beside_s, 0.99) * 1e3, 1),
        "other_base_p99_ms": round(at(base_s, 0.99) * 1e3, 1),
    }
    print(json.dumps(figures))
    assert {(one.status, one.code) for one in refused} == {(503, "no_backend")}
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert max(waits_s) <= 1.0 + max(lags_s)
    assert full.calls == slots
    assert at(beside_s, 0.99) <= (1.2 if full_size else 3.0) * at(base_s, 0.99) + 0.005 + at(lags_s, 0.99)


async def one_of_many(session: aiohttp.ClientSession, number: int) -> Heard:
    """They come within half a second: all at once they would slow down this process, and the others' times with it."""
    await asyncio.sleep(number * 0.005)
    return await hear(session, model="small", stream=True)


async def times_s(session: aiohttp.ClientSession, requests: int) -> list[float]:
    """Of requests to the other backend, four at a time."""

    async def some() -> list[Heard]:
        return [await hear(session, model="large") for _ in range(requests // 4)]

    heard = [one for group in await asyncio.gather(*(some() for _ in range(4))) for one in group]
    assert {one.status for one in heard} == {200}
    return [one.took_s for one in heard]


def at(times: list[float], share: float) -> float:
    return sorted(times)[int(share * (len(times) - 1))]


PIECES = ("a", "Ж", "€", "😀", '"', "\\", "\n", "\r", "\u2028", "data: ", "[DONE]", "\ufeff", "{}", " ")


async def test_streams_that_arrive_in_slices_leave_unchanged(tmp_path: Path, full_size: bool) -> None:
    streams = 1_000 if full_size else 40
    rng = random.Random(5)
    different = 0
    async with (
        FakeBackend() as backend,
        FaultProxy(backend.url, seed=5) as proxy,
        gateway_process(tmp_path, {"small": backend.url, "large": proxy.url}) as gateway,
        session_to(gateway.url) as session,
    ):
        proxy.down = Toxics(slicer=True)
        for _ in range(streams):
            backend.script = Script(tuple("".join(rng.choices(PIECES, k=rng.randint(1, 5))) for _ in range(8)))
            options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
            whole = await hear(session, model="small", **options)
            sliced = await hear(session, model="large", **options)
            assert whole.text == "".join(backend.script.tokens)
            different += whole.body.replace(b'"model":"small"', b'"model":"large"') != sliced.body
    print(json.dumps({"streams": streams, "different": different, "sliced_bytes": proxy.bytes_down}))
    assert different == 0


async def test_who_reads_nothing_for_a_minute_is_cut_off(tmp_path: Path, full_size: bool) -> None:
    if not full_size:
        pytest.skip("it takes over a minute")
    async with (
        FakeBackend(Script(LONG)) as backend,
        gateway_process(tmp_path, {"small": backend.url}, upstream=PATIENT) as gateway,
    ):
        reader = SlowReader(gateway.port)
        await reader.read_for(1)
        await asyncio.sleep(50)
        assert backend.in_flight == 1
        with suppress(TimeoutError):
            await backend.until(in_flight=0, within_s=25)
        left = backend.in_flight
        reader.close()
    assert left == 0


async def test_at_the_deadline_of_a_slow_reader_his_backend_is_let_go_and_he_hears_of_it_when_he_reads_on(
    tmp_path: Path,
) -> None:
    total_s = 3.0
    limits = {**PATIENT, "first_byte_timeout_s": 2, "total_timeout_s": total_s}
    async with (
        FakeBackend(Script(LONG)) as backend,
        gateway_process(tmp_path, {"small": backend.url}, upstream=limits) as gateway,
        loop_lag() as lags_s,
    ):
        reader, began_at = SlowReader(gateway.port), time.monotonic()
        await reader.read_for(1.5)
        assert backend.in_flight == 1
        await backend.until(in_flight=0, within_s=10)
        let_go_s = time.monotonic() - began_at - total_s
        await gateway.until_idle(1.0)
        async with asyncio.timeout(10):
            rest = await reader.rest()
        reader.close()
    print(json.dumps({"test": "R6", "slow_reader_let_go_after_ms": round(1e3 * let_go_s, 1)}))
    assert let_go_s <= 0.1 + max(lags_s)
    assert rest.count(b"upstream_timeout") == 1
