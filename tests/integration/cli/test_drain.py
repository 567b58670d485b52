"""A gateway that is asked to stop fails nobody: load balancers hear of it in time, what began ends or is told so."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import free_ports
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import SECRET, write_config
from tests.fakes.program import KEYS, URGENT, Callers, Program, serving

pytestmark = [pytest.mark.slow, pytest.mark.timing]

TOKENS = tuple(f"<{number}>" for number in range(20))
SCRIPTS = {
    "small": Script(delay_s=0.05),
    "medium": Script(TOKENS, event_delay_s=0.1),  # two seconds: it ends in time
    "large": Script(tuple(f"<{number}>" for number in range(10_000)), event_delay_s=0.05),
}


def chat(model: str, *, stream: bool = False) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream, "routing": URGENT}


@dataclass(frozen=True)
class Budget:
    accept_s: float
    drain_s: float


@pytest.fixture
def budget(full_size: bool) -> Budget:
    return Budget(5.0, 20.0) if full_size else Budget(2.0, 3.0)


async def backends(stack: AsyncExitStack) -> dict[str, FakeBackend]:
    found = {}
    for name, script in SCRIPTS.items():
        found[name] = await stack.enter_async_context(FakeBackend(script, models=(f"org/{name}",)))
    return found


def config_of(folder: Path, found: dict[str, FakeBackend], budget: Budget, **changes: Any) -> Path:
    data, admin = free_ports(2)
    limits = {"accept_s": budget.accept_s, "drain_s": budget.drain_s}
    listen = {"listen": f"127.0.0.1:{data}", "admin_listen": f"127.0.0.1:{admin}"}
    urls = {name: backend.url for name, backend in found.items()}
    return write_config(
        folder, urls, **{**listen, "limits": limits, "keys": KEYS, "upstream": {"total_timeout_s": 60}, **changes}
    )


async def stream(url: str, model: str, begun: asyncio.Event | None = None) -> bytes:
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}) as session,
        session.post(f"{url}/v1/chat/completions", json=chat(model, stream=True)) as answer,
    ):
        assert answer.status == 200
        if begun:
            begun.set()
        return await answer.read()


async def not_ready_after_s(url: str) -> float:
    """Until the first 503 of /readyz, with a connection of its own for each look."""
    began_at = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while True:
            async with session.get(f"{url}/readyz") as answer:
                if answer.status == 503:
                    return time.monotonic() - began_at
            await asyncio.sleep(0.02)


async def ended_after_s(program: Program) -> float:
    began_at = time.monotonic()
    await program.process.wait()
    return time.monotonic() - began_at


async def test_nobody_who_was_let_in_is_failed(tmp_path: Path, budget: Budget) -> None:
    async with AsyncExitStack() as stack:
        found = await backends(stack)
        program = await stack.enter_async_context(serving(config_of(tmp_path, found, budget)))
        callers = Callers(program.url, chat("small"))
        load = asyncio.create_task(callers.run(per_s=50))
        in_time = [asyncio.create_task(stream(program.url, "medium")) for _ in range(10)]
        late = [asyncio.create_task(stream(program.url, "large")) for _ in range(10)]
        await found["large"].until(in_flight=10)
        await asyncio.sleep(1)
        asked_at = time.monotonic()
        program.send(signal.SIGTERM)
        not_ready_s, ended_s = await asyncio.gather(not_ready_after_s(program.url), ended_after_s(program))
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        whole, cut = await asyncio.gather(*in_time), await asyncio.gather(*late)
    accepted = [outcome for sent_at, outcome in callers.ended if sent_at < asked_at + budget.accept_s]
    events = [json.loads(one[one.rindex(b"data: {") + 6 :]) for one in cut]
    closed = sum(headers.get("connection") == "close" for headers, _ in callers.answers)
    records = program.events("request.completed")
    figures = {
        "not_ready_after_s": round(not_ready_s, 3),
        "ended_after_s": round(ended_s, 2),
        "status": program.process.returncode,
        "accepted": len(accepted),
        "accepted_failed": len(accepted) - accepted.count("200"),
        "answers_that_closed": closed,
        "streams_whole": sum(b"[DONE]" in one for one in whole),
        "streams_told": sum(one.count(b'data: {"error"') == 1 and b"[DONE]" not in one for one in cut),
        "records": len(records),
    }
    print(json.dumps(figures))
    assert not_ready_s <= 1
    assert ended_s <= budget.accept_s + budget.drain_s + 2
    assert (program.process.returncode, figures["accepted_failed"]) == (0, 0)
    assert closed >= 40 * budget.accept_s
    assert (figures["streams_whole"], figures["streams_told"]) == (10, 10)
    assert {event["error"]["code"] for event in events} == {"draining"}
    assert len(records) == callers.outcomes["200"] + 20
    assert program.events()[-1]["event"] == "gateway.stopped"


async def test_who_has_no_answer_when_the_time_is_over_hears_503(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        found = await backends(stack)
        found["small"].script = Script(hang=True)
        budget = Budget(accept_s=0, drain_s=1)
        program = await stack.enter_async_context(serving(config_of(tmp_path, found, budget)))
        callers = Callers(program.url, chat("small"))
        load = asyncio.create_task(callers.run(per_s=100, count=5))
        await found["small"].until(in_flight=5)
        program.send(signal.SIGTERM)
        await load
        assert await program.process.wait() == 0
    codes = [json.loads(body)["error"]["code"] for _, body in callers.answers]
    assert (callers.outcomes, codes) == ({"503": 5}, ["draining"] * 5)
    assert all(headers["retry-after"] == "1" for headers, _ in callers.answers)
    assert [record["outcome"] for record in program.events("request.completed")] == ["draining"] * 5


async def test_a_second_signal_hurries(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        found = await backends(stack)
        budget = Budget(accept_s=60, drain_s=60)
        program = await stack.enter_async_context(serving(config_of(tmp_path, found, budget)))
        begun = asyncio.Event()
        late = asyncio.create_task(stream(program.url, "large", begun))
        await begun.wait()
        program.send(signal.SIGTERM)
        await program.until("gateway.draining")
        program.send(signal.SIGTERM)
        assert await ended_after_s(program) < 5
        assert (await late).count(b'data: {"error"') == 1
    assert program.process.returncode == 0


async def test_ctrl_c_waits_for_no_load_balancer(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        budget = Budget(accept_s=60, drain_s=60)
        config = config_of(tmp_path, await backends(stack), budget)
        program = await stack.enter_async_context(serving(config))
        program.send(signal.SIGINT)
        assert await ended_after_s(program) < 5
    assert program.process.returncode == 0


async def test_a_reader_who_stopped_reading_does_not_keep_it(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        found = await backends(stack)
        found["large"].script = Script(("x" * 60_000,) * 1_000)
        program = await stack.enter_async_context(serving(config_of(tmp_path, found, Budget(0, 1))))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"authorization": f"Bearer {SECRET}"}, read_bufsize=1)
        )
        url = f"{program.url}/v1/chat/completions"
        answer = await stack.enter_async_context(session.post(url, json=chat("large", stream=True)))
        assert answer.status == 200
        await asyncio.sleep(0.5)
        program.send(signal.SIGTERM)
        assert await ended_after_s(program) < 4
    assert program.process.returncode == 0
    assert len(program.events("request.completed")) == 1
