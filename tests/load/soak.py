"""A gateway under steady load with faults and callers who leave: does anything fail for no reason, or leak?

`python -m tests.load.soak --minutes 30 --rate 50` prints one line of JSON. A failure is explained when a backend was
told to fail this very request so often, and in such a way, that the caller had to notice. Backends fail one request
in twenty, one caller in ten hangs up, and the network between gateway and backends is slow and cuts finely.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from tests.fakes.backend import TOKENS, FakeBackend, Received, Script
from tests.fakes.caller import Heard, call, hang_up, hear, session_to
from tests.fakes.fault_proxy import FaultProxy, Toxics
from tests.fakes.process import GatewayProcess, gateway_process

MODELS = ("small", "large", "huge")
FAULTS, LEAVERS = 0.05, 0.10
LEAVE_WITHIN_S = 0.2
GOOD = Script(event_delay_s=0.005)
EARLY = {
    "says 500": Script(status=500),
    "says 502": Script(status=502),
    "resets": Script(reset=True),
    "resets after its head": Script(head_then_reset=True),
    "never answers": Script(hang=True),
}
"""Before the caller has got anything: another backend answers, unless that one fails too."""
LATE = {
    "closes": Script(cut_after=3),
    "resets": Script(cut_after=3, cut_with_reset=True),
    "sends garbage": Script(garbage_after=3),
    "brings an error": Script(error_after=3),
    "falls silent": Script(hang_after=3),
}
"""In a begun stream: the caller gets an error event."""
# A busy machine may stop for seconds; that is not to look like a backend that fails.
UPSTREAM = {"connect_timeout_s": 3, "first_byte_timeout_s": 6, "idle_timeout_s": 6, "total_timeout_s": 40}
NETWORKS = (Toxics(), Toxics(latency_s=0.005, jitter_s=0.005), Toxics(slicer=True), Toxics(slow_close_s=0.05))
NETWORK_CHANGES_EVERY_S = 5.0
WARM_UP_SHARE = 1 / 3
"""Of the time, before memory is watched: caches fill, and the allocator finds its size."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, how much, and how long to wait before looking for what is left over."""

    seconds: float = 1800.0
    rate: float = 50.0
    rest_s: float = 60.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds while nothing is asked of it."""

    tasks: int
    fds: int
    upstream_connections: int


class Unreliable(FakeBackend):
    """Fails a share of requests, and remembers which, and how."""

    def __init__(self, name: str, rng: random.Random, told: defaultdict[str, list[str]]) -> None:
        super().__init__(GOOD, models=(f"org/{name}",))
        self._rng, self._told = rng, told

    def script_for(self, request: Received) -> Script:
        self.requests.clear()
        if self._rng.random() >= FAULTS:
            return self.script
        late = request.body.get("stream") and self._rng.random() < 0.5
        kind, script = self._rng.choice(list((LATE if late else EARLY).items()))
        self._told[request.headers["x-request-id"]].append(f"{'late' if late else 'early'}: {kind}")
        return script


class Soak:
    """One run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rng = random.Random(plan.seed)
        self._told: defaultdict[str, list[str]] = defaultdict(list)
        """Faults by the id of the request that met them."""
        self.outcomes: Counter[str] = Counter()
        self.unexplained: list[str] = []
        self._rss: list[tuple[float, int]] = []
        self.lag_s = 0.0
        """How far this process, backends and callers alike, was behind at most: seconds are no fault of the gateway."""

    async def run(self, folder: Path) -> dict[str, Any]:
        async with AsyncExitStack() as stack:
            backends = [Unreliable(name, self._rng, self._told) for name in MODELS]
            for backend in backends:
                await stack.enter_async_context(backend)
            proxies = [await stack.enter_async_context(FaultProxy(one.url, self._plan.seed)) for one in backends]
            urls = {name: proxy.url for name, proxy in zip(MODELS, proxies, strict=True)}
            gateway = await stack.enter_async_context(gateway_process(folder, urls, upstream=UPSTREAM))
            before = await self._at_rest(gateway, proxies, 1.0)
            async with session_to(gateway.url) as session, asyncio.TaskGroup() as group:
                watching = [group.create_task(self._watch(gateway)), group.create_task(self._weather(proxies))]
                await self._send(gateway, session)
                for task in watching:
                    task.cancel()
            await gateway.until_idle(60)
            after = await self._at_rest(gateway, proxies, self._plan.rest_s)
            return self._report(before, after, len(gateway.completed))

    async def _send(self, gateway: GatewayProcess, session: aiohttp.ClientSession) -> None:
        began_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(self._plan.seconds * self._plan.rate)):
                if (wait_s := began_at + number / self._plan.rate - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                leaves = self._rng.random() < LEAVERS
                group.create_task(self._leave(gateway.port) if leaves else self._listen(session, number))

    async def _listen(self, session: aiohttp.ClientSession, number: int) -> None:
        request_id = f"soak-{number}"
        try:
            # The least that tells the gateway how long a plain answer may take.
            heard = await hear(session, headers={"x-request-id": request_id}, stream=number % 2 == 0, max_tokens=1)
        except (aiohttp.ClientError, OSError) as exc:
            self.unexplained.append(f"{request_id}: {exc!r}")
            return
        outcome = outcome_of(heard)
        self.outcomes[outcome] += 1
        faults = self._told.pop(request_id, [])
        if not explained(outcome, faults):
            self.unexplained.append(f"{request_id}: {outcome} after {faults or 'no fault'}: {heard.errors}")

    async def _leave(self, port: int) -> None:
        _, writer = await call(port, stream=self._rng.random() < 0.5)
        await asyncio.sleep(self._rng.uniform(0, LEAVE_WITHIN_S))
        hang_up(writer, reset=self._rng.random() < 0.5)
        self.outcomes["left"] += 1

    async def _watch(self, gateway: GatewayProcess) -> None:
        began_at = time.monotonic()
        while True:
            now = time.monotonic()
            self._rss.append((now - began_at, gateway.rss_bytes()))
            await asyncio.sleep(1)
            self.lag_s = max(self.lag_s, time.monotonic() - now - 1)

    async def _weather(self, proxies: list[FaultProxy]) -> None:
        while True:
            for proxy in proxies:
                proxy.down = self._rng.choice(NETWORKS)
            await asyncio.sleep(NETWORK_CHANGES_EVERY_S)

    async def _at_rest(self, gateway: GatewayProcess, proxies: list[FaultProxy], rest_s: float) -> Held:
        await asyncio.sleep(rest_s)
        tasks = int(await gateway.metric("thalamus_event_loop_tasks"))
        open_links = sum(proxy.open for proxy in proxies)
        return Held(tasks, gateway.seen_by_system.num_fds(), open_links)

    def _report(self, before: Held, after: Held, records: int) -> dict[str, Any]:
        return {
            "requests": self.outcomes.total(),
            "outcomes": dict(self.outcomes),
            "unexplained": len(self.unexplained),
            "examples": self.unexplained[:5],
            "records": records,
            "lag_s": round(self.lag_s, 2),
            "rss_mib": round(self._rss[-1][1] / MIB, 1),
            "rss_mib_per_hour": round(slope_per_hour(self._rss) / MIB, 2),
            "before": [before.tasks, before.fds, before.upstream_connections],
            "after": [after.tasks, after.fds, after.upstream_connections],
        }


def outcome_of(heard: Heard) -> str:
    if heard.status != 200:
        return str(heard.status)
    begun = "".join(TOKENS).startswith(heard.text) and not heard.done and len(heard.errors) == 1
    whole = heard.text == "".join(TOKENS) and heard.done == heard.is_stream and not heard.errors
    return "ok" if whole and heard.whole else "error event" if begun and heard.whole else "garbled"


def explained(outcome: str, faults: list[str]) -> bool:
    """Whether the caller had to see that, given what backends were told to do to this request."""
    if outcome == "ok":
        return True
    if outcome == "error event":
        return any(fault.startswith("late") for fault in faults)
    # Two workers that break over a request are enough; one that cannot be reached is replaced once more. Late faults
    # count as well: to a gateway that had to wait, an answer's beginning comes together with its end.
    return outcome in ("502", "503", "504") and len(faults) >= 2


def slope_per_hour(samples: list[tuple[float, int]]) -> float:
    """Bytes an hour, by linear regression over what comes after the warm-up."""
    seconds, sizes = np.array(samples, dtype=float).T
    late = seconds >= WARM_UP_SHARE * seconds[-1]
    return float(np.polyfit(seconds[late], sizes[late], 1)[0] * 3600) if late.sum() > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--rest-s", type=float, default=60, help="quiet time before what is left over is counted")
    parser.add_argument("--seed", type=int, default=0)
    options: Mapping[str, Any] = vars(parser.parse_args())
    plan = Plan(options["minutes"] * 60, options["rate"], options["rest_s"], options["seed"])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(Soak(plan).run(Path(folder)))))


if __name__ == "__main__":
    main()
