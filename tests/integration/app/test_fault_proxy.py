"""The fault proxy does what it is told: faults must be real, or the tests on top of it prove nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import pytest

from tests.fakes.backend import TOKENS, FakeBackend, Script
from tests.fakes.event_faults import EventFaults
from tests.fakes.fault_proxy import FaultProxy, Toxics
from tests.fakes.process import until
from tests.fakes.upstream import texts

pytestmark = pytest.mark.timing

STREAM = {"model": "small", "messages": [], "stream": True}
PATH = "/v1/chat/completions"
LETTERS = bytes(range(65, 91)) * 40


class Echo:
    """Sends back what it gets, and hangs up when told."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.left: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            self.left.append("FIN")
        except ConnectionError:
            self.left.append("RST")
        finally:
            writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    """In front of an echo, looking into nothing."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, FaultProxy(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", http=False) as proxy:
        yield proxy
        await proxy.stop()
        await until(lambda: len(echo.left) == len(echo.writers), True)


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def say(proxy: FaultProxy, data: bytes = LETTERS) -> bytes:
    """What comes back, up to the end of the connection if there is less."""
    reader, writer = await connect(proxy)
    try:
        writer.write(data)
        return await reader.readexactly(len(data))
    except asyncio.IncompleteReadError as exc:
        return exc.partial
    finally:
        writer.close()


async def test_without_toxics_all_passes_and_is_counted(proxy: FaultProxy) -> None:
    assert await say(proxy) == LETTERS
    assert await say(proxy) == LETTERS
    await until(lambda: proxy.open, 0)
    assert (proxy.connections, proxy.bytes_up, proxy.bytes_down) == (2, 2 * len(LETTERS), 2 * len(LETTERS))


async def test_latency_delays_each_piece_and_keeps_the_order(proxy: FaultProxy) -> None:
    proxy.down = Toxics(latency_s=0.1, jitter_s=0.05)
    reader, writer = await connect(proxy)
    began_at = time.monotonic()
    for letter in b"abcde":
        writer.write(bytes([letter]))
        await asyncio.sleep(0.01)
    assert await reader.readexactly(5) == b"abcde"
    # Five delays in a row would take 0.25 s at least.
    assert 0.05 <= time.monotonic() - began_at < 0.24
    writer.close()


async def test_bandwidth_is_bytes_in_a_second(proxy: FaultProxy) -> None:
    proxy.up = Toxics(bandwidth_bytes_per_s=10_000)
    began_at = time.monotonic()
    assert await say(proxy, b"x" * 3_000) == b"x" * 3_000
    assert 0.25 <= time.monotonic() - began_at < 1.0


async def test_a_slow_close_comes_late(proxy: FaultProxy, echo: Echo) -> None:
    proxy.down = Toxics(slow_close_s=0.1)
    reader, writer = await connect(proxy)
    await until(lambda: len(echo.writers), 1)
    echo.writers[0].close()
    began_at = time.monotonic()
    assert await reader.read() == b""
    assert time.monotonic() - began_at >= 0.09
    writer.close()


async def test_a_half_open_connection_says_nothing_not_even_that_it_is_over(proxy: FaultProxy, echo: Echo) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    proxy.down = Toxics(timeout_s=0)
    writer.write(b"b")
    await until(lambda: proxy.bytes_down, 2)
    echo.writers[0].close()
    await until(lambda: proxy.links[0].backend_left_at is not None, True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read()
    assert proxy.open == 1
    writer.close()
    await until(lambda: proxy.open, 0)


async def test_a_timeout_swallows_and_then_closes(proxy: FaultProxy) -> None:
    proxy.up = Toxics(timeout_s=0.05)
    began_at = time.monotonic()
    assert await say(proxy) == b""
    assert time.monotonic() - began_at >= 0.045  # timers are good to a few milliseconds


async def test_a_reset_is_one(proxy: FaultProxy, echo: Echo) -> None:
    proxy.down = Toxics(reset_after_s=0)
    with pytest.raises(ConnectionResetError):
        await say(proxy)
    await until(lambda: len(echo.left), 1)
    assert echo.left == ["RST"]


async def test_slices_are_small_and_whole(proxy: FaultProxy) -> None:
    proxy.down = Toxics(slicer=True)
    reader, writer = await connect(proxy)
    writer.write(LETTERS)
    pieces = [await reader.read(1 << 16)]
    assert len(pieces[0]) < len(LETTERS)
    while sum(map(len, pieces)) < len(LETTERS):
        pieces.append(await reader.read(1 << 16))
    assert b"".join(pieces) == LETTERS
    writer.close()


async def test_a_limit_lets_so_many_bytes_through(proxy: FaultProxy) -> None:
    proxy.down = Toxics(limit_bytes=100)
    assert await say(proxy) == LETTERS[:100]


async def test_toxics_hit_a_share_of_connections_the_same_ones_for_the_same_seed(proxy: FaultProxy) -> None:
    async def hit() -> list[bool]:
        proxy.rng.seed(3)
        return [await say(proxy, b"abc") != b"abc" for _ in range(30)]

    proxy.down = Toxics(limit_bytes=0, share=0.3)
    first = await hit()
    assert 3 <= sum(first) <= 15
    assert await hit() == first


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_who_left_and_when_is_known(proxy: FaultProxy, echo: Echo, reset: bool) -> None:
    _, writer = await connect(proxy)
    await until(lambda: len(echo.writers), 1)
    left_at = time.monotonic()
    if reset:
        writer.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER of 0 s
    writer.close()
    await until(lambda: len(echo.left), 1)
    link = proxy.links[0]
    assert link.client_left_at
    assert 0 <= link.client_left_at - left_at < 0.2
    assert (link.backend_left_at, echo.left) == (None, ["RST" if reset else "FIN"])


async def test_a_stopped_proxy_refuses_and_comes_back_on_its_port(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    await proxy.stop()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await say(proxy)
    await proxy.start()
    assert await say(proxy) == LETTERS


async def test_a_reader_that_stalls_stalls_the_other_end(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    passed = -1
    while passed != proxy.bytes_up:
        passed = proxy.bytes_up
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    writer.write(b"x" * (1 << 20))
                    await writer.drain()
    while proxy.bytes_up == passed:
        await reader.read(1 << 20)
    writer.transport.abort()


@pytest.fixture
async def streaming() -> AsyncIterator[tuple[FaultProxy, aiohttp.ClientSession]]:
    async with FakeBackend() as backend, FaultProxy(backend.url) as proxy, aiohttp.ClientSession(proxy.url) as session:
        yield proxy, session


async def receive(session: aiohttp.ClientSession) -> tuple[bytes, str]:
    """The body of a stream as far as it came, and how it ended."""
    sent = b""
    try:
        async with session.post(PATH, json=STREAM) as response:
            async for piece in response.content.iter_any():
                sent += piece
    except aiohttp.ClientPayloadError as exc:
        return sent, "RST" if "ConnectionResetError" in str(exc) else "FIN"
    return sent, "end"


async def test_answers_pass_on_one_connection(streaming: tuple[FaultProxy, aiohttp.ClientSession]) -> None:
    proxy, session = streaming
    async with session.post(PATH, json={**STREAM, "stream": False}) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == "".join(TOKENS)
    proxy.events = EventFaults(duplicate=3)
    sent, how = await receive(session)
    assert (texts(sent), how) == ("Parisis is the capital.", "end")
    proxy.events = None
    sent, how = await receive(session)
    assert (texts(sent), how, sent[-14:], proxy.connections) == ("".join(TOKENS), "end", b"data: [DONE]\n\n", 1)


@pytest.mark.parametrize("how", ["FIN", "RST", "end"])
async def test_a_stream_is_cut_after_so_many_events(
    streaming: tuple[FaultProxy, aiohttp.ClientSession], how: str
) -> None:
    proxy, session = streaming
    proxy.events = EventFaults(cut_after=3, cut_with=how)  # type: ignore[arg-type]
    sent, ended = await receive(session)
    assert (texts(sent), ended) == ("Paris", how)


@pytest.mark.parametrize(
    ("how", "ended"), [("json", "end"), ("utf8", "end"), ("truncated", "FIN")], ids=["json", "utf8", "truncated"]
)
async def test_an_event_is_corrupted(streaming: tuple[FaultProxy, aiohttp.ClientSession], how: str, ended: str) -> None:
    proxy, session = streaming
    proxy.events = EventFaults(corrupt=3, corrupt_as=how)  # type: ignore[arg-type]
    sent, seen = await receive(session)
    events = sent.split(b"\n\n")
    assert (texts(b"\n\n".join(events[:2])), seen) == ("Par", ended)
    with pytest.raises(ValueError):  # noqa: PT011 - a JSONDecodeError or a UnicodeDecodeError, both have no better base
        json.loads(events[2].removeprefix(b"data: "))
    assert (sent[-14:] == b"data: [DONE]\n\n") == (ended == "end")


async def test_faults_of_events_hit_a_share_of_answers(streaming: tuple[FaultProxy, aiohttp.ClientSession]) -> None:
    proxy, session = streaming
    proxy.events = EventFaults(cut_after=2, share=0.3)
    ends = [(await receive(session))[1] for _ in range(30)]
    assert 3 <= ends.count("FIN") <= 15
    assert set(ends) == {"FIN", "end"}


async def test_big_answers_and_their_slices_pass_unchanged() -> None:
    body = json.dumps({"text": "x" * 50_000}).encode()
    async with (
        FakeBackend(Script(body=body)) as backend,
        FaultProxy(backend.url) as proxy,
        aiohttp.ClientSession(proxy.url) as session,
    ):
        for toxics in (Toxics(), Toxics(limit_bytes=1 << 20), Toxics(slicer=True)):
            proxy.down = toxics
            async with session.post(PATH, json={**STREAM, "stream": False}) as response:
                assert await response.read() == body
