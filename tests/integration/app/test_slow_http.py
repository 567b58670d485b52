"""Callers who are slow on purpose, hundreds at a time: each is let go in time, and the others notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.api.connection.front import Patience
from tests.fakes.backend import Script
from tests.fakes.deployment import FIRST_KEYS, SECRET, Deployment, deployed
from tests.fakes.probes import good_request

DRIP_EVERY_S = 0.5
_FIRST = b"\r\nConnection: close\r\nX-Thalamus-Priority: high\r\n"
_HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    f"Authorization: Bearer {SECRET}\r\nConnection: close\r\nX-Thalamus-Priority: high\r\n"
)
_STREAM = json.dumps({"model": "large", "stream": True, "messages": [{"role": "user", "content": "hi"}]})

pytestmark = [pytest.mark.slow, pytest.mark.timing]


@dataclass(frozen=True, slots=True)
class Attack:
    """What a slow caller sends at first, and then again and again."""

    name: str
    opening: str
    drip: str


ATTACKS = (
    Attack("slow head", _HEAD, "X-A: b\r\n"),
    Attack("slow body", f"{_HEAD}Content-Length: 100000\r\n\r\n", " "),
    Attack("slow chunks", f"{_HEAD}Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n"),
    Attack("slow read", f"{_HEAD}Content-Length: {len(_STREAM)}\r\n\r\n{_STREAM}", ""),
    Attack("idle", "", ""),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How many callers of each kind, how long they are borne with, and when nobody may be left."""

    each: int
    patience: Patience
    watch_s: float


SMALL = Size(40, Patience(head_s=2, body_s=2, unread_s=1.2), watch_s=6)
# The time for a head is the real one; the others are shorter than the real ones, so that all are seen to end. Who reads
# nothing is borne with twice: at first, the kernel still takes something in his place.
FULL = Size(300, Patience(head_s=10, body_s=11, unread_s=6), watch_s=15)


async def test_slow_callers_are_let_go_and_the_others_notice_nothing(tmp_path: Path, full_size: bool) -> None:
    size = FULL if full_size else SMALL
    async with deployed(tmp_path, "small", "large", keys=FIRST_KEYS) as deployment:
        # More than all buffers on the way hold.
        deployment.backends["large"].script = Script(tokens=("x" * 65536,) * 16)
        front = deployment.application.data.front
        front.patience = size.patience
        alone_s = await normal_calls(deployment, size.watch_s / 3)
        async with attacking(deployment, size.each) as attackers:
            at_first = len(front.connections)
            beside_s = await normal_calls(deployment, size.watch_s)
            held = len(front.connections)
            told = {attack.name: _told(sockets[0]) for attack, sockets in zip(ATTACKS, attackers, strict=True)}
        in_flight = deployment.backends["large"].in_flight
    figures = {"alone_p99_ms": _p99_ms(alone_s), "beside_p99_ms": _p99_ms(beside_s)}
    print(json.dumps({"S2": {"callers": at_first, "held": held, "after_s": size.watch_s, **figures}}))
    # Where all is slow, the first have left before the last have come.
    assert at_first > 0.5 * size.each * len(ATTACKS)
    assert (held, in_flight) == (0, 0)
    assert told == {"slow head": 408, "slow body": 408, "slow chunks": 408, "slow read": 200, "idle": 0}
    # Half as much again, and what a machine with other work adds to single calls.
    assert _p99_ms(beside_s) <= 1.5 * _p99_ms(alone_s) + 30


async def test_who_reads_a_long_plain_answer_slowly_gets_all_of_it(tmp_path: Path) -> None:
    """Longer than connections may idle, because it does not."""
    answer_bytes = 2 << 20
    message = {"role": "assistant", "content": "x" * answer_bytes}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "model": "org/small"}
    async with deployed(tmp_path, "small", keys=FIRST_KEYS) as deployment:
        deployment.backends["small"].script = Script(body=json.dumps(body).encode())
        deployment.application.data.front.patience = Patience(idle_s=0.6, unread_s=0.6)
        received = 0
        with await _connected(int(deployment.url.rpartition(":")[2]), "") as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            await asyncio.get_running_loop().sock_sendall(reader, good_request("small"))
            while received < answer_bytes and (piece := await asyncio.get_running_loop().sock_recv(reader, 65536)):
                received += len(piece)
                await asyncio.sleep(0.1)
    assert received >= answer_bytes


async def normal_calls(deployment: Deployment, watch_s: float) -> list[float]:
    """Seconds that each of ten calls a second took."""
    took_s = []
    end_at = time.monotonic() + watch_s
    while time.monotonic() < end_at:
        began = time.perf_counter()
        await _call(deployment)
        took_s.append(time.perf_counter() - began)
        await asyncio.sleep(0.1)
    return took_s


async def _call(deployment: Deployment) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(deployment.url.rpartition(":")[2]))
    writer.write(good_request("normal").replace(b"\r\n", _FIRST, 1))
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


@asynccontextmanager
async def attacking(deployment: Deployment, each: int) -> AsyncIterator[list[list[socket.socket]]]:
    """All attacks at once, while the block runs: the sockets of each."""
    port = int(deployment.url.rpartition(":")[2])
    attackers = [[await _connected(port, attack.opening) for _ in range(each)] for attack in ATTACKS]
    dripping = asyncio.create_task(_drip(attackers))
    # They came more quickly than a gateway in the same process as all of them can bear.
    await asyncio.sleep(0.5)
    try:
        yield attackers
    finally:
        dripping.cancel()
        for each_socket in (one for sockets in attackers for one in sockets):
            each_socket.close()


async def _connected(port: int, opening: str) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, opening.encode())
    # All at once would be another attack, and the gateway would turn away whom it can while it lasts.
    await asyncio.sleep(0.002)
    return sock


async def _drip(attackers: Sequence[Sequence[socket.socket]]) -> None:
    """Let each say a little more every now and then, not all in the same moment."""
    dripping = [
        (sock, attack.drip.encode())
        for attack, sockets in zip(ATTACKS, attackers, strict=True)
        for sock in sockets
        if attack.drip
    ]
    batch = len(dripping) // 50
    for start in itertools.cycle(range(0, len(dripping), batch)):
        await asyncio.sleep(DRIP_EVERY_S / 50)
        for sock, drip in dripping[start : start + batch]:
            # Who was refused goes on, too.
            with contextlib.suppress(OSError):
                sock.send(drip)


def _told(sock: socket.socket) -> int:
    """The status of what the caller was answered; 0 is nothing."""
    with contextlib.suppress(OSError):
        received = sock.recv(100)
        return int(received.split()[1]) if received else 0
    return 0


def _p99_ms(took_s: Sequence[float]) -> float:
    return round(1e3 * sorted(took_s)[int(0.99 * len(took_s))], 2)
