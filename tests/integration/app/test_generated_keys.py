"""A gateway with keys that its file does not have: over reloads, and as far as its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from app.grants import new_grant
from app.store.limits import MemoryLimits
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
