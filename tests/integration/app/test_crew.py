"""A parent and its worker, from within the parent: what it does when it cannot start one, and of one that is late."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from app.assembly.generated_keys import GeneratedKeys, watched_keys
from app.crew.member import Member, Patience
from app.crew.parent import Crew
from app.errors import ConfigRejected, UsageError
from app.settings import Address, load_settings
from app.telemetry import Telemetry
from app.telemetry.logging import EventLog
from router_models.storage.artifact import write_artifact
from tests.conftest import free_ports
from tests.fakes.artifacts import tiny_artifact
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.caller import chat
from tests.fakes.deployment import FIRST_KEYS, write_config
from tests.fakes.process import until

pytestmark = [pytest.mark.slow, pytest.mark.timing]

STARTS_WITHIN_S = 60.0


class LateCrew(Crew):
    """What a worker begins with reaches it late: after something else was done."""

    meanwhile: Callable[[], Any] | None = None

    async def _answer(self, member: Member, what: str, value: Any) -> Any:
        answer = await super()._answer(member, what, value)
        if what == "files" and self.meanwhile:
            await self.meanwhile()
        return answer


@dataclass
class World:
    crew: LateCrew
    backend: FakeBackend
    config: Path
    address: Address
    log: io.StringIO = field(repr=False)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]

    def change_secret(self, secret: str) -> None:
        content = yaml.safe_load(self.config.read_text())
        content["keys"][0]["secret"] = secret
        self.config.write_text(yaml.safe_dump(content))

    async def ask(self, secret: str) -> int | None:
        """The status of an answer; None where nobody takes the call."""
        headers = {"authorization": f"Bearer {secret}", "connection": "close"}
        url = f"http://{self.address}/v1/chat/completions"
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, json=chat(model="small"), headers=headers) as answer,
            ):
                await answer.read()
                return answer.status
        except aiohttp.ClientConnectionError:
            return None


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A crew of one worker that was not started yet."""
    async with FakeBackend() as backend:
        data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
        urls = {"small": backend.url}
        config = write_config(tmp_path, urls, keys=FIRST_KEYS, listen=data, admin_listen=admin)
        settings, log = load_settings(config), io.StringIO()
        async with watched_keys(settings, None) as keys, crew_of(settings, log, keys) as crew:
            yield World(crew, backend, config, settings.listen, log)


@asynccontextmanager
async def crew_of(settings: Any, log: io.StringIO, keys: GeneratedKeys) -> AsyncIterator[LateCrew]:
    crew = LateCrew(settings, 1, Telemetry(log=EventLog(log)), keys)
    try:
        yield crew
    finally:
        await crew.aclose()


def taken(address: Address) -> socket.socket:
    """Somebody else at this address, who shares it with nobody."""
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind((address.host, address.port))
    other.listen()
    return other


async def test_a_worker_that_was_starting_during_a_reload_has_the_new_configuration(world: World) -> None:
    async def reload() -> None:
        world.crew.meanwhile = None
        world.change_secret("sk-new")
        await world.crew.reload()

    world.crew.meanwhile = reload
    await asyncio.wait_for(world.crew.start(), STARTS_WITHIN_S)
    [member] = world.crew._members
    await until(lambda: member.version, world.crew.settings.version, 10)
    assert [await world.ask(secret) for secret in ("sk-new", FIRST_KEYS[0]["secret"])] == [200, 401]
    assert len(world.events("config.applied")) == 1


@asynccontextmanager
async def standing_still(member: Member) -> AsyncIterator[None]:
    """The worker does nothing in this block."""
    assert member.process
    os.kill(member.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(member.process.pid, signal.SIGCONT)


async def test_a_stop_that_reaches_the_workers_as_signals_too_cuts_nothing(world: World) -> None:
    await asyncio.wait_for(world.crew.start(), STARTS_WITHIN_S)
    [member] = world.crew._members
    assert member.process
    world.backend.script = Script(delay_s=2.0)
    asked = asyncio.create_task(world.ask(FIRST_KEYS[0]["secret"]))
    await until(lambda: world.backend.in_flight, 1)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        os.kill(member.process.pid, number)
    await world.crew.stop(20.0, asyncio.Event(), accept=False)
    assert await asked == 200
    assert all(keeper.done() for keeper in world.crew._keepers), "it was not killed for being late"


async def test_a_stop_in_a_hurry_cuts_what_is_in_flight(world: World) -> None:
    await asyncio.wait_for(world.crew.start(), STARTS_WITHIN_S)
    world.backend.script, hurried = Script(delay_s=9.0), asyncio.Event()
    asked = asyncio.create_task(world.ask(FIRST_KEYS[0]["secret"]))
    await until(lambda: world.backend.in_flight, 1)
    hurried.set()
    async with asyncio.timeout(5.0):
        await world.crew.stop(20.0, hurried, accept=True)
    assert await asked == 503


async def test_a_worker_that_finds_another_artifact_than_the_others_waits_for_a_reload(tmp_path: Path) -> None:
    write_artifact(tmp_path / "tiny-v1", tiny_artifact(rows=200))
    async with FakeBackend() as backend:
        data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
        predicted: dict[str, Any] = {"artifact": "tiny-v1", "predictor_limit_s": 5, "predicted": True}
        urls = {"small": backend.url, "large": backend.url}
        config = write_config(tmp_path, urls, keys=FIRST_KEYS, listen=data, admin_listen=admin, **predicted)
        settings, log = load_settings(config), io.StringIO()
        async with watched_keys(settings, None) as keys, crew_of(settings, log, keys) as crew:
            world = World(crew, backend, config, settings.listen, log)
            await asyncio.wait_for(crew.start(), STARTS_WITHIN_S)
            shutil.rmtree(tmp_path / "tiny-v1")
            write_artifact(tmp_path / "tiny-v1", tiny_artifact(rows=240))
            [member] = crew._members
            assert member.process
            member.process.kill()
            await until(lambda: len(world.events("worker.died")) > 1, True, STARTS_WITHIN_S)
            assert "differs from what the other workers run" in world.events("worker.died")[1]["why"]
            await crew.reload()
            await until(lambda: world.ask(FIRST_KEYS[0]["secret"]), 200, STARTS_WITHIN_S)


async def test_metrics_do_without_a_worker_that_stands_still(world: World) -> None:
    await asyncio.wait_for(world.crew.start(), STARTS_WITHIN_S)
    [member] = world.crew._members
    member.patience = Patience(silent_s=0.5)
    assert await world.ask(FIRST_KEYS[0]["secret"]) == 200
    answered = b'thalamus_requests_total{operation="chat",outcome="ok"} 1.0'
    assert answered in await world.crew.metrics()
    async with standing_still(member), asyncio.timeout(10):
        both = await asyncio.gather(world.crew.metrics(), world.crew.metrics())
        assert all(answered in metrics for metrics in both), "what it counted before is kept"
        await until(world.crew.ready, False)
        await until(lambda: [event["number"] for event in world.events("worker.silent")], [0])
        assert len(member.channel._waiting if member.channel else ()) == 1, "it is asked once"
    await until(world.crew.ready, True, 10)
    assert await world.ask(FIRST_KEYS[0]["secret"]) == 200
    assert answered.replace(b" 1.0", b" 2.0") in await world.crew.metrics()


async def test_a_reload_that_a_worker_does_not_answer_is_refused(world: World) -> None:
    await asyncio.wait_for(world.crew.start(), STARTS_WITHIN_S)
    [member] = world.crew._members
    member.patience = Patience(reload_s=0.5)
    world.change_secret("sk-new")
    async with standing_still(member), asyncio.timeout(10):
        with pytest.raises(ConfigRejected) as caught:
            await world.crew.reload()
        assert "worker 0 did not answer within 0.5 s" in (caught.value.details or {})["problems"][0]
        world.change_secret("sk-newer")
        with pytest.raises(ConfigRejected):
            await world.crew.reload()
    member.patience = Patience()
    await until(lambda: world.ask(FIRST_KEYS[0]["secret"]), 200, 10)
    world.change_secret("sk-newest")
    await world.crew.reload()
    secrets = ("sk-newest", "sk-newer", "sk-new", FIRST_KEYS[0]["secret"])
    assert [await world.ask(secret) for secret in secrets] == [200, 401, 401, 401]


async def test_a_first_worker_that_the_system_does_not_let_start_is_the_failure_of_the_start(world: World) -> None:
    with taken(world.address), pytest.raises(UsageError, match="a worker cannot be started: Address already in use"):
        await asyncio.wait_for(world.crew.start(), STARTS_WITHIN_S)
    assert world.events("worker.died") == []


async def test_a_first_worker_that_hangs_is_the_failure_of_the_start(world: World) -> None:
    [member] = world.crew._members
    member.patience = Patience(start_s=0.5)
    world.crew.meanwhile = asyncio.Event().wait
    with pytest.raises(UsageError, match=r"a worker did not start within 0\.5 s"):
        await asyncio.wait_for(world.crew.start(), STARTS_WITHIN_S)


async def test_a_worker_that_hangs_when_it_is_started_again_gives_way_to_another_one(world: World) -> None:
    await asyncio.wait_for(world.crew.start(), STARTS_WITHIN_S)
    [member] = world.crew._members
    assert member.process
    member.patience = Patience(start_s=0.5)
    world.crew.meanwhile = asyncio.Event().wait
    member.process.kill()
    await until(lambda: len(world.events("worker.died")), 2, 10)
    world.crew.meanwhile, member.patience = None, Patience()
    await until(lambda: world.ask(FIRST_KEYS[0]["secret"]), 200, STARTS_WITHIN_S)
    assert [event.get("why") for event in world.events("worker.died")][:2] == [
        None,
        "a worker did not start within 0.5 s",
    ]


async def test_a_worker_that_the_system_does_not_let_start_again_is_tried_again(world: World) -> None:
    await asyncio.wait_for(world.crew.start(), STARTS_WITHIN_S)
    [pid] = [member.process.pid for member in world.crew._members if member.process]
    os.kill(pid, signal.SIGKILL)
    await until(lambda: len(world.events("worker.died")), 1)
    with taken(world.address):
        await until(lambda: len(world.events("worker.died")), 3, 10)
    await until(lambda: world.ask(FIRST_KEYS[0]["secret"]), 200, STARTS_WITHIN_S)
    told = [(event.get("status"), event.get("why")) for event in world.events("worker.died")]
    assert told[0] == (-9, None)
    assert set(told[1:]) == {(None, "a worker cannot be started: Address already in use")}
