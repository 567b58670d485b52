"""A gateway on a Redis that fails in every way, and callers of three kinds who do not stop asking meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from app.store.limits.scripts import HOLDERS
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.caller import chat
from tests.fakes.fault_proxy import FaultProxy, Toxics
from tests.fakes.open_loop import quantile
from tests.fakes.process import GatewayProcess, gateway_process, until
from tests.fakes.redis_server import RedisServer, running_redis

RATE = 50.0
HARD_RATE = 5.0
COST_USD = 0.0004
"""Of an answer, and what it is expected to cost at most."""
TOKENS = 250
"""So many cost that at the price of the model; too few to be cut shorter."""
POOR_USD = 0.005
_LIMITS = {"requests_per_minute": 1e6, "tokens_per_minute": 1e9, "concurrency": 1_000, "max_priority": "high"}
_KEY = {"models": ["*"], "max_tokens": TOKENS, **_LIMITS}
KEYS = [
    {"id": "normal", "secret": "sk-normal", "budget": None, **_KEY},
    {"id": "rich", "secret": "sk-rich", "budget": {"usd": 1_000.0}, **_KEY},
    {"id": "poor", "secret": "sk-poor", "budget": {"usd": POOR_USD}, **_KEY},
]
"""One without a budget, one with a hard one that lasts, and one whose budget is for a few answers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller got, and when it had asked (monotonic)."""

    key: str
    asked_at: float
    took_s: float
    status: int
    code: str | None
    headers: Mapping[str, str]

    @property
    def overhead_s(self) -> float:
        """The gateway's own part."""
        return float(self.headers["x-thalamus-overhead-ms"]) / 1e3


@dataclass
class World:
    """All of it, running."""

    gateway: GatewayProcess
    proxy: FaultProxy
    """Between the gateway and Redis."""
    redis: RedisServer
    answers: list[Answer] = field(default_factory=list)
    lags: list[tuple[float, float]] = field(default_factory=list)
    """When something was due here, and by how much it was late, because the machine was busy."""

    def of(self, key: str, since: float = 0.0, till: float = float("inf")) -> list[Answer]:
        """In the order of asking."""
        found = [one for one in self.answers if one.key == key and since <= one.asked_at < till]
        return sorted(found, key=lambda one: one.asked_at)

    def lag_s(self, since: float, till: float) -> float:
        """What the machine itself adds to the slowest hundredth."""
        return quantile([lag for at, lag in self.lags if since <= at < till] or [0.0], 0.99)

    async def until_whole(self, within_s: float) -> float:
        """Wait until money can be spent and Redis decides on limits again; return the seconds that it took."""
        began_at = time.monotonic()
        await until(lambda: any(one.status == 200 for one in self.of("rich", since=began_at)), True, within_s)
        before = self.redis.do("HGET", "thalamus:limits:normal", "at")
        await until(lambda: self.redis.do("HGET", "thalamus:limits:normal", "at") != before, True, within_s)
        return time.monotonic() - began_at

    def spent_usd(self, key: str) -> float:
        """What Redis knows."""
        (name,) = (one for one in self.redis.do("KEYS", f"thalamus:spent:{key}:*") if one.count(b"-") == 2)
        return float(self.redis.do("HGET", name, "spent") or 0.0)

    def recorded(self, decisions: Sequence[str]) -> int:
        """How many of them Redis can tell of."""
        names = [f"thalamus:decision:{one}" for one in decisions]
        return sum(self.redis.do("EXISTS", *names[at : at + 1_000]) for at in range(0, len(names), 1_000))

    async def call(self, key: str, rate: float) -> None:
        """Ask at a rate, until cancelled; then wait for the answers."""
        headers = {"authorization": f"Bearer sk-{key}", "x-thalamus-priority": "high"}
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(self.gateway.url, headers=headers, connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            began_at, number = time.monotonic(), 0
            with suppress(asyncio.CancelledError):
                while True:
                    due_at = began_at + number / rate
                    await asyncio.sleep(due_at - time.monotonic())
                    self.lags.append((due_at, time.monotonic() - due_at))
                    tasks.create_task(self._ask(session, key))
                    number += 1

    async def _ask(self, session: aiohttp.ClientSession, key: str) -> None:
        asked_at = time.monotonic()
        body = chat(model="small", max_tokens=TOKENS)
        async with session.post("/v1/chat/completions", json=body) as answer:
            told = await answer.json()
        code = (told.get("error") or {}).get("code")
        headers = {name.lower(): value for name, value in answer.headers.items()}
        self.answers.append(Answer(key, asked_at, time.monotonic() - asked_at, answer.status, code, headers))


@asynccontextmanager
async def outages(folder: Path) -> AsyncIterator[World]:
    """Everything is well at first."""
    async with AsyncExitStack() as stack:
        (folder / "redis").mkdir()
        redis = stack.enter_context(running_redis(folder / "redis", tcp=True, known=True))
        proxy = await stack.enter_async_context(FaultProxy(redis.url, http=False))
        usage = {"prompt_tokens": 0, "completion_tokens": TOKENS}
        backend = await stack.enter_async_context(FakeBackend(Script(usage=usage), models=("org/small",)))
        started = gateway_process(folder, {"small": backend.url}, store=f"{proxy.url}/0", keys=KEYS)
        yield World(await stack.enter_async_context(started), proxy, redis)


@contextmanager
def _toxics(world: World, toxics: Toxics) -> Iterator[None]:
    world.proxy.down = toxics
    yield
    world.proxy.down = Toxics()


@contextmanager
def _killed(world: World) -> Iterator[None]:
    world.redis.kill()
    yield
    world.redis.start()


@contextmanager
def _stalled(world: World) -> Iterator[None]:
    world.redis.pause()
    yield
    world.redis.resume()


@contextmanager
def _refusing(world: World, fault: Callable[[], None]) -> Iterator[None]:
    fault()
    yield
    world.redis.recover()


@contextmanager
def _of_a_wrong_type(world: World) -> Iterator[None]:
    """What it holds of limits and money is something else; what was there before comes back in the end."""
    money = [*world.redis.do("KEYS", "thalamus:spent:*"), b"thalamus:bank"]
    for name in money:
        world.redis.do("RENAME", name, b"kept:" + name)
    names = [*money, HOLDERS, "thalamus:limits:normal", "thalamus:limits:rich"]
    for name in names:
        world.redis.do("SET", name, "not what it should be")
    yield
    for name in money:
        world.redis.do("RENAME", b"kept:" + name, name)


Fault = Callable[[World], Any]
FAULTS: Mapping[str, Fault] = {
    "stalled": _stalled,
    "killed": _killed,
    "wrong type": _of_a_wrong_type,
    "two seconds late": lambda world: _toxics(world, Toxics(latency_s=2.0)),
    "resets": lambda world: _toxics(world, Toxics(reset_after_s=0.0)),
    "out of memory": lambda world: _refusing(world, world.redis.run_out_of_memory),
    "read only": lambda world: _refusing(world, world.redis.become_read_only),
}


def overhead_s(answers: Iterable[Answer], share: float) -> float:
    """The gateway's own part, within which it was done with this share of what was served."""
    return quantile([one.overhead_s for one in answers if one.status == 200], share)
