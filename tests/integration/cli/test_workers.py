"""Several workers on one port are one gateway: for callers, for operators, and for the limits of a key."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import yaml

from app.settings import Files
from tests.conftest import free_ports
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import SECRET, write_config
from tests.fakes.moody import Moody
from tests.fakes.mutants import mutant
from tests.fakes.process import until
from tests.fakes.program import KEYS, URGENT, Callers, Program, serving

pytestmark = [pytest.mark.slow, pytest.mark.timing]

WORKERS = 2
OPERATOR = "sk-operator"
LIMITED: dict[str, Any] = {
    "id": "limited",
    "secret": "sk-limited",
    "models": ["*"],
    "tokens_per_minute": None,
    "max_priority": "high",
}
CHAT: Mapping[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "routing": URGENT}


@dataclass
class World:
    program: Program
    config: Path
    backend: Moody
    session: aiohttp.ClientSession

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.program.process.pid).children()

    def listening(self) -> int:
        """How many workers take connections."""
        listening = 0
        for worker in self.workers():
            with suppress(psutil.Error):
                listening += any(one.status == psutil.CONN_LISTEN for one in worker.net_connections("tcp"))
        return listening

    async def whole(self) -> None:
        """Wait until a worker that died has been replaced."""
        await until(self.listening, WORKERS, 30)

    async def metrics(self) -> dict[str, float]:
        async with self.session.get(f"{self.program.admin}/metrics") as page:
            lines = [line for line in (await page.text()).splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    async def post(self, path: str) -> int:
        headers = {"authorization": f"Bearer {OPERATOR}"}
        async with self.session.post(f"{self.program.admin}{path}", headers=headers) as answer:
            return answer.status

    async def ask(self, secret: str) -> int:
        """With a connection of its own, so that any worker may get it."""
        headers = {"authorization": f"Bearer {secret}", "connection": "close"}
        async with self.session.post(
            f"{self.program.url}/v1/chat/completions", json=dict(CHAT), headers=headers
        ) as answer:
            await answer.read()
            return answer.status

    async def is_left_alone(self) -> bool:
        """Whether the backend sees nothing of ten requests, whichever workers get them."""
        asked = self.backend.asked
        for _ in range(10):
            await self.ask("sk-limited")
        return self.backend.asked == asked


@asynccontextmanager
async def running(folder: Path, script: Script | None = None, **limited: Any) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(Moody(script))
        data, admin = free_ports(2)
        listen: dict[str, Any] = {"listen": f"127.0.0.1:{data}", "admin_listen": f"127.0.0.1:{admin}"}
        operator = {"id": "operator", "secret": OPERATOR, "scopes": ["admin:config"]}
        keys = [*KEYS, operator, {**LIMITED, **limited}]
        limits = {"accept_s": 1, "drain_s": 5}
        other = await stack.enter_async_context(FakeBackend())
        urls = {"small": backend.url, "large": other.url}
        config = write_config(folder, urls, keys=keys, limits=limits, workers=WORKERS, **listen)
        program = await stack.enter_async_context(serving(config))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield World(program, config, backend, session)


async def test_they_share_the_work_and_are_counted_together(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        assert len(world.workers()) == WORKERS
        callers = Callers(world.program.url, CHAT, aiohttp.TCPConnector(force_close=True))
        await callers.run(per_s=100, count=150)
        metrics = await world.metrics()
        seconds = [worker.cpu_times().user for worker in world.workers()]
        # What a worker had counted when it was last asked is not lost with it.
        os.kill(world.workers()[0].pid, signal.SIGKILL)
        await world.program.until("worker.died")
        after = await world.metrics()
    print(json.dumps({"requests": 150, "outcomes": callers.outcomes, "cpu_s_by_worker": seconds}))
    assert callers.outcomes == {"200": 150}
    assert metrics['thalamus_requests_total{operation="chat",outcome="ok"}'] == 150
    assert metrics["thalamus_requests_in_flight"] == 0
    assert after['thalamus_requests_total{operation="chat",outcome="ok"}'] == 150


async def test_who_an_operator_has_out_is_asked_by_no_worker_nor_by_one_that_starts(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        replica = world.backend.url.partition("://")[2]
        eject = f"/admin/eject?replica={replica}"
        assert await world.post("/admin/eject?replica=nowhere") == 404
        assert await world.post(eject) == 200
        assert await world.is_left_alone()
        os.kill(world.workers()[0].pid, signal.SIGKILL)
        await world.whole()
        assert await world.is_left_alone()
        up = {line: value for line, value in (await world.metrics()).items() if line.startswith("thalamus_replica_up")}
        assert [value for line, value in up.items() if replica in line] == [0]
        headers = {"authorization": f"Bearer {OPERATOR}"}
        async with world.session.delete(f"{world.program.admin}{eject}", headers=headers) as answer:
            assert await answer.json() == {"ejected": []}
        await until_answered(world)


async def until_answered(world: World) -> None:
    """Both workers have heard that the backend may be asked again."""
    for _ in range(100):
        if [await world.ask("sk-limited") for _ in range(10)] == [200] * 10:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("somebody still sends nobody there")


async def test_a_key_has_its_limits_once_not_once_per_worker(tmp_path: Path) -> None:
    async with running(tmp_path, Script(delay_s=1), concurrency=7, requests_per_minute=20) as world:
        began_at = time.monotonic()
        outcomes = [Counter(await asyncio.gather(*(world.ask("sk-limited") for _ in range(40)))) for _ in range(2)]
        assert outcomes == [{200: 7, 429: 33}] * 2
        world.backend.script = Script()
        last = Counter([await world.ask("sk-limited") for _ in range(20)])
        took_s = time.monotonic() - began_at
    print(json.dumps({"of_a_minutes_20": 14 + last[200], "took_s": round(took_s, 1)}))
    # One more is there after three seconds.
    assert 20 <= 14 + last[200] <= 21 + took_s / 3


@pytest.mark.parametrize("workers", [1, WORKERS])
async def test_it_answers_and_stops_where_it_has_no_standard_streams(tmp_path: Path, workers: int) -> None:
    data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    config = write_config(
        tmp_path, {"small": "http://127.0.0.1:9"}, listen=data, admin_listen=admin, workers=workers, keys=KEYS
    )
    command = (sys.executable, "-m", "app.cli", "serve", "--config", str(config))
    process = await asyncio.create_subprocess_exec("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command)
    try:
        await until(lambda: _healthy(data), True, 60)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()


async def _healthy(address: str) -> bool:
    with suppress(aiohttp.ClientConnectionError):
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}/healthz") as answer:
            return answer.status == 200
    return False


async def test_a_worker_that_is_killed_is_replaced_and_what_it_held_is_given_back(tmp_path: Path) -> None:
    async with running(tmp_path, Script(hang=True), concurrency=6, requests_per_minute=None) as world:
        stuck = [asyncio.create_task(world.ask("sk-limited")) for _ in range(6)]
        await world.backend.until(in_flight=6)
        counted = (await world.metrics())["thalamus_requests_in_flight"]
        for number, worker in enumerate(world.workers()):
            os.kill(worker.pid, signal.SIGKILL)
            await world.program.until("worker.died", number + 1)
            # Nobody is refused meanwhile: the others answer.
            world.backend.script = Script()
            callers = Callers(world.program.url, CHAT, aiohttp.TCPConnector(force_close=True))
            await callers.run(per_s=100, count=100)
            assert callers.outcomes == {"200": 100}
            await world.whole()
        gone = await asyncio.gather(*stuck, return_exceptions=True)
        again = Counter(await asyncio.gather(*(world.ask("sk-limited") for _ in range(6))))
        metrics = await world.metrics()
        assert len(world.workers()) == WORKERS
    assert (counted, len(gone), again) == (6, 6, {200: 6})
    assert all(isinstance(one, aiohttp.ClientError) for one in gone)
    assert metrics["thalamus_worker_deaths_total"] == WORKERS
    assert {event["status"] for event in world.program.events("worker.died")} == {-9}


async def test_a_replica_that_one_of_them_takes_out_is_out_for_all(tmp_path: Path) -> None:
    async with running(tmp_path, Script(status=500), requests_per_minute=None) as world:
        for _ in range(40):
            await world.ask("sk-limited")
            if world.program.events("replica.ejected"):
                break
        await until(world.is_left_alone, True)
        asked = world.backend.asked
        outcomes = Counter([await world.ask("sk-limited") for _ in range(20)])
        metrics = await world.metrics()
        assert (world.backend.asked, outcomes) == (asked, {503: 20})
        assert len(world.program.events("replica.ejected")) == 1
        assert metrics['thalamus_replicas_out{backend="small"}'] == 1
        # One that starts now is told as well.
        os.kill(world.workers()[0].pid, signal.SIGKILL)
        await world.program.until("worker.died")
        await world.whole()
        await until(world.is_left_alone, True)
        outcomes = Counter([await world.ask("sk-limited") for _ in range(20)])
        assert outcomes == {503: 20}
        assert len(world.program.events("replica.ejected")) == 1


async def test_all_of_them_take_a_configuration_over_or_none(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        gateway, catalog = (yaml.safe_load((tmp_path / name).read_text()) for name in ("gateway.yaml", "catalog.yaml"))
        files = [mutant(gateway, catalog, number) for number in range(20)]
        callers = Callers(world.program.url, {**CHAT, "routing": {**URGENT, "explain": True}})
        load = asyncio.create_task(callers.run(per_s=50))
        statuses = Counter[tuple[bool, int]]()
        last = ""
        for one in files:
            world.config.write_bytes(one.gateway)
            (tmp_path / "catalog.yaml").write_bytes(one.catalog)
            statuses[one.is_wrong, await world.post("/admin/reload")] += 1
            last = last if one.is_wrong else Files(one.gateway, one.catalog).version
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        after = Callers(world.program.url, callers.body, aiohttp.TCPConnector(force_close=True))
        await after.run(per_s=50, count=50)
        seen = {json.loads(body)["thalamus"]["versions"]["config"] for _, body in after.answers}
    print(json.dumps({"reloads": len(files), "outcomes": callers.outcomes, "versions_at_the_end": len(seen)}))
    assert statuses.keys() == {(False, 200), (True, 422)}
    assert callers.outcomes.keys() == {"200"}
    assert seen == {last}


async def test_a_worker_that_starts_late_has_the_configuration_of_the_others_whatever_the_files_say(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as world:
        world.config.write_text("nonsense: true\n")
        assert await world.post("/admin/reload") == 422
        os.kill(world.workers()[0].pid, signal.SIGKILL)
        await world.program.until("worker.died")
        callers = Callers(world.program.url, CHAT, aiohttp.TCPConnector(force_close=True))
        await callers.run(per_s=50, count=50)
        await world.whole()
        assert len(world.workers()) == WORKERS
        assert len(world.program.events("worker.died")) == 1
        assert callers.outcomes == {"200": 50}


async def test_they_are_drained_together(tmp_path: Path) -> None:
    async with running(tmp_path, Script(tuple("abcdefghij"), event_delay_s=0.2)) as world:
        callers = Callers(world.program.url, {**CHAT, "stream": True}, aiohttp.TCPConnector(force_close=True))
        load = asyncio.create_task(callers.run(per_s=30, count=30))
        await until(lambda: world.backend.in_flight >= 15, True)
        world.program.send(signal.SIGTERM)
        assert await asyncio.wait_for(world.program.process.wait(), 10) == 0
        await load
    late = sum(outcome != "200" for _, outcome in callers.ended)
    whole = sum(b"[DONE]" in body for _, body in callers.answers)
    print(json.dumps({"outcomes": callers.outcomes, "streams_whole": whole}))
    assert whole == callers.outcomes["200"] == 30 - late
    assert whole >= 28
    assert world.program.events()[-1]["event"] == "gateway.stopped"


async def test_what_keeps_one_of_them_from_starting_is_said_once(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"small": "http://169.254.169.254"}, workers=WORKERS)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "serve", "--config", str(config)), stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert said.decode().count("169.254.169.254") == 1
    assert SECRET not in said.decode()


async def test_workers_without_a_store_remember_sessions_together(tmp_path: Path) -> None:
    """Whichever of them gets the next request of an open tool call, it is answered by the model that made the call."""
    called = [{"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}]
    said = [
        {"role": "user", "content": "what is it?"},
        {"role": "assistant", "tool_calls": called},
        {"role": "tool", "tool_call_id": "c", "content": "a cat"},
    ]
    headers = {"authorization": f"Bearer {LIMITED['secret']}", "connection": "close"}
    async with running(tmp_path, concurrency=None, requests_per_minute=None) as world:

        async def ask(model: str, session: str) -> tuple[str, str]:
            body = {"model": model, "messages": said, "routing": {**URGENT, "session_id": session}}
            async with world.session.post(
                f"{world.program.url}/v1/chat/completions", json=body, headers=headers
            ) as one:
                return one.headers["x-thalamus-model"], one.headers["x-thalamus-reason"]

        for number in range(20):
            await ask("large", f"s-{number}")
        await asyncio.sleep(0.2)
        within = Counter([await ask("auto", f"s-{number}") for number in range(20)])
        without = Counter([await ask("auto", f"other-{number}") for number in range(20)])
    print(json.dumps({"workers": WORKERS, "sessions_that_went_on": within["large", "session"]}))
    assert within == {("large", "session"): 20}
    assert without == {("small", "default"): 20}


async def test_a_worker_that_cannot_be_started_again_is_tried_until_it_can(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        parent = psutil.Process(world.program.process.pid)
        before = parent.rlimit(psutil.RLIMIT_NOFILE)
        # It keeps what it has open, and gets nothing more.
        parent.rlimit(psutil.RLIMIT_NOFILE, (8, before[1]))
        os.kill(world.workers()[0].pid, signal.SIGKILL)
        await world.program.until("worker.died", 3)
        left = len(world.workers())
        parent.rlimit(psutil.RLIMIT_NOFILE, before)
        await world.whole()
        assert (left, len(world.workers())) == (WORKERS - 1, WORKERS)
        whys = [event.get("why") for event in world.program.events("worker.died")]
    assert whys[0] is None
    assert set(whys[1:]) == {"a worker cannot be started: Too many open files"}
