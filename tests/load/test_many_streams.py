"""A thousand streams at once, and five hundred requests a second: nothing is lost, and how much later it comes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.backend import FakeBackend, Script
from tests.fakes.caller import CHAT, chat, hear, session_to
from tests.fakes.process import gateway_process

pytestmark = [pytest.mark.slow, pytest.mark.timing]

ROOM = {"in_flight": 2000}
LASTING = {"total_timeout_s": 600}
EVERY_S = 0.5
"""Between two events of a stream: a thousand streams are two thousand events a second."""


async def digest_of(session: aiohttp.ClientSession, events: int) -> tuple[int, str]:
    """Status and fingerprint of a stream, without keeping it."""
    found = hashlib.sha256()
    async with session.post(CHAT, json=chat(model="small", stream=True, max_tokens=events)) as response:
        async for piece in response.content.iter_any():
            found.update(piece)
    return response.status, found.hexdigest()


async def test_many_long_streams_are_right_to_the_byte_and_cheap(tmp_path: Path, full_size: bool) -> None:
    streams, seconds = (1_000, 60) if full_size else (150, 6)
    tokens = tuple(f" word{number}" for number in range(int(seconds / EVERY_S)))
    async with (
        FakeBackend(Script(tokens)) as backend,
        gateway_process(
            tmp_path, {"small": backend.url}, {"max_connections": 2000}, limits=ROOM, upstream=LASTING
        ) as gateway,
        session_to(gateway.url) as session,
    ):
        right = await digest_of(session, len(tokens))
        await asyncio.gather(*(digest_of(session, len(tokens)) for _ in range(20)))
        before_bytes, cpu_s = gateway.rss_bytes(), gateway.cpu_s()
        backend.script = Script(tokens, event_delay_s=EVERY_S)
        all_of_them = asyncio.gather(*(digest_of(session, len(tokens)) for _ in range(streams)))
        await asyncio.sleep(seconds * 0.8)
        at_once, grown_bytes = backend.in_flight, gateway.rss_bytes() - before_bytes
        answers = Counter(await all_of_them)
        figures = {
            "streams": streams,
            "right": answers[right],
            "at_once": at_once,
            "rss_kib_each": round(grown_bytes / streams / 1024, 1),
            "cpu_us_per_event": round((gateway.cpu_s() - cpu_s) / streams / len(tokens) * 1e6),
        }
        await gateway.until_idle()
    print(json.dumps(figures))
    assert right[0] == 200
    assert (answers[right], at_once) == (streams, streams)
    assert grown_bytes <= streams * 64 * 1024


async def open_loop(url: str, rate: int, seconds: int) -> tuple[Counter[object], list[float]]:
    """Send at a steady rate, however slow the answers are; outcomes, and times from when each was due."""
    outcomes: Counter[object] = Counter()
    times_s: list[float] = []

    async def one(session: aiohttp.ClientSession, due_at: float) -> None:
        try:
            heard = await hear(session, model="small")
        except aiohttp.ClientError as exc:
            outcomes[type(exc).__name__] += 1
        else:
            outcomes[heard.status if heard.status != 200 else heard.text == "ok"] += 1
        times_s.append(time.monotonic() - due_at)

    async with session_to(url) as session, asyncio.TaskGroup() as group:
        began_at = time.monotonic()
        for number in range(rate * seconds):
            due_at = began_at + number / rate
            if (wait_s := due_at - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            group.create_task(one(session, due_at))
    return outcomes, times_s


async def test_a_steady_rate_is_answered_without_an_error(tmp_path: Path, full_size: bool) -> None:
    rate, seconds = (500, 60) if full_size else (200, 5)
    async with (
        FakeBackend(Script(("ok",))) as backend,
        gateway_process(tmp_path, {"small": backend.url}) as gateway,
    ):
        await open_loop(gateway.url, rate, 1)
        _, direct_s = await open_loop(backend.url, rate, max(2, seconds // 10))
        cpu_s = gateway.cpu_s()
        outcomes, times_s = await open_loop(gateway.url, rate, seconds)
        cpu_us = (gateway.cpu_s() - cpu_s) / len(times_s) * 1e6
        await gateway.until_idle()
    added_s = {share: at(times_s, share) - at(direct_s, share) for share in (0.5, 0.99)}
    figures = {
        "requests": len(times_s),
        "outcomes": {str(outcome): count for outcome, count in outcomes.items()},
        "added_p50_ms": round(added_s[0.5] * 1e3, 2),
        "added_p99_ms": round(added_s[0.99] * 1e3, 2),
        "cpu_us_per_request": round(cpu_us),
    }
    print(json.dumps(figures))
    assert outcomes == {True: rate * seconds}
    if full_size:
        assert added_s[0.99] <= 0.010


def at(times: list[float], share: float) -> float:
    return sorted(times)[int(share * (len(times) - 1))]
