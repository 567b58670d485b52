"""Real vLLM workers that are stopped, killed and started again, and callers who leave them alone with their request."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.conftest import Stack, Workers, gateway_before

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(600)]

VICTIM, HEIR = "smollm2-71m", "smollm2-135m"
WORKER = "small"
UPSTREAM = {"first_byte_timeout_s": 5, "idle_timeout_s": 3}
USED_AGAIN_WITHIN_S = 15.0
TOKENS = 600


@pytest.fixture(scope="module")
def stack(demo_workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with gateway_before(demo_workers, tmp_path_factory.mktemp("demo"), upstream=UPSTREAM) as running:
        yield running


def session_to(stack: Stack) -> aiohttp.ClientSession:
    headers = {"authorization": f"Bearer {stack.key}"}
    return aiohttp.ClientSession(stack.gateway, headers=headers, timeout=aiohttp.ClientTimeout(total=None))


def body(stream: bool, max_tokens: int, *models: str) -> dict[str, Any]:
    return {
        "model": "auto",
        "messages": [{"role": "user", "content": "Count to a hundred."}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": stream,
        "routing": {"models": list(models), "weights": {"size": 1}},
    }


async def begin(session: aiohttp.ClientSession, *models: str) -> tuple[aiohttp.ClientResponse, bytes]:
    """A stream that has brought some text, and what it has brought."""
    response = await session.post("/v1/chat/completions", json=body(True, TOKENS, *models))
    assert response.headers["x-thalamus-model"] == models[0]
    sent = b""
    while sent.count(b"data: ") < 10:
        sent += await response.content.readany()
    return response, sent


async def rest_of(response: aiohttp.ClientResponse) -> tuple[list[dict[str, Any]], bool]:
    """The error events of the rest of a stream, and whether it ended in [DONE]."""
    rest = await response.read()
    errors = [json.loads(part[6:])["error"] for part in rest.split(b"\n\n") if part.startswith(b'data: {"error"')]
    return errors, b"[DONE]" in rest


async def who_answers(session: aiohttp.ClientSession) -> str:
    async with session.post("/v1/chat/completions", json=body(False, 4, VICTIM, HEIR)) as response:
        await response.read()
        return response.headers["x-thalamus-model"] if response.status == 200 else str(response.status)


async def seconds_until_used(session: aiohttp.ClientSession) -> float:
    """Until the worker answers again, asked every half second; whoever is asked meanwhile answers."""
    began_at = time.monotonic()
    while (model := await who_answers(session)) != VICTIM:
        assert model == HEIR
        assert time.monotonic() - began_at < 2 * USED_AGAIN_WITHIN_S, "it is not used again"
        await asyncio.sleep(0.5)
    return time.monotonic() - began_at


async def gauge(stack: Stack, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{stack.workers.urls[WORKER]}/metrics") as page:
        found = re.findall(rf"^vllm:{name}\{{[^}}]*\}} (\S+)$", await page.text(), re.MULTILINE)
    return sum(map(float, found))


async def until_idle(stack: Stack, within_s: float) -> float:
    """Seconds until nothing runs on the worker."""
    began_at = time.monotonic()
    while await gauge(stack, "num_requests_running"):
        assert time.monotonic() - began_at < within_s, "the request still runs on the worker"
        await asyncio.sleep(0.02)
    return time.monotonic() - began_at


@pytest.mark.parametrize("stream", [True, False], ids=["in the middle", "plain"])
async def test_a_request_that_outlives_its_caller_is_aborted_on_the_worker(stack: Stack, stream: bool) -> None:
    await until_idle(stack, 10)
    before = await gauge(stack, "generation_tokens_total")
    async with session_to(stack) as session:
        if stream:
            response, _ = await begin(session, VICTIM)
            response.close()
        else:
            asked = asyncio.ensure_future(session.post("/v1/chat/completions", json=body(False, TOKENS, VICTIM)))
            while not await gauge(stack, "num_requests_running"):
                await asyncio.sleep(0.02)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        aborted_s = await until_idle(stack, 1.0)
        written = await gauge(stack, "generation_tokens_total") - before
        await asyncio.sleep(1.0)
        later = await gauge(stack, "generation_tokens_total") - before
    print(json.dumps({"stream": stream, "aborted_s": round(aborted_s, 3), "tokens": written, "of": TOKENS}))
    assert written == later < TOKENS


async def test_a_stopped_worker_is_noticed_and_used_again_when_it_goes_on(stack: Stack) -> None:
    async with session_to(stack) as session:
        response, _ = await begin(session, VICTIM)
        os.killpg(stack.workers.group(WORKER), signal.SIGSTOP)
        try:
            (error,), is_done = await rest_of(response)
            began_at = time.monotonic()
            models = await asyncio.gather(*(who_answers(session) for _ in range(6)))
            took_s = time.monotonic() - began_at
        finally:
            os.killpg(stack.workers.group(WORKER), signal.SIGCONT)
        used_again_s = await seconds_until_used(session)
    print(json.dumps({"failover_s": round(took_s, 2), "used_again_s": round(used_again_s, 1)}))
    assert (error["code"], is_done) == ("upstream_timeout", False)
    assert set(models) == {HEIR}
    assert used_again_s <= USED_AGAIN_WITHIN_S


async def test_a_killed_worker_is_noticed_and_used_again_when_it_is_back(stack: Stack) -> None:
    async with session_to(stack) as session:
        response, _ = await begin(session, VICTIM)
        os.killpg(stack.workers.group(WORKER), signal.SIGKILL)
        (error,), is_done = await rest_of(response)
        models = [await who_answers(session) for _ in range(6)]
        stack.workers.start(WORKER)
        await asyncio.to_thread(stack.workers.wait_until_ready)
        used_again_s = await seconds_until_used(session)
    print(json.dumps({"used_again_s": round(used_again_s, 1)}))
    assert (error["code"], is_done) == ("upstream_disconnected", False)
    assert set(models) == {HEIR}
    assert used_again_s <= USED_AGAIN_WITHIN_S
