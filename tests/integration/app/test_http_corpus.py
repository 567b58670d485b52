"""Odd HTTP/1.x over real sockets, to the gateway itself and through the two proxies that most often stand before one.

To the gateway, a probe is refused and the connection closed, or it is answered once. Through a proxy, which may mend a
probe or refuse it, what counts is that both agree on where requests begin: never more answers than requests, never
more calls of a backend than answers, and whoever comes next on a shared connection gets his own answer.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.fakes.backend import FakeBackend
from tests.fakes.deployment import FIRST_KEYS
from tests.fakes.probes import Probe, good_request, probes
from tests.fakes.process import gateway_process
from tests.fakes.proxies import in_front_of

AT_ONCE = 48
QUIET_S = 0.5
"""After an answer: time for another one that should not come."""
LOST_AFTER_S = 15
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d) ")

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.timing]


@dataclass(frozen=True, slots=True)
class Fate:
    """What came of a probe."""

    statuses: tuple[int, ...]
    """Of its answers; `100 Continue` is none."""
    closed: bool
    """By the other side."""
    calls: int
    """Of a backend."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[FakeBackend]:
    async with FakeBackend(models=("org/small",)) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory, backend: FakeBackend) -> AsyncIterator[str]:
    """Of a gateway as it is run, before this backend."""
    folder = tmp_path_factory.mktemp("s1")
    async with gateway_process(folder, {"small": backend.url}, keys=FIRST_KEYS) as running:
        yield running.url


async def send(url: str, sent: bytes, calls: Callable[[], int]) -> tuple[tuple[int, ...], bool]:
    """Statuses of what is answered, and whether the other side closed; `calls` of a backend are waited for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    received, closed = b"", False
    writer.write(sent)
    ends_at = time.monotonic() + LOST_AFTER_S
    while not closed and time.monotonic() < ends_at:
        try:
            data = await asyncio.wait_for(reader.read(1 << 16), QUIET_S)
        except TimeoutError:
            if (statuses := _statuses(received)) and statuses.count(200) >= calls():
                break
        except ConnectionError:
            closed = True
        else:
            closed = not data
            received += data
    writer.close()
    return _statuses(received), closed


def _statuses(received: bytes) -> tuple[int, ...]:
    return tuple(status for match in _STATUS.finditer(received) if (status := int(match[1])) >= 200)


async def replay(url: str, backend: FakeBackend) -> dict[Probe, Fate]:
    """The fate of each probe."""
    backend.requests.clear()
    gate = asyncio.Semaphore(AT_ONCE)

    def _calls(probe: Probe) -> int:
        return sum(request.body["messages"][0]["content"] == probe.name for request in backend.requests)

    async def _one(probe: Probe) -> tuple[tuple[int, ...], bool]:
        async with gate:
            return await send(url, probe.sent, lambda: _calls(probe))

    answers = await asyncio.gather(*map(_one, probes()))
    return {
        probe: Fate(statuses, closed, _calls(probe))
        for probe, (statuses, closed) in zip(probes(), answers, strict=True)
    }


def _wrong(probe: Probe, fate: Fate) -> bool:
    if fate.calls > probe.calls or any(status in (500, 502, 503) for status in fate.statuses):
        return True
    if probe.refused:
        return not fate.closed or len(fate.statuses) > 1 or any(status < 400 for status in fate.statuses)
    return not 1 <= len(fate.statuses) <= probe.answers


async def test_odd_http_is_refused_or_answered_once(url: str, backend: FakeBackend) -> None:
    fates = await replay(url, backend)
    refused = sum(1 for probe in fates if probe.refused)
    wrong = {probe.name: fate for probe, fate in fates.items() if _wrong(probe, fate)}
    print(json.dumps({"S1": {"probes": len(fates), "to_refuse": refused, "wrong": len(wrong)}}))
    assert wrong == {}


@pytest.mark.parametrize("program", ["haproxy", "nginx"])
async def test_a_proxy_and_the_gateway_agree_on_where_requests_begin(
    program: str, url: str, backend: FakeBackend, tmp_path: Path
) -> None:
    async with in_front_of(url, program, tmp_path) as front_url:
        watching = asyncio.create_task(_ask_again_and_again(front_url))
        fates = await replay(front_url, backend)
        watching.cancel()
        asked, strangers = await watching
    refused = sum(1 for fate in fates.values() if all(status >= 400 for status in fate.statuses))
    wrong = {probe.name: fate for probe, fate in fates.items() if _disagree(probe, fate)}
    figures = {"probes": len(fates), "refused": refused, "wrong": len(wrong), "asked": asked, "strangers": strangers}
    print(json.dumps({"S1": {"behind": program, **figures}}))
    assert wrong == {}
    assert (asked > 50, strangers) == (True, 0)


def _disagree(probe: Probe, fate: Fate) -> bool:
    return len(fate.statuses) > probe.requests or fate.calls > fate.statuses.count(200)


async def _ask_again_and_again(url: str) -> tuple[int, int]:
    """Good requests, each with an id of its own, until cancelled: how many, and how many got somebody else's answer."""
    asked = strangers = 0
    try:
        while True:
            strangers += f"x-request-id: watch-{asked}\r\n".encode() not in await _ask(url, f"watch-{asked}")
            asked += 1
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        return asked, strangers


async def _ask(url: str, request_id: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    try:
        fields = f"\r\nX-Request-Id: {request_id}\r\nConnection: close\r\n".encode()
        writer.write(good_request(request_id).replace(b"\r\n", fields, 1))
        return (await reader.read()).lower()
    finally:
        writer.close()
