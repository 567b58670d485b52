"""A gateway with keys that its file does not have: over reloads, and as far as its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from app.cli.check import Findings, look_at_what_is_kept
from app.forms.grants import new_grant
from app.settings import load_settings
from app.store.limits.limits import MemoryLimits
from tests.fakes.deployment import Deployment, deployed

CHAT = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 900}


async def chat(deployment: Deployment, key: str) -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{deployment.url}/v1/chat/completions", json=CHAT, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_generated_key_calls_within_its_limits_and_outlives_a_reload(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small", "large") as deployment:
        live = deployment.application.live
        grant = new_grant(models=["small"], requests_per_minute=3, max_tokens=20)
        issued = await live.issuer.create("ann", grant.plain(), "me")
        key = issued.secret.reveal()
        assert (await chat(deployment, key))[0] == 200
        assert deployment.backends["small"].requests[-1].body["max_tokens"] == 20
        await live.reload()
        assert [(await chat(deployment, key))[0] for _ in range(3)] == [200, 200, 429]
        await live.issuer.revoke(issued.record.id, "me")
        assert (await chat(deployment, key))[0] == 401
        again = await live.issuer.create("ann", grant.plain(), "me")
        assert (await chat(deployment, again.secret.reveal()))[0] == 200


async def test_a_reload_that_leaves_a_key_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with deployed(tmp_path, "small", "large", profiles={"cheap": {"weights": {"cost": 1.0}}}) as deployment:
        live = deployment.application.live
        grants: tuple[dict[str, Any], ...] = (
            {"models": ["large"]},
            {"models": ["*"], "profiles": ["cheap"]},
            {"models": ["small"]},
            {"models": [], "scopes": ["admin:keys"]},
        )
        made = [await live.issuer.create("ann", new_grant(**grant).plain(), "me") for grant in grants]
        catalog, gateway = tmp_path / "catalog.yaml", tmp_path / "gateway.yaml"
        content = yaml.safe_load(catalog.read_text())
        catalog.write_text(yaml.safe_dump(content | {"models": content["models"][:1]}))
        gateway.write_text(yaml.safe_dump(yaml.safe_load(gateway.read_text()) | {"profiles": {}}))
        await live.reload()
        shut_out = live.now.access.shut_out(live.keys.ring.keys)
    assert sorted(shut_out) == sorted(one.record.id for one in made[:2])
    assert '"event":"keys.shut_out"' in capsys.readouterr().err
    findings = Findings()
    await look_at_what_is_kept(findings, load_settings(gateway))
    assert (findings.shut_out, findings.problems) == (shut_out, [])
    assert [f"key {one} names models" in line for one, line in zip(shut_out, findings.warnings, strict=True)] == [
        True
    ] * 2


async def test_limits_forget_a_key_that_was_ended(tmp_path: Path) -> None:
    async with deployed(tmp_path, "small", "large") as deployment:
        live = deployment.application.live
        limits = live.now.admission.ledger.limits
        assert isinstance(limits, MemoryLimits)
        issued = await live.issuer.create("ann", new_grant().plain(), "me")
        await chat(deployment, issued.secret.reveal())
        assert issued.record.id in limits._states
        await live.issuer.revoke(issued.record.id, "me")
        assert issued.record.id not in limits._states
