"""Sessions over HTTP: named as clients name them, and the same at every gateway on one Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.store.sessions import PREFIX
from tests.fakes.caller import hear, session_to
from tests.fakes.deployment import FIRST_KEYS, deployed
from tests.fakes.process import until
from tests.fakes.redis_server import running_redis

CALL = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
IN_TOOL_CALL = [
    {"role": "user", "content": "what is it?"},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "a cat"},
]
URGENT = {"priority": "high"}


async def ask(session: aiohttp.ClientSession, headers: Mapping[str, str] | None = None, **fields: Any) -> list[str]:
    """Who answered, and why."""
    heard = await hear(session, headers, messages=IN_TOOL_CALL, **{"routing": URGENT, **fields})
    assert heard.status == 200, heard.body
    return [heard.headers["x-thalamus-model"], heard.headers["x-thalamus-reason"]]


@pytest.mark.parametrize(
    "named",
    [
        {"routing": {**URGENT, "session_id": "s-1"}},
        {"headers": {"x-thalamus-session-id": "s-1"}},
        {"headers": {"x-session-id": "s-1"}},
        {"headers": {"x-session-affinity": "s-1"}},
        {"prompt_cache_key": "s-1"},
    ],
    ids=["routing", "our header", "another's header", "affinity", "prompt_cache_key"],
)
async def test_an_open_tool_call_stays_with_its_model_however_the_session_is_named(
    tmp_path: Path, named: dict[str, Any]
) -> None:
    async with deployed(tmp_path, "small", "large", keys=FIRST_KEYS) as running, session_to(running.url) as session:
        assert await ask(session, model="large", **named) == ["large", "named"]
        assert await ask(session, **named) == ["large", "session"]
        assert await ask(session) == ["small", "default"]
        received = [one for backend in running.backends.values() for one in backend.requests]
    assert len(received) == 3
    assert "s-1" not in str(received)


@asynccontextmanager
async def two_gateways(folder: Path, store: str) -> AsyncIterator[list[aiohttp.ClientSession]]:
    async with AsyncExitStack() as stack:
        sessions = []
        for name in ("one", "other"):
            (folder / name).mkdir()
            running = await stack.enter_async_context(
                deployed(folder / name, "small", "large", keys=FIRST_KEYS, store=store)
            )
            sessions.append(await stack.enter_async_context(session_to(running.url)))
        yield sessions


async def test_gateways_on_one_redis_know_each_other_s_sessions_and_answer_without_it(tmp_path: Path) -> None:
    named = {"headers": {"x-session-id": "s-1"}}
    with running_redis(tmp_path, known=True) as redis:
        async with two_gateways(tmp_path, redis.url) as (one, other):
            await ask(one, model="large", **named)
            # What is remembered is written while the answer is on its way.
            await until(lambda: len(redis.do("KEYS", f"{PREFIX}*")), 1)
            assert await ask(other, **named) == ["large", "session"]
            redis.kill()
            assert await ask(one, **named) == ["large", "session"]
            assert await ask(other, headers={"x-session-id": "s-2"}) == ["small", "default"]
