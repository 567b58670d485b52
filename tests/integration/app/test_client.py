"""The HTTP client against real sockets: what it sends, where it connects, and how failures are named."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from app.domain.models import Backend
from app.errors import UpstreamBroken, UpstreamBusy, UpstreamError, UpstreamUnreachable, UsageError
from app.upstream.client import Message, UpstreamClient
from app.upstream.fleet.ejections import FAILURES_TO_EJECT
from app.upstream.http.deadline import Timeouts
from app.upstream.http.exchange import read_body
from app.upstream.poller import Poller
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.gateway import QUICK, bench, catalog_of
from tests.fakes.world import FakeKey, request

pytestmark = pytest.mark.timing

MESSAGE = Message("/chat/completions", b'{"model": "small", "messages": []}', stream=False, request_id="r1")
SPLIT = "r1\r\nx-injected: 1"


def backend_at(url: str, **more: object) -> Backend:
    return replace(Backend(name="pool", kind="vllm", urls=(url,)), **more)  # type: ignore[arg-type]


async def test_headers_are_built_from_nothing() -> None:
    async with FakeBackend() as server:
        server.key = "worker-secret"
        async with UpstreamClient([backend_at(server.url)], {"pool": "worker-secret"}) as client:
            exchange = await client.send("pool", server.url, replace(MESSAGE, hops=1))
            await read_body(exchange, 1 << 20)
            exchange.close()
        (received,) = server.requests
        assert dict(received.headers) == {
            "host": f"127.0.0.1:{server.port}",
            "authorization": "Bearer worker-secret",
            "content-type": "application/json",
            "accept": "application/json",
            "x-request-id": "r1",
            "x-thalamus-hop": "2",
            "content-length": str(len(MESSAGE.body)),
        }


async def test_a_backend_is_told_the_trace_and_the_time_that_is_left() -> None:
    async with FakeBackend() as server, UpstreamClient([backend_at(server.url)]) as client:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        for deadline_s in (1.5, -0.1):
            (await client.send("pool", server.url, replace(MESSAGE, traceparent=trace, deadline_s=deadline_s))).close()
        assert [one.headers["traceparent"] for one in server.requests] == [trace, trace]
        assert [one.headers["x-thalamus-deadline-ms"] for one in server.requests] == ["1500", "0"]


@pytest.mark.parametrize(
    "message", [replace(MESSAGE, request_id=SPLIT), replace(MESSAGE, traceparent=SPLIT)], ids=["request id", "trace"]
)
async def test_no_field_can_begin_another_header(message: Message) -> None:
    async with FakeBackend() as server, UpstreamClient([backend_at(server.url)]) as client:
        with pytest.raises(ValueError, match="line break"):
            await client.send("pool", server.url, message)
        assert server.calls == 0


async def test_a_large_body_arrives_whole() -> None:
    body = b'{"model": "small", "messages": [], "padding": "%b"}' % (b"x" * (3 << 20))
    async with FakeBackend() as server, UpstreamClient([backend_at(server.url)]) as client:
        exchange = await client.send("pool", server.url, replace(MESSAGE, body=body))
        assert exchange.status == 200
        exchange.close()
        assert len(server.requests[0].body["padding"]) == 3 << 20


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_a_url_is_right_with_and_without_its_version(suffix: str) -> None:
    async with FakeBackend() as server, UpstreamClient([backend_at(server.url + suffix)]) as client:
        exchange = await client.send("pool", server.url + suffix, MESSAGE)
        exchange.close()
        assert server.requests[0].path == "/v1/chat/completions"


async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    async with FakeBackend() as server, UpstreamClient([backend_at(server.url)]) as client:
        for _ in range(3):
            exchange = await client.send("pool", server.url, MESSAGE)
            await read_body(exchange, 1 << 20)
            exchange.close()
        assert len(server._writers) == 1


async def test_a_connection_is_used_again_after_a_whole_stream_and_cut_after_half_of_one() -> None:
    async with FakeBackend() as server:
        catalog = catalog_of(small=server)
        async with UpstreamClient(catalog.backends, timeouts=QUICK) as client:
            gateway = bench(catalog, client).gateway
            for _ in range(3):
                served = await gateway.complete(request(stream=True), FakeKey())
                assert [piece async for piece in served.answer]
                await asyncio.sleep(0.01)  # the answer is over before its connection is read to its end
            assert len(server._writers) == 1
            assert server.aborted == 0
            server.script = Script(hang_after=3)
            served = await gateway.complete(request(stream=True), FakeKey())
            await anext(served.answer)
            await served.answer.aclose()
            await server.until(in_flight=0)
            assert server.aborted == 1


async def test_a_name_that_leads_to_a_forbidden_address_is_not_connected_to() -> None:
    async with FakeBackend() as server:
        url = f"http://localhost:{server.port}"
        async with UpstreamClient([backend_at(url)]) as client:
            (await client.send("pool", url, MESSAGE)).close()
        for policy in ({"allow_cidr": ("10.0.0.0/8",)}, {}):
            async with UpstreamClient([backend_at(url, **policy)], allow_loopback=False) as client:
                with pytest.raises(UpstreamUnreachable):
                    await client.send("pool", url, MESSAGE)
        assert server.calls == 1


async def test_an_address_that_is_forbidden_stops_the_start() -> None:
    with pytest.raises(UsageError, match="allow_cidr"):
        UpstreamClient([backend_at("http://10.0.0.1:8000")])


async def test_redirects_are_not_followed() -> None:
    async with FakeBackend() as trap, FakeBackend(Script(status=307, headers={"location": trap.url})) as server:
        async with UpstreamClient([backend_at(server.url)]) as client:
            exchange = await client.send("pool", server.url, MESSAGE)
            assert exchange.status == 307
            exchange.close()
        assert (trap.calls, trap.pages) == (0, [])


async def test_a_full_pool_refuses_after_its_wait_and_other_backends_do_not_notice() -> None:
    async with FakeBackend(Script(hang=True)) as hung, FakeBackend() as other:
        backends = [
            backend_at(hung.url, max_connections=3),
            replace(backend_at(other.url), name="other"),
        ]
        async with UpstreamClient(backends, timeouts=Timeouts(pool_wait_s=0.1)) as client:
            calls = [asyncio.ensure_future(client.send("pool", hung.url, MESSAGE)) for _ in range(3)]
            await hung.until(in_flight=3)
            began_at = time.monotonic()
            with pytest.raises(UpstreamBusy):
                await client.send("pool", hung.url, MESSAGE)
            assert 0.09 < time.monotonic() - began_at < 0.5
            (await client.send("other", other.url, MESSAGE)).close()
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            hung.script = Script()
            (await client.send("pool", hung.url, MESSAGE)).close()


async def test_an_answer_that_is_not_http_is_a_broken_backend() -> None:
    async def speak_nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak_nonsense, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, UpstreamClient([backend_at(url)]) as client:
        with pytest.raises(UpstreamBroken):
            await client.send("pool", url, MESSAGE)


async def test_a_page_that_is_missing_or_too_large_is_an_error() -> None:
    async with FakeBackend() as server, UpstreamClient([backend_at(server.url)]) as client:
        assert b"running" in await client.fetch("pool", server.url + "/metrics", 1.0)
        for path, max_bytes in (("/nowhere", 1000), ("/metrics", 10)):
            with pytest.raises(UpstreamError):
                await client.fetch("pool", server.url + path, 1.0, max_bytes)


async def test_a_worker_whose_metrics_are_too_many_goes_on_answering() -> None:
    async with FakeBackend() as small:
        small.metrics = "vllm:num_requests_waiting 4.0\n" + "# more\n" * (1 << 18)
        catalog = catalog_of(small=small)
        async with UpstreamClient(catalog.backends, timeouts=QUICK) as client:
            world = bench(catalog, client)
            for _ in range(2 * FAILURES_TO_EJECT):
                await Poller(client, world.replicas).poll(world.replicas.all)
            assert (await world.gateway.complete(request(), FakeKey())).attempts == 1
            assert [one["backend"] for one in world.events("page.unread")] == ["small"]
            assert not world.events("replica.ejected")


@pytest.mark.parametrize(
    ("status", "why"),
    [(401, "key is not accepted"), (403, "key is not accepted"), (404, "/metrics answered with status 404"), (503, "")],
)
async def test_a_worker_that_refuses_its_metrics_goes_on_answering(status: int, why: str) -> None:
    """Who says that it cannot now may be able to soon, so that is not told."""
    async with FakeBackend() as small:
        small.metrics_status = status
        catalog = catalog_of(small=small)
        async with UpstreamClient(catalog.backends, timeouts=QUICK) as client:
            world = bench(catalog, client)
            for _ in range(2 * FAILURES_TO_EJECT):
                await Poller(client, world.replicas).poll(world.replicas.all)
            assert (await world.gateway.complete(request(), FakeKey())).attempts == 1
            told = world.events("page.unread")
            assert [one["backend"] for one in told] == (["small"] if why else [])
            assert all(why in one["why"] for one in told)
            assert not world.events("replica.ejected")


async def test_the_poller_sees_a_worker_go_and_come_back() -> None:
    async with FakeBackend() as small:
        catalog = catalog_of(small=small)
        async with UpstreamClient(catalog.backends, timeouts=QUICK) as client:
            world = bench(catalog, client)
            (replica,) = world.replicas.all
            small.waiting = 4
            poller = Poller(client, world.replicas, every_s=0.01)
            await poller.start()
            async with asyncio.timeout(5):
                while replica.waiting != 4:
                    await asyncio.sleep(0.01)
                await small.stop()
                while world.gateway.ready():
                    await asyncio.sleep(0.01)
                await small.start()
                while replica.ejected_until is not None and replica.ejected_until > time.monotonic():
                    await asyncio.sleep(0.01)
            await poller.stop()
            await poller.stop()
