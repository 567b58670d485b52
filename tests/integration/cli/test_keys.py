"""Keys of a running gateway: the first one, and those that are made and ended beside it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.conftest import free_ports
from tests.fakes.backend import FakeBackend
from tests.fakes.deployment import write_config
from tests.fakes.program import Program, serving

KEY = re.compile(r"rk_[a-z]+_[0-9A-Za-z]{12}_[0-9A-Za-z_-]{43}_[0-9A-Za-z]{6}")
ADMIN: Mapping[str, Any] = {
    "id": "admin",
    "secret": "sk-admin",
    "models": ["*"],
    "scopes": ["inference", "embeddings", "models:read", "route:explain", "route:feedback", "admin:keys"],
    "budget": {"usd": 20},
}


def config_of(folder: Path, url: str = "http://127.0.0.1:9", **changes: Any) -> Path:
    data, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
    return write_config(folder, {"small": url}, **{"listen": data, "admin_listen": admin, **changes})


def _allow_loopback(path: Path) -> None:
    catalog = yaml.safe_load(path.read_text())
    for backend in catalog["backends"]:
        backend["allow_cidr"] = ["127.0.0.0/8"]
    path.write_text(yaml.safe_dump(catalog))


async def thalamus(config: Path, *words: str) -> tuple[int, str]:
    """The exit status of a command, and all that it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.cli", *words, "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def made(config: Path, *words: str) -> dict[str, Any]:
    status, said = await thalamus(config, "keys", *words, "--json")
    assert status == 0, said
    found: dict[str, Any] = json.loads(said)
    return found


@asynccontextmanager
async def caller() -> AsyncIterator[aiohttp.ClientSession]:
    """One connection, that is kept."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        yield session


async def models(session: aiohttp.ClientSession, program: Program, key: str, *, close: bool = False) -> tuple[int, str]:
    headers = {"authorization": f"Bearer {key}"} | ({"connection": "close"} if close else {})
    async with session.get(f"{program.url}/v1/models", headers=headers) as answer:
        return answer.status, await answer.text()


async def seconds_until(session: aiohttp.ClientSession, program: Program, key: str, status: int) -> float:
    began_at = time.monotonic()
    async with asyncio.timeout(20):
        while (await models(session, program, key))[0] != status:
            await asyncio.sleep(0.2)
    return time.monotonic() - began_at


async def test_the_first_start_shows_a_key_once_and_what_it_grants(tmp_path: Path) -> None:
    config = config_of(tmp_path, keys=[])
    async with serving(config) as program, caller() as session:
        said = program.log.read_text()
        (key,) = KEY.findall(said)
        assert "60 requests a minute, 100,000 tokens a minute, 8 requests at a time" in said
        assert "10 USD a day, hard" in said
        assert (await models(session, program, key))[0] == 200
        assert (await models(session, program, "sk-anything"))[0] == 401
        assert (await models(session, program, ""))[0] == 401
    async with serving(config) as program, caller() as session:
        assert KEY.findall(program.log.read_text()) == []
        assert (await models(session, program, key))[0] == 200


async def test_a_listener_for_others_needs_a_key_that_was_made_on_purpose(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    config = config_of(tmp_path, keys=[], listen=f"0.0.0.0:{port}")
    _allow_loopback(tmp_path / "catalog.yaml")
    status, said = await thalamus(config, "serve")
    assert (status, KEY.findall(said)) == (1, [])
    assert "keys: expected at least one, because the listener is not on loopback" in said
    key = await made(config, "create", "ann")
    async with serving(config) as program, caller() as session:
        async with session.get(
            f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {key['key']}"}
        ) as answer:
            assert answer.status == 200
        assert KEY.findall(program.log.read_text()) == []


async def test_a_running_gateway_follows_also_on_connections_that_are_kept(tmp_path: Path) -> None:
    config = config_of(tmp_path, keys=[ADMIN])
    async with serving(config) as program, caller() as session:
        key = await made(config, "create", "ann", "--rpm", "none")
        seen_s = await seconds_until(session, program, key["key"], 200)
        new = await made(config, "rotate", key["id"], "--grace-hours", "1")
        await seconds_until(session, program, new["key"], 200)
        assert (await models(session, program, key["key"]))[0] == 200
        await made(config, "revoke", key["id"])
        gone_s = await seconds_until(session, program, new["key"], 401)
        _, revoked = await models(session, program, key["key"])
        _, unknown = await models(session, program, "sk-unknown")
    print(json.dumps({"key seen after_s": round(seen_s, 2), "gone after_s": round(gone_s, 2)}))
    assert max(seen_s, gone_s) < 5
    assert revoked == unknown


@pytest.mark.slow
async def test_several_workers_and_their_parent_know_the_same_keys(tmp_path: Path) -> None:
    async with FakeBackend(models=("org/small",)) as backend:
        config = config_of(tmp_path, backend.url, keys=[ADMIN], workers=2)
        async with serving(config) as program, caller() as session:
            headers = {"authorization": "Bearer sk-admin"}
            wanted = {"name": "bob", "models": ["small"], "requests_per_minute": 60}
            async with session.post(f"{program.admin}/admin/keys", json=wanted, headers=headers) as answer:
                key = await answer.json()
                assert answer.status == 201, key
            await asyncio.sleep(5)
            statuses = {(await models(session, program, key["key"], close=True))[0] for _ in range(20)}
            assert statuses == {200}
            async with session.delete(f"{program.admin}/admin/keys/{key['id']}", headers=headers) as answer:
                assert answer.status == 200
            await asyncio.sleep(5)
            statuses = {(await models(session, program, key["key"], close=True))[0] for _ in range(15)}
            assert statuses == {401}
            (created,) = program.events("key.created")
            assert (created["by"], created["key"]) == ("admin", key["id"])
