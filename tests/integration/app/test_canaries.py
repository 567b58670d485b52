"""S13: what callers, workers and operators keep secret shows up nowhere that others look. Prints what was planted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.fakes.backend import FakeBackend, Script
from tests.fakes.deployment import GATEWAY
from tests.fakes.process import GatewayProcess, gateway_process

pytestmark = pytest.mark.slow

MARK = "zq7canary"
# What a worker answers is for the caller, and for nobody else.
SAID = "zq7said"
CALLERS_KEY, WORKERS_KEY = f"sk-{MARK}-caller", f"sk-{MARK}-worker"
CHAT = "/v1/chat/completions"
IN_AN_ERROR = {"message": f"cannot read {MARK}-err", "type": "server_error", "param": None, "code": "x"}

# Answers that a worker may give; what is in them is between it and the caller, if anybody's.
FAULTS: Mapping[str, Script] = {
    "answers": Script(tokens=(SAID, ".")),
    "500": Script(status=500, error=IN_AN_ERROR),
    "503": Script(status=503, error=IN_AN_ERROR),
    "429": Script(status=429, error=IN_AN_ERROR),
    "401": Script(status=401, error=IN_AN_ERROR),
    "302": Script(status=302, headers={"location": f"http://127.0.0.1/{MARK}-loc"}),
    "no JSON": Script(body=f"<html>{MARK}-htm".encode()),
    "an error in a 200": Script(error=IN_AN_ERROR),
    "headers of its own": Script(headers={"set-cookie": f"{MARK}-set", "server": f"{MARK}-srv"}),
    "reset": Script(reset=True),
    "cut": Script(tokens=(SAID,) * 4, cut_after=3),
    "garbage": Script(tokens=(SAID,) * 4, garbage_after=2),
    "an error in its stream": Script(error_after=2),
    "hangs": Script(hang=True),
}


class Planted:
    """Makes canaries, and looks for them."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.made: list[str] = [CALLERS_KEY, WORKERS_KEY]

    def __call__(self) -> str:
        self.made.append(f"{MARK}{next(self._numbers):03d}")
        return self.made[-1]

    def body(self, **changes: Any) -> dict[str, Any]:
        """A chat with one in everything that a caller may write."""
        call = {"id": self(), "type": "function", "function": {"name": self(), "arguments": self()}}
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": self()},
            {"role": "user", "content": f"[flag: {self()}]\n{self()}"},
            {"role": "assistant", "content": self(), "tool_calls": [call]},
            {"role": "tool", "content": self(), "tool_call_id": call["id"]},
            {"role": "user", "content": [{"type": "text", "text": self()}], "name": self()},
        ]
        tool = {"type": "function", "function": {"name": self(), "description": self()}}
        told = {"user": self(), "safety_identifier": self(), "prompt_cache_key": self(), "metadata": {"a": self()}}
        routing = {"session_id": self()}
        return {
            "model": "auto",
            "messages": messages,
            "tools": [tool],
            "stop": [self()],
            "routing": routing,
            **told,
            **changes,
        }

    def headers(self, key: str = CALLERS_KEY) -> dict[str, str]:
        names = ("cookie", "user-agent", "referer", "x-custom", "x-api-key", "x-forwarded-for", "traceparent")
        return {"authorization": f"Bearer {key}", **{name: self() for name in names}, "x-request-id": f"no {self()}"}


def told_to_everybody(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All that the gateway wrote; its configuration is what it was given."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".yaml":
            yield str(path), path.read_bytes()


async def all_faults(session: aiohttp.ClientSession, backend: FakeBackend, planted: Planted) -> list[bytes]:
    """What callers hear while a worker fails in each way, once plain and once as a stream; headers first."""
    heard = []
    for script, stream in itertools.product(FAULTS.values(), (False, True)):
        backend.script = script
        heard.append(await asked(session, CHAT, planted.headers(), planted.body(stream=stream)))
    return heard


async def refused(session: aiohttp.ClientSession, planted: Planted) -> list[bytes]:
    """What callers hear that nobody lets in."""
    wrong = [
        (CHAT, planted.headers(key=planted()), planted.body()),
        (f"{CHAT}?key={planted()}", planted.headers(), planted.body()),
        (f"/v1/{planted()}", planted.headers(), planted.body()),
        (CHAT, planted.headers(), planted.body(temperature=planted())),
        (CHAT, planted.headers(), planted.body(messages=[{"role": planted(), "content": planted()}])),
        (CHAT, planted.headers(), planted.body(messages=[{"role": "user", "content": {planted(): planted()}}])),
        (CHAT, planted.headers(), planted.body(routing={"max_cost_usd": planted()})),
        (CHAT, planted.headers(), planted.body(routing={"max_cost_usd": 1e-12})),
        (CHAT, {**planted.headers(), "x-thalamus-max-cost-usd": planted()}, planted.body()),
        (CHAT, {**planted.headers(), "x-thalamus-hop": planted()}, planted.body()),
        (CHAT, {**planted.headers(), "content-type": planted()}, planted.body()),
        ("/v1/embeddings", planted.headers(), {"model": "auto", "input": [planted()], "user": planted()}),
        ("/v1/responses", planted.headers(), {"model": "auto", "input": planted(), "previous_response_id": planted()}),
        ("/v1/routing/explain", planted.headers(), planted.body()),
    ]
    return [await asked(session, path, headers, body) for path, headers, body in wrong]


async def misnamed(session: aiohttp.ClientSession, planted: Planted) -> list[bytes]:
    """What callers hear of fields that nobody knows: the name that they wrote, and who else reads it learns nothing."""
    routing = [{planted(): planted()}, {"weights": {planted(): 1}}, {"exclude": {planted(): 1}}]
    bodies = [planted.body(**{planted(): planted()}), *(planted.body(routing=one) for one in routing)]
    bodies.append(planted.body(messages=[{"role": "user", "content": planted(), planted(): 1}]))
    bodies.append(planted.body(metadata={planted(): 1}))
    heard = [await asked(session, CHAT, planted.headers(), body) for body in bodies]
    twice = planted()
    heard.append(await sent(session, CHAT, planted.headers(), f'{{"{twice}": 1, "{twice}": 2}}'))
    return heard


async def asked(session: aiohttp.ClientSession, path: str, headers: Mapping[str, str], body: Any) -> bytes:
    return await sent(session, path, headers, json.dumps(body))


async def sent(session: aiohttp.ClientSession, path: str, headers: Mapping[str, str], text: str) -> bytes:
    send = {"content-type": "application/json", **headers}
    async with session.post(path, data=text, headers=send) as answer:
        told = [f"{name}: {value}" for name, value in answer.headers.items()]
        return "\n".join([str(answer.status), *told, ""]).encode() + await answer.read()


async def metrics(gateway: GatewayProcess) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.admin_url}/metrics") as page:
        return await page.read()


async def test_secrets_and_prompts_stay_out_of_all_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKERS_KEY", WORKERS_KEY)
    planted = Planted()
    key = {**GATEWAY["keys"][0], "secret": CALLERS_KEY, "max_priority": "high", "flags_in_prompt": False}
    upstream = {**GATEWAY["upstream"], "first_byte_timeout_s": 0.5, "idle_timeout_s": 0.5}
    async with (
        FakeBackend() as backend,
        gateway_process(
            tmp_path, {"small": backend.url}, {"key_env": "WORKERS_KEY"}, keys=[key], upstream=upstream
        ) as gateway,
        aiohttp.ClientSession(gateway.url) as session,
    ):
        backend.key = WORKERS_KEY
        names = await misnamed(session, planted)
        heard = await refused(session, planted)
        heard += await all_faults(session, backend, planted)
        page = await metrics(gateway)
        most_core_bytes, _ = gateway.seen_by_system.rlimit(psutil.RLIMIT_CORE)
        passed_on = json.dumps([dict(one.headers) for one in backend.requests]).replace(WORKERS_KEY, "")
    written = list(told_to_everybody(tmp_path))
    pages = [*written, ("metrics", page)]
    leaks = [name for name, content in pages if MARK.encode() in content or SAID.encode() in content]
    repeated = [one[:500] for one in heard if MARK.encode() in one]
    statuses = sorted({int(one[:3]) for one in heard})
    figures = {
        "planted": len(planted.made),
        "calls": len(heard) + len(names),
        "statuses": statuses,
        "files": len(written),
    }
    print(json.dumps({"test": "S13", **figures, "leaks": len(leaks) + len(repeated)}))
    assert len(planted.made) >= 50
    assert {200, 400, 401, 404, 415, 422, 502} <= set(statuses)
    assert any(SAID.encode() in one for one in heard)
    assert {one[:3] for one in names} == {b"400"}
    assert not leaks
    assert most_core_bytes == 0
    assert not repeated
    assert MARK not in passed_on
