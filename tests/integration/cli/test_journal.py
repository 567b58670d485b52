"""`thalamus journal`, over what a gateway of two workers has recorded."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from app.cli.journal import journal
from app.errors import UsageError
from router_models.outcomes.dataset import read_outcomes
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import GATEWAY, PLAIN_SECRET, SECRET
from tests.fakes.process import GatewayProcess, gateway_process, until

pytestmark = pytest.mark.slow

PROMPT = "the capital of Atlantis"
KEYS = [
    {
        **key,
        "max_priority": "high",
        "keeps_bodies": key["secret"] == SECRET,
        "scopes": ["inference", "route:explain", "route:feedback"],
    }
    for key in GATEWAY["keys"]
]


def thalamus(*words: str) -> str:
    """What the command prints; in this process, for a new one takes seconds to start."""
    done = CliRunner().invoke(journal, words)
    if done.exception:
        raise done.exception
    return done.stdout


async def call(
    gateway: GatewayProcess, path: str, secret: str = SECRET, body: Any = None
) -> tuple[int, Any, str | None]:
    """Over a connection of its own, so that any worker may get it."""
    headers = {"authorization": f"Bearer {secret}", "connection": "close"}
    async with (
        aiohttp.ClientSession() as session,
        session.request("POST" if body else "GET", gateway.url + path, json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json(), answer.headers.get("x-thalamus-decision-id")


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": PROMPT}], "routing": {"priority": "high"}}


async def test_all_workers_know_all_decisions_and_the_journal_is_followed_summed_and_exported(tmp_path: Path) -> None:
    async with FakeBackend(models=("org/small",)) as small, FakeBackend(models=("org/large",)) as large:
        urls = {"small": small.url, "large": large.url}
        async with gateway_process(tmp_path, urls, keys=KEYS, workers=2) as gateway:
            config = ("--config", str(tmp_path / "gateway.yaml"))
            follower = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "app.cli", "journal", "tail", "-n", "100", "--json", *config),
                stdout=asyncio.subprocess.PIPE,
            )
            asked = [("small", SECRET)] * 6 + [("large", SECRET)] * 3 + [("small", PLAIN_SECRET)] * 2
            answers = [await call(gateway, "/v1/chat/completions", secret, chat(model)) for model, secret in asked]
            decisions = [decision for _, _, decision in answers if decision]
            # Whichever worker is asked, at once.
            seen = [await call(gateway, f"/v1/routing/decisions/{one}") for one in decisions[:6] * 3]
            rated = [
                await call(gateway, "/v1/routing/feedback", SECRET, {"decision_id": one, "score": 0.5})
                for one in decisions[:4]
            ]
            assert follower.stdout
            async with asyncio.timeout(30):
                followed = [json.loads(await follower.stdout.readline()) for _ in asked]
            follower.kill()
            await follower.wait()
            await asyncio.sleep(1.5)

            latest = await asyncio.to_thread(thalamus, "tail", "-n", "5", "--no-follow", *config)
            of_large = await asyncio.to_thread(thalamus, "tail", "--no-follow", "--json", "--model", "large", *config)
            told = {
                by: await asyncio.to_thread(thalamus, "sum", "--by", by, "--json", *config) for by in ("key", "model")
            }
            sums = {by: json.loads(one)["sums"] for by, one in told.items()}
            table = await asyncio.to_thread(thalamus, "sum", "--by", "profile", *config)
            files = ("--parquet", str(tmp_path / "j.parquet"), "--outcomes", str(tmp_path / "rated"))
            figures = json.loads(await asyncio.to_thread(thalamus, "export", *files, "--json", *config))

    assert len(decisions) == len(asked)
    assert Counter(status for status, _, _ in seen) == {200: 18}
    assert {record["outcome"]["result"] for _, record, _ in seen if record["outcome"]} == {"ok"}
    assert [status for status, _, _ in rated] == [200] * 4
    assert Counter((row["key"], row["model"]) for row in followed) == {
        ("tester", "small"): 6,
        ("tester", "large"): 3,
        ("plain", "small"): 2,
    }
    assert len(latest.splitlines()) == 5
    assert [json.loads(line)["model"] for line in of_large.splitlines()] == ["large"] * 3
    assert {key: one["requests"] for key, one in sums["key"].items()} == {"tester": 9, "plain": 2}
    assert sums["model"]["large"]["cost_usd"] == pytest.approx(3 * (7 * 7 + 6 * 14) / 1e6)
    assert ("named" in table, "default" in table) == (True, False)
    assert (figures.pop("requests"), figures.pop("rated"), figures.pop("prompts")) == (11, 4, {"small": 1})
    assert set(figures.values()) == {0}
    exported = pq.read_table(tmp_path / "j.parquet").to_pylist()
    assert sum(row["cost_usd"] for row in exported) == pytest.approx(
        sum(one["cost_usd"] for one in sums["key"].values())
    )
    assert {PROMPT in (row["messages"] or "") for row in exported if row["key"] == "plain"} == {False}
    dataset = read_outcomes(tmp_path / "rated")
    assert dataset.outcomes["score"].to_pylist() == [0.5] * 4
    assert dataset.outcomes["served_as"].to_pylist() == ["org/small"] * 4
    assert dataset.conversations() == [(("user", PROMPT),)] * 4


async def test_a_killed_gateway_says_at_its_next_start_how_its_requests_ended(tmp_path: Path) -> None:
    async with FakeBackend(Script(event_delay_s=0.3), models=("org/small",)) as small:
        async with (
            gateway_process(tmp_path, {"small": small.url}, keys=KEYS) as gateway,
            aiohttp.ClientSession() as session,
        ):
            headers = {"authorization": f"Bearer {SECRET}"}
            body = {**chat("small"), "stream": True}
            answer = await session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
            decision = answer.headers["x-thalamus-decision-id"]
            gateway.process.kill()
            await gateway.process.wait()
            answer.close()
        async with gateway_process(tmp_path, {"small": small.url}, keys=KEYS) as gateway:
            await until(lambda: len(gateway.events("journal.recovered")), 1)
            status, record, _ = await call(gateway, f"/v1/routing/decisions/{decision}")
            interrupted = await gateway.metric("thalamus_journal_interrupted_total")
    assert (status, record["outcome"]["result"], record["outcome"]["reconstructed"]) == (200, "interrupted", True)
    assert interrupted == 1


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    from tests.fakes.deployment import write_config

    config = write_config(tmp_path, {"small": "http://127.0.0.1:1"})
    for words, meaning in (
        (("tail", "--config", str(config)), "there is no journal yet"),
        (("sum", "--by", "colour", "--config", str(config)), "expected one of key"),
        (("export", "--config", str(config)), "say what to write"),
    ):
        with pytest.raises(UsageError, match=meaning):
            thalamus(*words)
