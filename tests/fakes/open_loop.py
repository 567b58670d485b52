"""Callers that come at a rate of their own, whether or not the earlier ones were answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from app.domain.request import Request
from app.errors import GatewayError
from app.gateway import Gateway
from tests.fakes.world import FakeKey, request

KEY = FakeKey()


@dataclass
class Heard:
    """What callers heard."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Answers by `ok`, `cut` or the code of their error."""
    times_s: list[float] = field(default_factory=list)
    """Of each request, until its answer was complete."""
    errors: list[GatewayError] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    """How late each request was sent, because the machine was busy."""

    @property
    def requests(self) -> int:
        return self.outcomes.total()

    @property
    def ok_share(self) -> float:
        return self.outcomes["ok"] / max(1, self.requests)

    def at(self, share: float) -> float:
        """Seconds within which this share of the requests was over."""
        return quantile(self.times_s, share)

    @property
    def lag_s(self) -> float:
        """What the machine itself adds to the slowest hundredth."""
        return quantile(self.lags_s, 0.99)

    def say(self, **figures: object) -> None:
        """Print the figures of a test as one JSON line."""
        times = {f"p{share:g}_ms": round(1e3 * self.at(share / 100), 1) for share in (50, 99)} if self.times_s else {}
        lag = {"machine_lag_p99_ms": round(1e3 * self.lag_s, 1)} if self.lags_s else {}
        print(json.dumps({"requests": self.requests, **self.outcomes, **times, **lag, **figures}))


@asynccontextmanager
async def loop_lag() -> AsyncIterator[list[float]]:
    """Seconds by which a tick came late in the meantime, because the machine was busy."""
    lags_s = [0.0]

    async def tick() -> None:
        while True:
            due_at = time.monotonic() + 0.005
            await asyncio.sleep(0.005)
            lags_s.append(time.monotonic() - due_at)

    task = asyncio.create_task(tick())
    try:
        yield lags_s
    finally:
        task.cancel()


async def ask(gateway: Gateway, asked: Request, heard: Heard) -> None:
    """One request, read to its end."""
    began_at = time.monotonic()
    try:
        served = await gateway.complete(asked, KEY)
        try:
            async for _ in served.answer:
                pass
        finally:
            await served.answer.aclose()
        heard.outcomes["ok" if served.answer.complete else "cut"] += 1
    except GatewayError as exc:
        heard.outcomes[exc.code] += 1
        heard.errors.append(exc)
    heard.times_s.append(time.monotonic() - began_at)


async def ask_at(
    rate: float, seconds: float, gateway: Gateway, asked: Request | None = None, heard: Heard | None = None
) -> Heard:
    """So many requests a second, half of them streams unless told otherwise; returns when all are over."""
    heard = Heard() if heard is None else heard
    began_at = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(round(rate * seconds)):
            await asyncio.sleep(began_at + number / rate - time.monotonic())
            heard.lags_s.append(max(0.0, time.monotonic() - began_at - number / rate))
            one = asked or request(stream=bool(number % 2), max_tokens=1)
            tasks.create_task(ask(gateway, replace(one, request_id=f"req-{number}"), heard))
    return heard


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them is."""
    return sorted(values)[int(share * (len(values) - 1))]
