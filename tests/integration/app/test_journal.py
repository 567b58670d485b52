"""What a whole gateway journals, and what callers see of it: over HTTP, after restarts, and never somebody else's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.store.sqlite import open_database
from tests.fakes.backend import Script
from tests.fakes.deployment import GATEWAY, PLAIN_SECRET, SECRET, Deployment, deployed

CANARY = "the capital of Atlantis"
KEYS = [
    {**key, "max_priority": "high", "scopes": ["inference", "route:explain", "route:feedback"]}
    for key in GATEWAY["keys"]
]


class Caller:
    def __init__(self, session: aiohttp.ClientSession, url: str, secret: str = SECRET) -> None:
        self._session, self._url = session, url
        self._headers = {"authorization": f"Bearer {secret}"}

    async def chat(self, **fields: Any) -> str:
        """Have an answer; the id of its decision."""
        body = {"model": "small", "messages": [{"role": "user", "content": CANARY}], **fields}
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body, headers=self._headers) as answer:
            await answer.read()
            assert answer.status == 200, await answer.text()
            return answer.headers["x-thalamus-decision-id"]

    async def rate(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        return await self._told(
            self._session.post(f"{self._url}/v1/routing/feedback", json=fields, headers=self._headers)
        )

    async def decision(self, decision_id: str) -> tuple[int, dict[str, Any]]:
        return await self._told(
            self._session.get(f"{self._url}/v1/routing/decisions/{decision_id}", headers=self._headers)
        )

    async def _told(self, call: Any) -> tuple[int, dict[str, Any]]:
        async with call as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def gateway(folder: Path, **changes: Any) -> AsyncIterator[tuple[Deployment, Caller, Caller]]:
    """One, its caller, and another one's."""
    async with deployed(folder, "small", **{"keys": KEYS, **changes}) as deployment, aiohttp.ClientSession() as session:
        yield deployment, Caller(session, deployment.url), Caller(session, deployment.url, PLAIN_SECRET)


def records(folder: Path) -> list[dict[str, Any]]:
    connection = open_database(folder / "state")
    found = connection.execute("SELECT record FROM records ORDER BY number").fetchall()
    connection.close()
    return [json.loads(record) for (record,) in found]


async def test_a_decision_is_known_after_a_restart_and_to_its_own_key_only(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_, mine, _):
        decision_id = await mine.chat()
        _, before = await mine.decision(decision_id)
    async with gateway(tmp_path) as (_, mine, theirs):
        status, after = await mine.decision(decision_id)
        assert (await theirs.decision(decision_id))[0] == 404
        assert (await mine.decision("dec-nothing"))[0] == 404
        assert (await mine.decision("x" * 100))[0] == 404
    assert status == 200
    for name in ("deadline_s", "priority", "in_session"):
        assert after["asked"][name] == before["asked"][name], name
    for name in ("decision_id", "model", "reason", "propensity", "encoder", "versions"):
        assert after[name] == before[name], name
    same = ("result", "model", "attempts", "usage", "cost_usd", "ttft_s")
    assert {name: after["outcome"][name] for name in same} == {
        name: pytest.approx(before["outcome"][name], abs=1e-6) if name == "ttft_s" else before["outcome"][name]
        for name in same
    }
    assert after["outcome"].keys() == before["outcome"].keys()
    for told in (before, after):
        assert "127.0.0.1" not in json.dumps(told)
        assert "org/small" not in json.dumps(told)


async def test_the_record_says_what_was_asked_and_what_became_of_it(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (deployment, mine, _):
        await mine.chat(max_tokens=5, routing={"max_size_b": 10, "priority": "high"}, model="auto:cheap")
        version = deployment.settings.version
    (record,) = records(tmp_path)
    end = record["end"]
    assert (record["key"], record["operation"], record["profile"], record["config"]) == (
        "tester",
        "chat",
        "cheap",
        version,
    )
    assert record["asked"]["model"] == "auto:cheap"
    assert record["asked"]["limits"] == {"max_size_b": 10}
    assert record["asked"]["weights"] == {"cost": 0.5}
    assert (end["outcome"], end["model"], end["input_tokens"], end["output_tokens"]) == ("ok", "small", 7, 6)
    assert end["cost_usd"] == pytest.approx((7 * 0.8 + 6 * 1.6) / 1e6)
    assert 0 < end["ttft_s"] <= end["duration_s"]


async def test_a_stream_that_breaks_is_billed_for_what_was_delivered(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (deployment, mine, _):
        deployment.backends["small"].script = Script(cut_after=4)
        await mine.chat(stream=True)
    end = records(tmp_path)[0]["end"]
    assert (end["outcome"], end["usage_counted"], end["output_tokens"]) == ("upstream_disconnected", True, 3)
    assert end["cost_usd"] == pytest.approx((end["input_tokens"] * 0.8 + 3 * 1.6) / 1e6)


async def test_a_request_that_fails_and_one_that_no_model_may_answer_have_records(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (deployment, mine, _):
        deployment.backends["small"].script = Script(status=400, error={"message": "no"})
        with pytest.raises(AssertionError):
            await mine.chat()
        with pytest.raises(AssertionError):
            await mine.chat(model="auto", routing={"max_size_b": 1})
    outcomes = {record["end"]["outcome"]: record for record in records(tmp_path)}
    assert outcomes.keys() == {"invalid_request", "no_eligible_model"}
    assert outcomes["invalid_request"]["end"]["attempts"] == 1
    refused = outcomes["no_eligible_model"]
    assert refused["asked"]["limits"] == {"max_size_b": 1.0}
    assert (refused["eligible"], refused["excluded"]) == (0, {"max_size_b": {"count": 1, "models": ["small"]}})
    assert refused["versions"]["config"] == deployment.settings.version


async def test_how_probable_the_answer_was_is_recorded_where_it_says_so(tmp_path: Path) -> None:
    told = [{"token": "a", "logprob": -0.25, "bytes": [97]}, {"token": "b", "logprob": -0.75, "bytes": [98]}]
    choice = {"index": 0, "message": {"role": "assistant", "content": "ab"}, "logprobs": {"content": told}}
    body = {
        "id": "1",
        "object": "chat.completion",
        "model": "org/small",
        "choices": [{**choice, "finish_reason": "stop"}],
    }
    async with gateway(tmp_path) as (deployment, mine, _):
        deployment.backends["small"].script = Script(body=json.dumps(body).encode())
        decision_id = await mine.chat(logprobs=True)
        assert (await mine.decision(decision_id))[1]["outcome"]["mean_logprob"] == -0.5
        deployment.backends["small"].script = Script()
        await mine.chat()
    assert [record["end"]["mean_logprob"] for record in records(tmp_path)] == [-0.5, None]


async def test_no_text_of_a_prompt_is_kept_unless_the_key_says_so(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_, mine, _):
        await mine.chat()
    assert CANARY not in json.dumps(records(tmp_path))
    keys = [{**key, "keeps_bodies": True} for key in KEYS]
    async with gateway(tmp_path, keys=keys) as (_, mine, _):
        await mine.chat()
        with pytest.raises(AssertionError, match="context_length_exceeded"):
            await mine.chat(messages=[{"role": "user", "content": "x" * 100_000}])
    _, short, long = records(tmp_path)
    assert short["messages"] == [{"role": "user", "content": CANARY}]
    assert long["messages"] is None, "half a prompt is none"


async def test_feedback_is_for_the_key_that_asked_and_can_be_changed(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_, mine, theirs):
        decision_id = await mine.chat()
        assert await mine.rate(decision_id=decision_id, thumbs="down") == (
            200,
            {"decision_id": decision_id, "score": 0.0, "thumbs": "down"},
        )
        assert (await mine.decision(decision_id))[1]["feedback"]["thumbs"] == "down"
        assert (await mine.rate(decision_id=decision_id, score=0.75))[0] == 200
        assert (await theirs.rate(decision_id=decision_id, score=1))[0] == 404
    async with gateway(tmp_path) as (_, mine, _):
        assert (await mine.decision(decision_id))[1]["feedback"]["score"] == 0.75
        assert (await mine.rate(decision_id=decision_id, score=0.5))[0] == 200
        await asyncio.sleep(1.0)
        assert (await mine.decision(decision_id))[1]["feedback"]["score"] == 0.5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "score"),
        ({"score": 1.5}, "score"),
        ({"score": "good"}, "score"),
        ({"score": True}, "score"),
        ({"score": 1, "thumbs": "up"}, "score"),
        ({"thumbs": "sideways"}, "thumbs"),
        ({"thumbs": ["up"]}, "thumbs"),
        ({"score": 1, "why": "because"}, "why"),
        ({"score": 1, "decision_id": 7}, "decision_id"),
        ({"score": 1, "decision_id": "../x"}, "decision_id"),
    ],
)
async def test_feedback_that_makes_no_sense_is_refused_with_the_field(
    tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    async with gateway(tmp_path) as (_, mine, _):
        status, body = await mine.rate(**{"decision_id": "dec-1", **fields})
    assert (status, body["error"]["param"]) == (400, param)


async def test_feedback_is_taken_at_a_bounded_rate_and_needs_its_scope(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_, mine, _):
        decision_id = await mine.chat()
        answers = [await mine.rate(decision_id=decision_id, score=1) for _ in range(62)]
        assert [status for status, _ in answers].count(200) in (60, 61)
        status, body = answers[-1]
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    plain = [{**key, "scopes": ["inference"]} for key in KEYS]
    async with gateway(tmp_path, keys=plain) as (_, mine, _):
        assert (await mine.rate(decision_id=decision_id, score=1))[0] == 403


async def test_a_caller_that_leaves_is_recorded_with_what_was_delivered(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (deployment, mine, _):
        deployment.backends["small"].script = replace(Script(), event_delay_s=0.2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await mine.chat(stream=True)
        await asyncio.sleep(0.2)
    end = records(tmp_path)[0]["end"]
    assert (end["outcome"], end["usage_counted"]) == ("cancelled", True)
    assert end["output_tokens"] >= 1
