"""The demo under observation: its real workers and two scripted ones behind a gateway, traffic, faults, a Prometheus.

How it works: the traffic is the demo's prompts with all that callers may ask for, so that no panel stays empty. The
faults are those of scripted workers: one dies and comes back, one is slow, one forgets its `[DONE]`, one hangs.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from router_models.aptitude import FAMILIES, Item, draw, grade
from tests.conftest import ROOT, Workers, free_ports
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.process import until
from tests.fakes.prometheus import Prometheus, running_prometheus

KEYS = ("sk-demo", "sk-team")
# What this gateway takes at a time: little, so that a burst is too much for it.
IN_FLIGHT = 24
# Of the key "team": these models are cheap, so that it is soon spent, which a soft one only says.
BUDGET = {"usd": 0.01, "per": "day", "hard": False}
# Unlike all that the demo's router model learned from, as it says itself.
UNFAMILIAR = (
    "ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ᛫ᚠᛁᚱᚪ᛫ᚷᛖᚻᚹᛦᛚᚳᚢᛗ",
    "Fix this Rust borrow checker error: fn main(){ let x=&mut y; }",
    "🎉🎉🎉🎉🎉",
)
WISHES: tuple[Mapping[str, Any], ...] = (
    {},
    {"max_latency_s": 30},
    {"max_size_b": 0.1},
    {"max_ttft_s": 2.0},
    {"max_cost_usd": 0.001},
    {},
    {"max_output_tokens": 60},
    {"deadline_s": 60},
    {"regions": ["mars"]},
    {"max_quality_loss": 0.05},
    {"max_latency_s": 2.5},
)
QUICK = Script(delay_s=0.02, tokens=("It", " is", " so", "."))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what grades the answer, if anything does."""

    body: Mapping[str, Any]
    item: Item | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What runs, and who watches it."""

    url: str
    process: asyncio.subprocess.Process
    scripted: tuple[FakeBackend, FakeBackend]
    prometheus: Prometheus


@asynccontextmanager
async def observed(folder: Path, workers: Workers, **changes: Any) -> AsyncIterator[Observed]:
    """A gateway of its own in front of the demo's workers; `changes` replace keys of its file."""
    for kind in workers.urls:
        workers.start(kind)
    workers.wait_until_ready()
    data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    async with AsyncExitStack() as running:
        first, second = [
            await running.enter_async_context(FakeBackend(QUICK, models=("org/scripted",))) for _ in range(2)
        ]
        config = _write(folder, workers, (first.url, second.url), {"listen": data, "admin_listen": admin, **changes})
        scraped = [url.removeprefix("http://") for url in workers.urls.values()]
        prometheus = running.enter_context(running_prometheus(folder, [admin], scraped))
        log = running.enter_context((folder / "gateway.log").open("w"))
        command = (sys.executable, "-m", "app.cli", "serve", "--config", str(config))
        process = await asyncio.create_subprocess_exec(*command, stderr=log)
        try:
            await until(lambda: process.returncode is not None or _has_started(folder), True, 60)
            assert process.returncode is None, (folder / "gateway.log").read_text()
            yield Observed(f"http://{data}", process, (first, second), prometheus)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _has_started(folder: Path) -> bool:
    return "gateway.started" in (folder / "gateway.log").read_text()


def _write(folder: Path, workers: Workers, scripted: tuple[str, str], changes: Mapping[str, Any]) -> Path:
    text = {name: (ROOT / "configs" / name).read_text() for name in ("demo.yaml", "demo-catalog.yaml")}
    gateway, catalog = (yaml.safe_load(each) for each in text.values())
    artifact = ROOT / "router_models" / "artifacts" / Path(gateway["artifact"]).name
    gateway |= {"artifact": str(artifact), "state_dir": str(folder / "state"), "upstream": {"hedge": True}}
    gateway["limits"] = {"accept_s": 0, "drain_s": 1, "in_flight": IN_FLIGHT}
    team = {**gateway["keys"][0], "id": "team", "secret": KEYS[1], "flags_in_prompt": False, "budget": BUDGET}
    gateway["keys"].append(team)
    for backend in catalog["backends"]:
        backend["urls"] = [workers.urls[backend["name"]]]
    catalog["backends"].append({"name": "scripted", "kind": "vllm", "urls": list(scripted)})
    model = {**catalog["models"][-1], "name": "scripted", "served_as": "org/scripted", "backend": "scripted"}
    catalog["models"].append({**model, "predicted_as": None})
    (folder / "demo-catalog.yaml").write_text(yaml.safe_dump(catalog))
    (folder / "demo.yaml").write_text(yaml.safe_dump(gateway | dict(changes)))
    return folder / "demo.yaml"


class Callers:
    """Ask as the demo's callers do, and for all that can be asked; say how good the answers are that can be graded."""

    def __init__(self, url: str, seed: int = 7) -> None:
        self._url, self._chance = url, random.Random(seed)
        self._questions = self._endless(seed)

    async def ask_for(self, seconds: float, at_a_time: int = 6) -> None:
        """Keep so many requests in flight for so long."""
        ends_at = time.monotonic() + seconds
        async with aiohttp.ClientSession(self._url) as session:

            async def caller() -> None:
                while time.monotonic() < ends_at:
                    await self.ask(session, next(self._questions))

            await asyncio.gather(*(caller() for _ in range(at_a_time)))

    async def ask(self, session: aiohttp.ClientSession, question: Question) -> int:
        """Read the answer to its end, and judge it; the status that came."""
        headers = {"authorization": f"Bearer {self._chance.choice(KEYS)}"}
        try:
            async with session.post("/v1/chat/completions", json=question.body, headers=headers) as answer:
                body = await answer.read()
        except aiohttp.ClientError:
            return 0
        item = question.item
        # Programs would have to be run.
        if answer.status == 200 and item and item.grader != "python":
            score = grade(item.grader, item.reference, _text(body))
            judged = {"decision_id": answer.headers["x-thalamus-decision-id"], "score": score}
            async with session.post("/v1/routing/feedback", json=judged, headers=headers) as told:
                await told.read()
        return answer.status

    async def crowd(self, count: int = 60) -> list[int]:
        """So many low ones at once: some are turned away."""
        question = Question({**_body("scripted", "Are you there?", 8), "routing": {"priority": "low"}})
        async with aiohttp.ClientSession(self._url) as session:
            return list(await asyncio.gather(*(self.ask(session, question) for _ in range(count))))

    def _endless(self, seed: int) -> Iterator[Question]:
        wishes = itertools.cycle(WISHES)
        for turn in itertools.count():
            for family in self._chance.sample(tuple(FAMILIES), len(FAMILIES)):
                (item,) = draw(family, seed=seed * 1000 + turn, count=1)
                model = self._chance.choice(("auto", "auto", "auto:cheap", "auto:best"))
                body = _body(model, item.prompt, item.max_tokens, stream=self._chance.random() < 0.5)
                yield Question({**body, "routing": next(wishes)}, item)
            yield Question(_body("auto", self._chance.choice(UNFAMILIAR), 16))
            yield Question(_body("smollm2-71m", "What is the capital of Italy?", 16))


async def inject_faults(there: Observed, callers: Callers) -> None:
    """One fault of each kind, about fifteen seconds in all."""
    first, second = there.scripted
    async with aiohttp.ClientSession(there.url) as session:

        async def ask(count: int, **more: Any) -> None:
            question = Question(_body("scripted", "Are you there?", 8, **more))
            await asyncio.gather(*(callers.ask(session, question) for _ in range(count)))

        for _ in range(6):
            await ask(4)
        first.script = second.script = replace(QUICK, done=False)
        await ask(2, stream=True)
        first.script, second.script = replace(QUICK, delay_s=1.0), QUICK
        for _ in range(15):
            await ask(2)
        first.script = second.script = replace(QUICK, event_delay_s=0.4)
        await ask(2, stream=True, routing={"deadline_s": 0.6})
        first.script = second.script = replace(QUICK, hang=True)
        await ask(2, routing={"deadline_s": 0.3})
        first.script = second.script = replace(QUICK, status=500, error={"message": "out of memory"})
        await ask(3)
        first.script = second.script = QUICK
        await first.stop()
        for _ in range(10):
            await ask(2)
        await callers.crowd()
        await asyncio.sleep(4)
        await first.start()
        await ask(4)


def _body(model: str, prompt: str, max_tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, **more}


def _text(body: bytes) -> str:
    """Of an answer in one piece, or of a stream."""
    if not body.startswith(b"data: "):
        return json.loads(body)["choices"][0]["message"]["content"] or ""
    events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]
    choices = [choice for event in events for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
