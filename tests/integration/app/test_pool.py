"""The pool of connections under cancelled callers, hung replicas and slow readers, on the gateway's own event loop.

The slow ones print their figures as one JSON line each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.domain.models import Backend
from app.errors import UpstreamBusy, UpstreamUnreachable
from app.upstream.client import Message, UpstreamClient
from app.upstream.http.deadline import Timeouts
from app.upstream.http.exchange import read_body
from app.upstream.http.faults import NoAnswer
from app.upstream.http.pool import KEEP_ALIVE_S
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.caller import hang_up
from tests.fakes.certificates import Authority

pytestmark = pytest.mark.timing

MESSAGE = Message("/chat/completions", b'{"model": "small", "messages": []}', stream=False, request_id="r1")
STREAMED = replace(MESSAGE, body=b'{"model": "small", "messages": [], "stream": true}', stream=True)
MIB = 1 << 20


def backend_at(*urls: str, name: str = "pool", max_connections: int = 20, ca_file: str | None = None) -> Backend:
    return Backend(name=name, kind="vllm", urls=urls, max_connections=max_connections, ca_file=ca_file)


async def ask(client: UpstreamClient, url: str, message: Message = MESSAGE, backend: str = "pool") -> bytes:
    exchange = await client.send(backend, url, message)
    try:
        return await read_body(exchange, MIB)
    finally:
        exchange.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "streamed", "TLS"])
async def test_cancelled_callers_leave_the_pool_as_it_was(kind: str, full_size: bool, tmp_path: Path) -> None:
    calls, at_once, chance = 20_000 if full_size else 2_000, 40, random.Random(8)
    if kind == "TLS":  # shaking hands takes most of the time
        calls //= 5
    outcomes = {"answered": 0, "cancelled": 0, "refused": 0}
    authority = Authority() if kind == "TLS" else None
    tls, ca_file = (authority.server(), authority.file(tmp_path)) if authority else (None, None)
    async with FakeBackend(Script(delay_s=0.005, event_delay_s=0.001), tls=tls) as server:
        message = STREAMED if kind == "streamed" else MESSAGE
        async with UpstreamClient([backend_at(server.url, ca_file=ca_file)]) as client:
            await ask(client, server.url)
            handles = psutil.Process().num_fds()
            # As long as they take together on this machine today, so that about half of them leave early.
            began_at = time.monotonic()
            await asyncio.gather(*(ask(client, server.url, message) for _ in range(at_once)))
            leave_within_s = (1 if kind == "TLS" else 2) * (time.monotonic() - began_at)

            async def caller() -> None:
                for _ in range(calls // at_once):
                    call = asyncio.ensure_future(ask(client, server.url, message))
                    asyncio.get_running_loop().call_later(chance.uniform(0, leave_within_s), call.cancel)
                    try:
                        await call
                        outcomes["answered"] += 1
                    except asyncio.CancelledError:
                        outcomes["cancelled"] += 1
                    except UpstreamBusy:
                        outcomes["refused"] += 1

            await asyncio.gather(*(caller() for _ in range(at_once)))
            with suppress(TimeoutError):
                await server.until(in_flight=0)
            in_flight = server.in_flight
            began_at = time.monotonic()
            await ask(client, server.url)
            fresh_s = time.monotonic() - began_at - server.script.delay_s
            # All twenty places are there.
            server.script = Script(hang=True)
            held = [asyncio.ensure_future(ask(client, server.url)) for _ in range(20)]
            await server.until(in_flight=20)
            for call in held:
                call.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            await server.until(in_flight=0)
            server.script = Script()
            await ask(client, server.url)
            handles_after = psutil.Process().num_fds()
    figures = {"calls": calls, **outcomes, "in_flight": in_flight, "fresh_call_s": round(fresh_s, 4)}
    print(json.dumps({"test": "pool under cancellation", "kind": kind, **figures, "fds": [handles, handles_after]}))
    assert sum(outcomes.values()) == calls
    assert min(outcomes["answered"], outcomes["cancelled"]) > calls / 100
    assert in_flight == 0
    assert fresh_s <= 0.1
    # Up to twenty idle connections close after a while; each is one handle here and one at the server.
    assert handles_after <= handles + 2


@pytest.mark.slow
async def test_a_full_pool_refuses_in_time_and_other_backends_are_as_fast_as_before() -> None:
    held, more = 50, 100
    async with FakeBackend(Script(hang=True)) as hung, FakeBackend() as other:
        backends = [backend_at(hung.url, max_connections=held), backend_at(other.url, name="other")]
        async with UpstreamClient(backends) as client:

            async def p99_s() -> float:
                times_s = []
                for _ in range(300):
                    began_at = time.monotonic()
                    await ask(client, other.url, backend="other")
                    times_s.append(time.monotonic() - began_at)
                return sorted(times_s)[297]

            async def refused_after_s() -> float:
                began_at = time.monotonic()
                with pytest.raises(UpstreamBusy):
                    await ask(client, hung.url)
                return time.monotonic() - began_at

            base_s = await p99_s()
            calls = [asyncio.ensure_future(ask(client, hung.url)) for _ in range(held)]
            await hung.until(in_flight=held)
            waiting = [asyncio.ensure_future(refused_after_s()) for _ in range(more)]
            during_s = await p99_s()
            waits_s = await asyncio.gather(*waiting)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
    figures = {"held": held, "refused": more, "refused_after_s": round(max(waits_s), 3)}
    print(json.dumps({"test": "pool exhaustion", **figures, "other_p99_ms": [base_s * 1e3, during_s * 1e3]}))
    assert hung.calls == held
    assert max(waits_s) <= 1.0
    assert during_s < max(3 * base_s, 0.05)


async def test_a_replica_that_hangs_leaves_connections_to_the_others() -> None:
    async with FakeBackend(Script(hang=True)) as hung, FakeBackend() as well:
        backend = backend_at(hung.url, well.url, max_connections=8)
        async with UpstreamClient([backend], timeouts=Timeouts(pool_wait_s=0.2)) as client:
            calls = [asyncio.ensure_future(ask(client, hung.url)) for _ in range(20)]
            await hung.until(in_flight=6)
            assert all(await asyncio.gather(*(ask(client, well.url) for _ in range(10))))
            refused = [call for call in calls if call.done()]
            await asyncio.sleep(0.25)
            assert hung.in_flight == 6
            for call in calls:
                call.cancel()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(outcome, UpstreamBusy) for outcome in outcomes) == 14
    assert len(refused) <= 14


async def test_an_idle_connection_that_the_worker_closed_is_not_used() -> None:
    async with FakeBackend() as server, UpstreamClient([backend_at(server.url)]) as client:
        await asyncio.gather(*(ask(client, server.url) for _ in range(5)))
        await server.stop()
        await server.start()
        await asyncio.sleep(0.01)
        assert all(await asyncio.gather(*(ask(client, server.url) for _ in range(5))))


class Closing:
    """A server that closes each of its connections as the next request comes after so many answers."""

    def __init__(self, answers: int = 1, *, reset: bool = False) -> None:
        self.asked: list[int] = []
        """The number of each request on its connection."""
        self._answers, self._reset = answers, reset

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Closing]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as self.listener:
            self.url = f"http://127.0.0.1:{self.listener.sockets[0].getsockname()[1]}"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            for number in range(1, self._answers + 1):
                await reader.readuntil(MESSAGE.body)
                self.asked.append(number)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await reader.readuntil(MESSAGE.body)
            self.asked.append(self._answers + 1)
            hang_up(writer, reset=self._reset)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_a_request_that_meets_the_end_of_its_idle_connection_is_sent_again_on_a_new_one(reset: bool) -> None:
    async with Closing(reset=reset).serving() as server:
        # Its one place is wanted by others as well.
        async with UpstreamClient([backend_at(server.url, max_connections=1)]) as client:
            said = await asyncio.gather(*(ask(client, server.url) for _ in range(4)))
            assert said == [b"{}"] * 4
        assert server.asked == [1, 2, 1, 2, 1, 2, 1]


async def test_a_request_that_meets_the_end_of_a_new_connection_is_not_sent_twice() -> None:
    """Whether the worker began with it cannot be known, so it is for the dispatcher to decide."""
    async with Closing(answers=0).serving() as server, UpstreamClient([backend_at(server.url)]) as client:
        with pytest.raises(NoAnswer):
            await ask(client, server.url)
        assert server.asked == [1]


async def test_a_place_comes_back_where_no_new_connection_can_be_made() -> None:
    async with Closing().serving() as server:
        async with UpstreamClient([backend_at(server.url, max_connections=1)]) as client:
            assert await ask(client, server.url) == b"{}"
            server.listener.close()
            for _ in range(2):
                with pytest.raises(UpstreamUnreachable):
                    await ask(client, server.url)
        assert server.asked == [1, 2]


@pytest.mark.slow
async def test_an_idle_connection_is_closed_before_its_worker_would() -> None:
    async with FakeBackend() as server, UpstreamClient([backend_at(server.url)]) as client:
        await asyncio.gather(*(ask(client, server.url) for _ in range(3)))
        began_at = time.monotonic()
        async with asyncio.timeout(20):
            while server._writers:
                await asyncio.sleep(0.05)
        assert time.monotonic() - began_at > KEEP_ALIVE_S - 0.1


@asynccontextmanager
async def flooding(mib: int) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that answers with a stream as fast as it is taken; with the bytes that it got rid of, by connection."""
    sent: list[int] = []
    piece = b"8000\r\n%b\r\n" % (b"x" * 0x8000)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        mine = len(sent)
        sent.append(0)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        with suppress(OSError):
            for _ in range(mib * 32):
                writer.write(piece)
                await writer.drain()
                sent[mine] += 0x8000
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", sent


@pytest.mark.slow
async def test_a_reader_who_is_slow_makes_its_backend_wait(full_size: bool) -> None:
    streams, seconds, mib = (200, 60.0, 10) if full_size else (50, 3.0, 10)
    async with flooding(mib) as (url, sent), UpstreamClient([backend_at(url, max_connections=streams)]) as client:
        before = psutil.Process().memory_info().rss
        exchanges = [await client.send("pool", url, STREAMED) for _ in range(streams)]
        ends_at = time.monotonic() + seconds
        unread = 0
        while time.monotonic() < ends_at:
            unread = max(unread, *(exchange.unread_bytes for exchange in exchanges))
            await asyncio.sleep(0.2)
        grown = psutil.Process().memory_info().rss - before
        most_sent = max(sent)
        whole = len(await read_body(exchanges[0], mib * MIB))
        for exchange in exchanges:
            exchange.close()
    figures = {"streams": streams, "seconds": seconds, "rss_grown_mib": round(grown / MIB, 1), "most_unread": unread}
    print(json.dumps({"test": "slow readers", **figures, "most_sent_mib": round(most_sent / MIB, 2)}))
    assert unread <= 128 << 10
    assert grown <= streams * (128 << 10) + 20 * MIB
    assert most_sent < mib * MIB, "the backend waits"
    assert whole == mib * MIB
