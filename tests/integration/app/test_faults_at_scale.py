"""Many requests into each fault, through a gateway in a process of its own; each test prints its figures as JSON."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.backend import FakeBackend, Script
from tests.fakes.caller import Heard, call, hang_up, hear, session_to
from tests.fakes.event_faults import EventFaults
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.open_loop import loop_lag
from tests.fakes.process import gateway_process, until

pytestmark = [pytest.mark.slow, pytest.mark.timing]

AT_ONCE = 40
FIRST_BYTE_S = 1.0
UPSTREAM = {"connect_timeout_s": 1, "first_byte_timeout_s": FIRST_BYTE_S, "idle_timeout_s": 2, "total_timeout_s": 20}
GOOD, BAD = ("good ",) * 5, ("bad ",) * 5

BROKEN: Mapping[str, Script | None] = {
    "refuses": None,
    "resets": Script(reset=True),
    "says 503": Script(status=503),
    "says 429": Script(status=429),
    "never answers": Script(hang=True),
    "resets after the head": Script(head_then_reset=True),
}


def seconds_at(times_s: list[float], share: float) -> float:
    return sorted(times_s)[int(share * (len(times_s) - 1))]


async def hear_many(session: aiohttp.ClientSession, requests: int) -> list[Heard]:
    """Half of them streams."""
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Heard:
        async with at_once:
            return await hear(session, stream=bool(number % 2), max_tokens=1)

    return await asyncio.gather(*map(one, range(requests)))


def judged(heard: Heard) -> str:
    if heard.status != 200:
        return str(heard.status)
    if "good" in heard.text and "bad" in heard.text:
        return "mixed"
    whole = heard.whole and heard.text == "".join(GOOD) and heard.done == heard.is_stream
    return "good" if whole else "cut"


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN.keys())
async def test_failover_before_the_first_byte(tmp_path: Path, script: Script | None, full_size: bool) -> None:
    requests = 2_000 if full_size else 200
    # The broken one is tried first; while its base is measured it has not broken yet.
    async with (
        FakeBackend(Script(GOOD)) as bad,
        FakeBackend(Script(GOOD)) as good,
        gateway_process(tmp_path, {"small": bad.url, "large": good.url}, upstream=UPSTREAM) as gateway,
        session_to(gateway.url) as session,
    ):
        base = await hear_many(session, requests // 4)
        bad.script = replace(script or Script(), tokens=BAD)
        if script is None:
            await bad.stop()
        answers = await hear_many(session, requests)
        # The log is written a moment after the answer.
        await until(lambda: len(gateway.completed), len(base) + requests)
    outcomes = Counter(map(judged, answers))
    base_p99_s, p99_s = (seconds_at([one.took_s for one in group], 0.99) for group in (base, answers))
    figures = {"requests": requests, **outcomes, "base_p99_s": round(base_p99_s, 3), "p99_s": round(p99_s, 3)}
    print(json.dumps(figures))
    assert outcomes["good"] >= 0.999 * requests
    assert outcomes["mixed"] == 0
    assert p99_s - base_p99_s <= FIRST_BYTE_S + (0.05 if full_size else 0.5)


TOKENS = tuple(f"<{number}>" for number in range(51))
"""One more than any stream is let through."""


def ending(how: str, tokens: int) -> EventFaults:
    """A fault after so many tokens; the event before the first one brings the role."""
    if how in ("FIN", "RST", "end"):
        return EventFaults(cut_after=tokens + 1, cut_with=how)  # type: ignore[arg-type]
    return EventFaults(corrupt=tokens + 2, corrupt_as=how)  # type: ignore[arg-type]


ENDINGS = {
    "FIN": "upstream_disconnected",
    "RST": "upstream_disconnected",
    "end": "upstream_disconnected",
    "truncated": "upstream_disconnected",
    "json": "bad_upstream",
    "utf8": "bad_upstream",
}
"""Ways for a stream to go wrong, and the code that its caller is told."""


async def test_streams_that_go_wrong_end_in_one_error_event_after_a_prefix(tmp_path: Path, full_size: bool) -> None:
    streams = 1_000 if full_size else 200
    rng = random.Random(7)
    faults = [(how, rng.randint(1, 50)) for how in ENDINGS for _ in range(streams // len(ENDINGS) + 1)][:streams]
    rng.shuffle(faults)
    heard: list[Heard] = []
    async with (
        FakeBackend(Script(TOKENS)) as backend,
        FaultProxy(backend.url) as proxy,
        gateway_process(tmp_path, {"small": proxy.url}, upstream=UPSTREAM) as gateway,
        session_to(gateway.url) as session,
    ):
        for how, tokens in faults:
            proxy.events = ending(how, tokens)
            heard.append(await hear(session, model="small", stream=True))
        await until(lambda: len(gateway.completed), streams)
        records = gateway.completed
    wrong = Counter[str]()
    for (how, tokens), one, record in zip(faults, heard, records, strict=True):
        wrong["errors"] += len(one.errors) != 1
        wrong["done"] += one.done
        wrong["codes"] += one.code != ENDINGS[how]
        if one.code != ENDINGS[how]:
            print(how, tokens, one, record)
        wrong["texts"] += one.text != "".join(TOKENS[:tokens])
        wrong["records"] += (record["outcome"], record.get("output_tokens")) != (ENDINGS[how], tokens)
    figures = {"streams": streams, "error_events": sum(len(one.errors) for one in heard), "records": len(records)}
    print(json.dumps({**figures, **{f"wrong_{name}": count for name, count in wrong.items()}}))
    assert wrong.total() == 0


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_callers_who_leave_cut_off_the_backend(tmp_path: Path, reset: bool, full_size: bool) -> None:
    leavers = 200 if full_size else 25
    kinds: dict[str, tuple[Script, dict[str, Any]]] = {
        "in the middle": (Script(hang_after=3), {"stream": True}),
        "before the first byte": (Script(hang=True), {"stream": True}),
        "plain": (Script(hang=True), {"stream": False}),
    }
    times_s: list[float] = []
    async with (
        FakeBackend() as backend,
        gateway_process(tmp_path, {"small": backend.url}) as gateway,
        loop_lag() as lags_s,
    ):
        for script, fields in kinds.values():
            backend.script = script
            for _ in range(leavers):
                reader, writer = await call(gateway.port, model="small", **fields)
                await backend.until(in_flight=1)
                if script.hang_after:
                    await reader.readuntil(b"data: ")
                left_at = time.monotonic()
                hang_up(writer, reset=reset)
                await backend.until(in_flight=0)
                times_s.append(time.monotonic() - left_at)
        await gateway.until_idle()
        await until(lambda: len(gateway.completed), 3 * leavers)
        outcomes = {(record["outcome"], record["status"]) for record in gateway.completed}
    p99_s, worst_s = seconds_at(times_s, 0.99), max(times_s)
    figures = {"left": 3 * leavers, "cancelled": backend.aborted, "p99_s": round(p99_s, 4), "max_s": round(worst_s, 4)}
    print(json.dumps(figures))
    assert backend.aborted == 3 * leavers
    assert p99_s <= 0.05 + seconds_at(lags_s, 0.99)
    assert worst_s <= 0.25 + max(lags_s)
    assert outcomes == {("cancelled", 499)}
