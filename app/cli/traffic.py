"""`thalamus traffic`: a caller that keeps sending the demo's prompts, in every way that callers have."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from app.errors import UsageError

Body = dict[str, Any]

MOST_IN_FLIGHT = 16
"""More than two small workers answer at once, so that they queue now and then; far less than what a gateway takes."""
SESSIONS = 20
WAYS: tuple[tuple[int, Body], ...] = (
    (8, {}),
    (4, {"stream": True}),
    (3, {"model": "auto:cheap"}),
    (2, {"model": "auto:best"}),
    (3, {"model": "a model by name"}),
    (3, {"routing": {"session_id": "a session"}}),
    (2, {"routing": {"explain": True, "weights": {"cost": 0.3, "latency": 0.2}}}),
    (2, {"routing": {"max_latency_s": 1.0}}),
    (2, {"routing": {"max_cost_usd": 0.00001}}),
    (1, {"routing": {"priority": "low"}}),
    (1, {"routing": {"max_cost_usd": 0.0}}),  # no model is free: refused
    (1, {"model": "no-such-model"}),  # refused as well
)
"""Bodies of requests beside the prompt, and how often each comes, of their sum."""


@dataclass
class Traffic:
    """Requests at a steady pace, whether the ones before are answered or not, up to `MOST_IN_FLIGHT`."""

    url: str
    key: str
    rng: random.Random
    answered: Counter[int] = field(default_factory=Counter)
    """By status; 0 is no answer at all."""

    async def run(self, per_s: float, seconds: float | None) -> None:
        """Until the time is over, or for ever."""
        import aiohttp

        headers, patience = {"authorization": f"Bearer {self.key}"}, aiohttp.ClientTimeout(total=120)
        try:
            opened = aiohttp.ClientSession(self.url, headers=headers, timeout=patience)
        except ValueError as exc:
            raise UsageError(f"--url {self.url!r}: write an address such as http://127.0.0.1:8080; {exc}") from exc
        async with opened as session:
            bodies = self.bodies(await self._models(session))
            await self._send_all(session, bodies, per_s, seconds)

    async def _send_all(self, session: Any, bodies: Iterator[Body], per_s: float, seconds: float | None) -> None:
        slots, loop = asyncio.Semaphore(MOST_IN_FLIGHT), asyncio.get_running_loop()
        ends_at = math.inf if seconds is None else loop.time() + seconds
        async with asyncio.TaskGroup() as sent:
            while loop.time() < ends_at:
                await slots.acquire()
                sent.create_task(self._ask(session, next(bodies))).add_done_callback(lambda _: slots.release())
                await asyncio.sleep(self.rng.expovariate(per_s))

    def bodies(self, models: list[str]) -> Iterator[dict[str, Any]]:
        """What is asked, without end."""
        from app.cli.showcase import ORDINARY_MAX_TOKENS, ORDINARY_QUESTIONS
        from router_models.aptitude import FAMILIES, draw

        families, weights = list(FAMILIES), [weight for weight, _ in WAYS]
        while True:
            (item,) = draw(self.rng.choice(families), seed=self.rng.randrange(2**31), count=1)
            prompt, max_tokens = item.prompt, item.max_tokens
            if self.rng.random() < 0.1:
                prompt, max_tokens = self.rng.choice(ORDINARY_QUESTIONS), ORDINARY_MAX_TOKENS
            (way,) = self.rng.choices([way for _, way in WAYS], weights)
            yield self._body(way, models) | {
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
            }

    def _body(self, way: Body, models: list[str]) -> Body:
        body = {"model": "auto", **way}
        if body["model"] == "a model by name":
            body["model"] = self.rng.choice(models)
        if "session_id" in body.get("routing", {}):
            body["routing"] = {"session_id": f"session-{self.rng.randrange(SESSIONS)}"}
        return body

    async def _models(self, session: Any) -> list[str]:
        import aiohttp

        try:
            async with session.get("/v1/models") as answer:
                listed = await answer.json()
            if answer.status != 200:
                raise UsageError(f"the gateway answered {answer.status}: {listed['error']['message']}")
            return [one["id"] for one in listed["data"] if not one["id"].startswith("auto")]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as exc:
            raise UsageError(f"no gateway answers at {self.url}: {exc}") from exc

    async def _ask(self, session: Any, body: Body) -> None:
        import aiohttp

        try:
            async with session.post("/v1/chat/completions", json=body) as answer:
                await answer.read()
                self.answered[answer.status] += 1
        except (aiohttp.ClientError, TimeoutError):
            self.answered[0] += 1


def traffic(
    url: Annotated[str, typer.Option(help="The gateway, or what stands in front of it.")] = "http://127.0.0.1:8080",
    key_env: Annotated[str, typer.Option(help="Environment variable with a key of the gateway.")] = "THALAMUS_KEY",
    per_s: Annotated[float, typer.Option(help="Requests per second, on average.", min=0.01, max=1000)] = 2.0,
    seconds: Annotated[float | None, typer.Option(help="Stop after this long; never if absent.", min=0.1)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the requests; a new one at each run if absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was answered as JSON.")] = False,
) -> None:
    """Send the demo's prompts to a running gateway, so that its dashboards have something to show: models by name and
    `auto`, plain and streamed, with and without limits, some of them refused.

    Example: `thalamus traffic --url http://127.0.0.1:8080 --per-s 5 --seconds 60`
    """
    if not os.environ.get(key_env):
        raise UsageError(f"--key-env names {key_env}, which is not set")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sender = Traffic(url, os.environ[key_env], random.Random(seed))
    with suppress(KeyboardInterrupt):
        asyncio.run(sender.run(per_s, seconds))
    answered = {str(status or "none"): count for status, count in sorted(sender.answered.items())}
    asked = sender.answered.total()
    if as_json:
        print(json.dumps({"asked": asked, "answered": answered}))
        return
    answers = ", ".join(f"{count} of status {status}" for status, count in answered.items())
    print(f"Asked {asked}: {answers or 'nothing'}.")
