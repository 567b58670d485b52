"""A real worker is killed under a hundred requests: whoever has seen nothing is answered by another model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router_models.aptitude import draw
from tests.conftest import Stack, Workers, gateway_before

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

VICTIM, HEIR = "smollm2-71m", "smollm2-135m-sql"
# However busy the machine is, it is the death that costs answers, not the time they take.
PATIENT = {"first_byte_timeout_s": 240, "idle_timeout_s": 60, "total_timeout_s": 600}
TOKENS = 60
BEGUN_BEFORE_THE_KILL = 10


@dataclass
class Seen:
    """What one caller saw."""

    stream: bool
    status: int = 0
    model: str = ""
    events: list[Any] = field(default_factory=list)
    is_done: bool = False

    @property
    def has_begun(self) -> bool:
        return bool(self.events)

    @property
    def errors(self) -> int:
        return sum("error" in event for event in self.events)

    @property
    def tokens(self) -> int:
        usage = self.events[-1].get("usage") if self.events else None
        return usage["completion_tokens"] if usage else 0


async def ask(session: aiohttp.ClientSession, prompt: str, seen: Seen) -> None:
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": seen.stream,
        "routing": {"models": [VICTIM, HEIR], "weights": {"size": 1}},
    }
    if seen.stream:
        body["stream_options"] = {"include_usage": True}
    async with session.post("/v1/chat/completions", json=body) as response:
        seen.status, seen.model = response.status, response.headers.get("x-thalamus-model", "")
        if not seen.stream:
            seen.events.append(await response.json())
            return
        async for line in response.content:
            if line.strip() == b"data: [DONE]":
                seen.is_done = True
            elif line.startswith(b"data: "):
                seen.events.append(json.loads(line[6:]))


async def kill_under_load(stack: Stack, requests: int) -> tuple[list[Seen], list[Seen]]:
    """All callers, and those whose stream had begun when the worker died."""
    prompts = [item.prompt for item in draw("sql", seed=80, count=requests)]
    callers = [Seen(stream=number % 2 == 0) for number in range(requests)]
    headers = {"authorization": f"Bearer {stack.key}"}
    async with aiohttp.ClientSession(
        stack.gateway, headers=headers, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        tasks = [asyncio.create_task(ask(session, *pair)) for pair in zip(prompts, callers, strict=True)]
        while sum(caller.has_begun for caller in callers) < BEGUN_BEFORE_THE_KILL:
            await asyncio.sleep(0.01)
        begun = [caller for caller in callers if caller.has_begun and not caller.is_done and caller.stream]
        os.killpg(stack.workers.group("small"), signal.SIGKILL)
        await asyncio.gather(*tasks)
    return callers, begun


async def test_a_killed_worker_costs_only_the_streams_it_had_begun(
    tmp_path: Path, demo_workers: Workers, full_size: bool
) -> None:
    requests = 100 if full_size else 40
    try:
        with gateway_before(demo_workers, tmp_path, upstream=PATIENT) as stack:
            callers, begun = await kill_under_load(stack, requests)
    finally:
        demo_workers.start("small")

    cut = [caller for caller in callers if caller.errors]
    whole = [caller for caller in callers if not caller.errors]
    print(
        json.dumps(
            {
                "begun streams at the kill": len(begun),
                "ended with one error event": len(cut),
                "answered whole": Counter(caller.model for caller in whole),
            }
        )
    )
    assert begun
    assert {caller.status for caller in callers} == {200}
    assert all(caller.stream and caller.errors == 1 and not caller.is_done for caller in cut)
    assert all(caller in cut for caller in begun)
    assert all(caller.tokens == TOKENS for caller in whole)
    assert all(caller.is_done for caller in whole if caller.stream)
    assert {caller.model for caller in whole} <= {VICTIM, HEIR}
    assert len([caller for caller in whole if caller.model == HEIR]) >= requests - len(cut) - BEGUN_BEFORE_THE_KILL
