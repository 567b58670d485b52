"""The record that travels with an answer says what is said of it afterwards, and takes nothing from the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.deployment import FIRST_KEYS, SECRET, Deployment, deployed

EXPLAIN = {"routing": {"explain": True}}
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
CALLS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "What is the capital of France?"},
    "/v1/responses": {"input": "What is the capital of France?"},
}


def caller_of(deployment: Deployment) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(deployment.url, headers={"authorization": f"Bearer {SECRET}"})


def record_in(body: str) -> Any:
    """The record in a plain answer, or on one of a stream's events."""
    events = [line.removeprefix("data: ") for line in body.splitlines() if '"thalamus":' in line]
    assert len(events) == 1
    return json.loads(events[0])["thalamus"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", CALLS)
async def test_the_record_in_an_answer_and_the_one_looked_up_agree(tmp_path: Path, path: str, stream: bool) -> None:
    asked = {"model": "small", "stream": stream, **CALLS[path], **EXPLAIN}
    async with deployed(tmp_path, "small", keys=FIRST_KEYS) as deployment, caller_of(deployment) as caller:
        async with caller.post(path, json=asked) as answer:
            told, decision_id = record_in(await answer.text())["outcome"], answer.headers["x-thalamus-decision-id"]
        async with caller.get(f"/v1/routing/decisions/{decision_id}") as answer:
            looked_up = (await answer.json())["outcome"]
    same = ("result", "model", "reason", "attempts", "usage", "cost_usd", "ttft_s", "overhead_s")
    assert {name: told[name] for name in same} == {name: looked_up[name] for name in same}
    assert (told["result"], told["ttft_s"] > 0) == ("ok", True)
