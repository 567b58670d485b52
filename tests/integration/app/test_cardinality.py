"""Whatever callers invent, the metrics do not grow: ten thousand models, users, headers and paths make no series."""

from __future__ import annotations

import json
import time
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.deployment import SECRET, Deployment, deployed

pytestmark = [pytest.mark.slow, pytest.mark.timing]

CALLS = 10
"""Of one name."""
FIRST = 62
"""After 20 unknown keys an address, and after 60 ratings a key, hears another answer, which is a series of its own."""
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


async def junk(session: aiohttp.ClientSession, deployment: Deployment, name: str) -> None:
    """One call of each kind in which a caller says a name of his own."""
    url = f"{deployment.url}/v1/chat/completions"
    headers = {"authorization": f"Bearer {SECRET}"}
    named = {**headers, f"x-{name}": name, "x-request-id": name, "x-thalamus-weights": f"{name}=1"}
    for sent, body in (
        (headers, {"model": name, "messages": MESSAGES}),
        (headers, {"model": f"auto:{name}", "messages": MESSAGES}),
        (headers, {"model": "small", "messages": MESSAGES, "user": name}),
        (headers, {"model": "small", "messages": MESSAGES, "routing": {"session_id": name, "priority": name}}),
        (named, {"model": "small", "messages": MESSAGES}),
        ({"authorization": f"Bearer {name}"}, {"model": "small", "messages": MESSAGES}),
        (headers, {"model": "auto", "messages": MESSAGES, "routing": {"regions": [name]}}),
        (headers, {"model": "auto", "messages": MESSAGES, "routing": {"max_latency_s": 60, "deadline_s": 60}}),
    ):
        async with session.post(url, json=body, headers=sent) as answer:
            await answer.read()
    async with session.request("GET", f"{deployment.url}/v1/{name}", headers=headers) as answer:
        assert answer.status == 404
    thinks = {"decision_id": name, "score": 0.5}
    async with session.post(f"{deployment.url}/v1/routing/feedback", json=thinks, headers=headers) as answer:
        await answer.read()


def _names(page: bytes) -> set[bytes]:
    """Of all series."""
    return {line.rpartition(b" ")[0] for line in page.splitlines()}


async def test_names_that_callers_invent_make_no_series(tmp_path: Path, full_size: bool) -> None:
    names = 10_000 // CALLS if full_size else 40
    async with deployed(tmp_path, "small") as deployment, aiohttp.ClientSession() as session:

        async def metrics() -> bytes:
            async with session.get(f"{deployment.admin_url}/metrics") as answer:
                assert answer.status == 200
                return await answer.read()

        for number in range(FIRST):
            await junk(session, deployment, f"first-{number}")
        before = await metrics()
        for number in range(names):
            await junk(session, deployment, f"junk-{number}")
        began_at = time.perf_counter()
        page = await metrics()
        took_s = time.perf_counter() - began_at
    grown = len(page.splitlines()) - len(before.splitlines())
    print(f"\n{json.dumps({'calls': CALLS * names, 'grown': grown, 'bytes': len(page), 'took_s': round(took_s, 4)})}")
    assert grown == 0, sorted(_names(page) - _names(before))
    assert b"junk" not in page
    assert len(page) <= 1 << 20
    assert took_s <= (0.1 if full_size else 0.3)
