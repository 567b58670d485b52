"""A running gateway takes over good configurations and no others, and nobody who calls notices."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.conftest import free_ports
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import write_config
from tests.fakes.mutants import Mutant, mutant
from tests.fakes.process import until
from tests.fakes.program import KEYS, URGENT, Callers, Program, serving

pytestmark = [pytest.mark.slow, pytest.mark.timing, pytest.mark.timeout(900)]

OPERATOR = "sk-operator"
ALL_KEYS = [*KEYS, {"id": "operator", "secret": OPERATOR, "scopes": ["admin:config"]}]
CHAT: Mapping[str, Any] = {
    "model": "small",
    "messages": [{"role": "user", "content": "hi"}],
    "routing": {**URGENT, "explain": True},
}


@dataclass
class World:
    program: Program
    config: Path
    backend: FakeBackend
    session: aiohttp.ClientSession

    def write(self, files: Mutant) -> None:
        """Replace the files as a whole, so that nobody reads half of one."""
        for path, content in ((self.config, files.gateway), (self.config.parent / "catalog.yaml", files.catalog)):
            path.with_suffix(".new").write_bytes(content)
            os.replace(path.with_suffix(".new"), path)  # noqa: PTH105 - atomic

    async def reload(self, secret: str = OPERATOR) -> tuple[int, dict[str, Any]]:
        headers = {"authorization": f"Bearer {secret}"}
        async with self.session.post(f"{self.program.admin}/admin/reload", headers=headers) as answer:
            return answer.status, await answer.json()

    async def sample(self, name: str) -> float:
        async with self.session.get(f"{self.program.admin}/metrics") as page:
            lines = (await page.text()).splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@asynccontextmanager
async def running(folder: Path, script: Script | None = None) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(FakeBackend(script))
        data, admin = free_ports(2)
        listen: dict[str, Any] = {"listen": f"127.0.0.1:{data}", "admin_listen": f"127.0.0.1:{admin}"}
        urls = {"small": backend.url, "large": backend.url}
        config = write_config(folder, urls, keys=ALL_KEYS, **listen, limits={"accept_s": 0, "drain_s": 2})
        program = await stack.enter_async_context(serving(config))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield World(program, config, backend, session)


async def checks_out(config: Path) -> bool:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", "check", "--no-probe", "--config", str(config)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    return await process.wait() == 0


def version_of(files: Mutant) -> str:
    return hashlib.sha256(files.gateway + files.catalog).hexdigest()[:12]


async def test_a_thousand_changes_under_load(tmp_path: Path, full_size: bool) -> None:
    changes, checked_every = (1_000, 25) if full_size else (100, 20)
    async with running(tmp_path, Script(delay_s=0.3)) as world:
        gateway, catalog = (yaml.safe_load((tmp_path / name).read_text()) for name in ("gateway.yaml", "catalog.yaml"))
        callers = Callers(world.program.url, CHAT)
        load = asyncio.create_task(callers.run(per_s=50))
        good: dict[str, int] = {}
        seconds: list[float] = []
        wrong_applied = good_refused = checks_that_differ = 0
        for number in range(changes):
            files = mutant(gateway, catalog, number)
            world.write(files)
            status, said = await world.reload()
            if files.is_wrong:
                wrong_applied += status != 422
                assert said["error"]["code"] == "config_rejected", files.what
            else:
                good_refused += said.get("config") != version_of(files)
                good[version_of(files)] = number
                seconds.append(said["seconds"])
            # Another address is no fault of a file that nothing runs from yet.
            if number % checked_every == 0 and "address" not in files.what:
                checks_that_differ += await checks_out(world.config) is files.is_wrong
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        await world.program.until("request.completed", callers.outcomes["200"])
        rejected, applied = [await world.sample(f"thalamus_config_{what}_total") for what in ("rejected", "applied")]
    served_as = {one.headers["x-request-id"]: one.body["model"] for one in world.backend.requests}
    logged = {one["request_id"]: one["config"] for one in world.program.events("request.completed")}
    mixed, seen, codes = 0, set(), Counter[str]()
    for headers, body in callers.answers:
        answer = json.loads(body)
        if "error" in answer:
            codes[answer["error"]["code"]] += 1
            continue
        request_id, version = headers["x-request-id"], answer["thalamus"]["versions"]["config"]
        seen.add(version)
        if version in good:
            mixed += served_as[request_id] != f"org/small-{good[version]}" or logged[request_id] != version
    figures = {
        "changes": changes,
        "wrong_applied": wrong_applied,
        "good_refused": good_refused,
        "rejected": rejected,
        "applied": applied,
        "requests": sum(callers.outcomes.values()),
        "failed": sum(callers.outcomes.values()) - callers.outcomes["200"],
        "codes": codes,
        "mixed_versions": mixed,
        "versions_seen": len(seen),
        "checks_that_differ": checks_that_differ,
        "seconds_max": max(seconds),
    }
    print(json.dumps(figures))
    assert (wrong_applied, good_refused, checks_that_differ) == (0, 0, 0)
    assert (rejected, applied) == (changes - len(good), len(good))
    assert (figures["failed"], mixed) == (0, 0)
    assert len(seen) > len(good) / 2
    assert max(seconds) <= 1


async def test_a_signal_reads_the_files_again(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        gateway, catalog = (yaml.safe_load((tmp_path / name).read_text()) for name in ("gateway.yaml", "catalog.yaml"))
        files = [mutant(gateway, catalog, number) for number in range(20)]
        right = next(one for one in files if not one.is_wrong)
        world.write(right)
        world.program.send(signal.SIGHUP)
        await world.program.until("config.applied")
        world.write(next(one for one in files if one.is_wrong))
        world.program.send(signal.SIGHUP)
        await world.program.until("config.rejected")
        callers = Callers(world.program.url, CHAT)
        await callers.run(per_s=10, count=1)
        assert json.loads(callers.answers[0][1])["thalamus"]["versions"]["config"] == version_of(right)
    assert world.program.events("config.rejected")[0]["problems"]


async def test_only_a_key_for_it_reloads_and_drains(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        assert (await world.reload("sk-test"))[0] == 403
        assert (await world.reload("nobody"))[0] == 401
        async with world.session.post(
            f"{world.program.url}/admin/reload", headers={"authorization": f"Bearer {OPERATOR}"}
        ) as answer:
            assert answer.status == 404


async def test_a_gateway_that_is_drained_by_hand_serves_on_and_can_come_back(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        url, drain = world.program.url, f"{world.program.admin}/admin/drain"
        operator = {"authorization": f"Bearer {OPERATOR}"}

        async def ready() -> int:
            async with world.session.get(f"{url}/readyz") as answer:
                return answer.status

        async with world.session.post(drain, headers=operator) as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "draining"})
        await until(ready, 503)
        callers = Callers(url, CHAT)
        await callers.run(per_s=100, count=5)
        assert (await ready(), callers.outcomes) == (503, {"200": 5})
        assert {headers.get("connection") for headers, _ in callers.answers} == {"close"}
        async with world.session.delete(drain, headers=operator) as answer:
            assert answer.status == 200
        assert await ready() == 200
        # What is taken back is not held against the process: it can still be asked to stop.
        world.program.send(signal.SIGTERM)
        assert await world.program.process.wait() == 0
