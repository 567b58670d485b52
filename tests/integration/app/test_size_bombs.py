"""Requests that are made to cost more than they are worth: refused, without much memory, while others are served."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.fakes.backend import FakeBackend
from tests.fakes.deployment import FIRST_KEYS, SECRET
from tests.fakes.open_loop import loop_lag
from tests.fakes.process import GatewayProcess, gateway_process

KIB, MIB = 1 << 10, 1 << 20
LINE = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
HEAD = LINE + b"content-type: application/json\r\nauthorization: Bearer %b\r\n" % SECRET.encode()
MOST_GROWTH = 10
"""Bytes of memory for each byte sent."""
FREE_BYTES = 12 * MIB
"""What any request may cost: pages that an allocator takes and does not give back, the parser's tables."""
MOST_LAG_S = 0.1

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timing]


def body(content: bytes, more: bytes = b"") -> Callable[[], Iterator[bytes]]:
    """A request with a body whose length is announced."""
    head = HEAD + more + b"content-length: %d\r\n\r\n" % len(content)
    # In one piece, this process would be busy with it and notice late what the gateway does.
    pieces = [content[start : start + 256 * KIB] for start in range(0, len(content), 256 * KIB)]
    return lambda: iter((head, *pieces))


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield HEAD + b"transfer-encoding: chunked\r\n\r\n"
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def filled(start: bytes, unit: bytes, end: bytes, size: int = 4 * MIB) -> bytes:
    return start + unit * ((size - len(start) - len(end)) // len(unit)) + end


SPACES = b" " * (64 * KIB)
# A colon that is written otherwise than as itself.
DOUBT = b'{"model":"small","a":"\\u003a","messages":['
MESSAGES = b'{"model":"small","messages":['
BOMBS: dict[str, tuple[int, Callable[[], Iterator[bytes]]]] = {
    "a header of 64 MiB": (431, lambda: itertools.chain((LINE + b"x: ",), itertools.repeat(b"x" * 64 * KIB, 1024))),
    "headers of 64 MiB": (431, lambda: itertools.chain((LINE,), itertools.repeat(b"x: y\r\n" * 10_000, 1100))),
    "5,000 headers": (431, lambda: iter((HEAD + b"x: y\r\n" * 5000 + b"\r\n",))),
    "a first line of 64 MiB": (414, lambda: itertools.chain((b"GET /",), itertools.repeat(b"x" * 64 * KIB, 1024))),
    "a body one byte too large": (413, body(filled(MESSAGES, b" ", b"]} ", 4 * MIB + 1))),
    "a body of 64 MiB": (413, body(b" " * 64 * MIB)),
    "a body of 10^14 bytes": (413, lambda: itertools.chain((HEAD + b"content-length: %d\r\n\r\n" % 10**14,), [SPACES])),
    "chunks without end": (413, lambda: chunked(itertools.repeat(SPACES))),
    "chunks of a byte without end": (400, lambda: chunked(itertools.repeat(b" "))),
    "a chunk of 4 GiB": (
        413,
        lambda: itertools.chain((HEAD + b"transfer-encoding: chunked\r\n\r\nffffffff\r\n",), itertools.repeat(SPACES)),
    ),
    "4 MiB of empty messages": (400, body(filled(MESSAGES, b"{},", b"{}]}"))),
    "4 MiB of empty lists": (400, body(filled(MESSAGES, b"[],", b"[]]}"))),
    "4 MiB of numbers": (400, body(filled(MESSAGES, b"1,", b"1]}"))),
    "4 MiB of short messages": (400, body(filled(MESSAGES, b'{"role":"user","content":"a"},', b"{}]}"))),
    "4 MiB of keys": (400, body(filled(b'{"model":"small","x":{', b'"a":1,', b'"b":1}}'))),
    "4 MiB of escapes": (400, body(filled(b'{"model":"small","messages":"', b"\\u00e9", b'"}'))),
    "4 MiB of brackets": (400, body(b"[" * 4 * MIB)),
    "a text of 4 MiB as an unknown parameter": (400, body(filled(b'{"model":"small","x":"', b"x", b'"}'))),
    "lists in doubt": (400, body(filled(DOUBT, b"[1,1],", b"1]}", 96 * KIB))),
    "as many lists in doubt": (400, body(filled(DOUBT, b"[1,1],", b"1]}", 300 * KIB - 99))),
    "580 KiB of lists in doubt": (400, body(filled(DOUBT, b"[1,1],", b"1]}", 580 * KIB))),
    "4 MiB of quotation marks in doubt": (400, body(filled(b'{"model":"small","x":"\\u003a', b'\\"', b'"}'))),
    "depth 3,000": (400, body(b'{"a":' * 3000 + b"1" + b"}" * 3000)),
    "a million choices": (400, body(chat(n=10**6))),
    "a number of 5,000 digits": (400, body(b'{"seed":%b}' % (b"1" * 5000))),
    "a number of 4 MiB": (400, body(b'{"seed":%b}' % (b"1" * (4 * MIB - 10)))),
    "NaN": (400, body(b'{"temperature":NaN}')),
    "half a character": (400, body(b'{"model":"\\ud800"}')),
    "a key twice": (400, body(b'{"model":"small","model":"large"}')),
    "a compressed body": (415, body(gzip.compress(b" " * 16 * MIB), b"content-encoding: gzip\r\n")),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a bomb was answered, and what it did."""

    status: int
    sent_bytes: int
    grown_bytes: int
    lag_s: float
    """The longest that somebody else waited meanwhile, less the longest that this process did."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[FakeBackend]:
    async with FakeBackend(models=("org/small",)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, backend: FakeBackend) -> AsyncIterator[GatewayProcess]:
    async with gateway_process(tmp_path_factory.mktemp("s3"), {"small": backend.url}, keys=FIRST_KEYS) as running:
        await explode(running, body(chat())())
        backend.requests.clear()
        yield running


async def explode(gateway: GatewayProcess, pieces: Iterator[bytes]) -> Cost:
    """Send these pieces until all are sent or an answer has come."""
    before = gateway.forget_peak()
    async with loop_lag() as lags_s:
        waiting = asyncio.create_task(_longest_wait_s(gateway))
        status, sent = await _sent(gateway, pieces)
        waiting.cancel()
        longest_s = await waiting
    return Cost(status, sent, gateway.peak_bytes() - before, longest_s - max(lags_s))


async def _sent(gateway: GatewayProcess, pieces: Iterator[bytes]) -> tuple[int, int]:
    """The status of the answer, and how many bytes were sent before it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    answer = asyncio.create_task(reader.readline())
    sent = 0
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            sent += len(piece)
            await asyncio.wait([answer, drained := asyncio.create_task(writer.drain())], return_when="FIRST_COMPLETED")
            drained.cancel()
            if answer.done():
                break
    async with asyncio.timeout(20):
        status = int((await answer).split()[1])
    writer.close()
    return status, sent


async def _longest_wait_s(gateway: GatewayProcess) -> float:
    """How long the gateway at most took for the simplest question, until cancelled."""
    longest_s = 0.0
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    began = time.perf_counter()
    try:
        while True:
            began = time.perf_counter()
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            longest_s = max(longest_s, time.perf_counter() - began)
            await asyncio.sleep(0.002)
    except asyncio.CancelledError:
        return max(longest_s, time.perf_counter() - began)
    finally:
        writer.close()


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_refused_and_costs_little(name: str, gateway: GatewayProcess, backend: FakeBackend) -> None:
    expected, make = BOMBS[name]
    costs = [await explode(gateway, make()) for _ in range(3)]
    lag_s = min(cost.lag_s for cost in costs)
    worst = max(costs, key=lambda cost: cost.grown_bytes)
    figures = {"sent": worst.sent_bytes, "grown": worst.grown_bytes, "lag_ms": round(1e3 * lag_s, 1)}
    print(json.dumps({"S3": {"bomb": name, "status": worst.status, **figures}}))
    assert {cost.status for cost in costs} == {expected}
    assert worst.grown_bytes <= MOST_GROWTH * worst.sent_bytes + FREE_BYTES
    # Of three, because other work on the machine delays a single one.
    assert lag_s <= MOST_LAG_S
    assert backend.calls == 0
