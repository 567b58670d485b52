"""Every route on both listeners, under every disguise and with every key: nobody gets in who should not."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.api import Plane
from app.api.policy import PUBLIC
from app.store.keys.key import SCOPES
from tests.fakes.deployment import Deployment, deployed

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

# One key for each scope, that has nothing else; their secrets say so.
KEYS = [
    {"id": scope, "secret": f"sk-{scope}", "models": ["*"], "scopes": [scope], "budget": None}
    | dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency"))
    for scope in sorted(SCOPES)
]
EXPIRED = {
    "id": "gone",
    "secret": "sk-expired",
    "models": ["*"],
    "scopes": sorted(SCOPES),
    "expires_at": "2020-01-01T00:00:00Z",
}
ELSEWHERE = {
    "id": "elsewhere",
    "secret": "sk-elsewhere",
    "models": ["*"],
    "scopes": sorted(SCOPES),
    "source_cidrs": ["192.0.2.0/24"],
}
SECRETS: Mapping[str, frozenset[str]] = {
    "": frozenset(),
    "sk-wrong": frozenset(),
    "sk-expired": frozenset(),
    "sk-elsewhere": frozenset(),
    **{f"sk-{scope}": frozenset({scope}) for scope in SCOPES},
}
# How a path is written, and headers that go with it. Only with the first ones is it still the path of a route.
DISGUISES: Mapping[str, tuple[str, str]] = {
    "plain": ("{}", ""),
    "a query": ("{}?key=sk-inference&path=/healthz", ""),
    "a web socket": ("{}", "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"),
    "forwarded": ("{}", "x-forwarded-for: 127.0.0.1\r\nx-original-url: /healthz\r\nx-forwarded-prefix: /x\r\n"),
    "another method": ("{}", "x-http-method-override: GET\r\nx-method-override: GET\r\n"),
    "encoded": ("ENCODED", ""),
    "slashes": ("/{}", ""),
    "an encoded slash": ("/%2f{}", ""),
    "a parent": ("/healthz/..{}", ""),
    "a parent and a parameter": ("/healthz/..;{}", ""),
    "a parameter": ("{};x=1", ""),
    "a trailing slash": ("{}/", ""),
    "a trailing dot": ("{}/.", ""),
    "upper case": ("UPPER", ""),
    "an address": ("http://127.0.0.1{}", ""),
    "an end": ("{}%00", ""),
}
STILL_A_PATH = frozenset(list(DISGUISES)[:6])
HOSTS = ("gateway", "gateway/healthz?x=", "a@b", "127.0.0.1:8081", "localhost#")
METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "TRACE", "PUT")
BODIES: Mapping[str, Any] = {
    "/v1/chat/completions": {"model": "small", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/routing/explain": {"model": "small", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"model": "small", "prompt": "hi"},
    "/v1/responses": {"model": "small", "input": "hi"},
    "/v1/embeddings": {"model": "small", "input": "hi"},
}
_PLACES = itertools.count()


@dataclass(frozen=True)
class Asked:
    """One call, and whether it may succeed."""

    port: int
    method: str
    path: str
    disguise: str
    host: str
    secret: str
    may: bool

    def sent(self) -> bytes:
        """As it travels."""
        shape, headers = DISGUISES[self.disguise]
        encoded = "/%" + self.path[1:2].encode().hex() + self.path[2:]
        target = {"ENCODED": encoded, "UPPER": self.path.upper()}.get(shape, shape.format(self.path))
        body = json.dumps(BODIES.get(self.path, {})).encode() if self.method in ("POST", "PUT") else b""
        key = f"authorization: Bearer {self.secret}\r\n" if self.secret else ""
        length = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
        close = "" if "connection:" in headers else "connection: close\r\n"
        return (
            f"{self.method} {target} HTTP/1.1\r\nhost: {self.host}\r\n{key}{length}{close}{headers}\r\n".encode() + body
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    folder: Path = tmp_path_factory.mktemp("routes")
    async with deployed(folder, "small", keys=[*KEYS, EXPIRED, ELSEWHERE]) as running:
        yield running


def routes(plane: Plane) -> Mapping[tuple[str, str], str]:
    """The scope by method and path, of the paths of a listener."""
    found = {
        (method, re.sub(r"\{\w+(:\w+)?\}", "small", route.path)): route.endpoint.needed_scope  # type: ignore[attr-defined]
        for route in plane.app.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    return found | {("POST", path): one.rule.scope for path, one in plane.front.operations.items()}


def all_calls(deployment: Deployment) -> Iterator[Asked]:
    planes = (
        (deployment.port, routes(deployment.application.data)),
        (int(deployment.admin_url.rpartition(":")[2]), routes(deployment.application.admin)),
    )
    paths = sorted({path for _, known in planes for _, path in known})
    for (port, known), path, method in itertools.product(planes, paths, METHODS):
        scope = known.get(("GET" if method == "HEAD" else method, path))
        for disguise, (secret, scopes) in itertools.product(DISGUISES, SECRETS.items()):
            may = scope is not None and disguise in STILL_A_PATH and (scope == PUBLIC or scope in scopes)
            # A name in the path may be anything, so what is added to it may still be the path of a route.
            host = HOSTS[0] if disguise != "plain" else random.choice(HOSTS)
            yield Asked(port, method, path, disguise, host, secret, may)


async def status_of(asked: Asked) -> int:
    """0 when the connection was closed without an answer. Each call comes from an address of its own."""
    place = next(_PLACES)
    address = (f"127.{1 + place // 60_000 % 250}.{place // 240 % 250}.{1 + place % 240}", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", asked.port, local_addr=address)
    try:
        writer.write(asked.sent())
        async with asyncio.timeout(20):
            head = await reader.readline()
    except ConnectionError:
        return 0
    finally:
        writer.close()
    return int(head.split()[1]) if head else 0


def thinned(calls: Iterator[Asked], share: float) -> Iterator[Asked]:
    """All that may succeed or are plain, and a share of the others."""
    return (one for one in calls if one.may or one.disguise == "plain" or random.random() < share)


@pytest.mark.slow
async def test_nothing_succeeds_that_should_not(deployment: Deployment, full_size: bool) -> None:
    random.seed(7)
    calls = list(thinned(all_calls(deployment), 1.0 if full_size else 0.05))
    if not full_size:
        calls = random.sample(calls, 3_000)
    gate, unexpected, succeeded = asyncio.Semaphore(16), [], set()

    async def ask(asked: Asked) -> None:
        async with gate:
            status = await status_of(asked)
        if 200 <= status < 300 and asked.may:
            succeeded.add((asked.port, asked.method, asked.path))
        elif 100 <= status < 300 or status >= 500:
            unexpected.append((status, asked))

    await asyncio.gather(*(ask(one) for one in calls))
    print(json.dumps({"S5": {"calls": len(calls), "unexpected_2xx": len(unexpected), "reached": len(succeeded)}}))
    # A gateway that drains says 503 where it is asked whether it is ready.
    assert [one for one in unexpected if one[1].path != "/readyz"] == []
    assert len(succeeded) >= 10


async def test_unknown_revoked_expired_and_misplaced_keys_hear_the_same(deployment: Deployment) -> None:
    heard = set()
    for secret in ("sk-wrong", "sk-expired", "sk-elsewhere", "rk_live_x"):
        reader, writer = await asyncio.open_connection("127.0.0.1", deployment.port, local_addr=("127.251.0.1", 0))
        writer.write(Asked(0, "GET", "/v1/models", "plain", "x", secret, may=False).sent())
        heard.add((await reader.read()).rpartition(b"\r\n\r\n")[2])
        writer.close()
    (answer,) = heard
    assert json.loads(answer)["error"]["code"] == "invalid_api_key"


async def test_who_calls_too_often_without_a_key_waits_on_both_listeners(deployment: Deployment) -> None:
    ports = (deployment.port, int(deployment.admin_url.rpartition(":")[2]))
    statuses = []
    for call in range(24):
        path = "/v1/models" if call % 2 == 0 else "/admin/keys"
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[call % 2], local_addr=("127.252.0.1", 0))
        writer.write(Asked(0, "GET", path, "plain", "x", "sk-wrong", may=False).sent())
        answer = await reader.read()
        statuses.append(int(answer.split()[1]))
        writer.close()
    assert statuses == [401] * 20 + [429] * 4
    assert re.search(rb"retry-after: (60|5\d)\r\n", answer)
