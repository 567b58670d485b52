"""Malformed requests over real sockets: each gets the documented status and code, and a message that says what to
change; none reaches a backend, and none leaves anything behind."""

from __future__ import annotations

import gc
import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from tests.fakes.deployment import PLAIN_SECRET, SECRET, Deployment, deployed

MESSAGES = [{"role": "user", "content": "hello"}]
GOOD: Mapping[str, Any] = {"model": "auto", "messages": MESSAGES}
MIB = 1 << 20

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Bad:
    """A request, and what is to come of it."""

    name: str
    body: Any
    """What is sent: bytes as they are, anything else as JSON."""
    status: int
    code: str
    says: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    method: str = "POST"

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def chat(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


def routing(**fields: Any) -> dict[str, Any]:
    return chat(routing=fields)


def message(**fields: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": "hello", **fields}])


PICTURE = [{"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}]

BAD = [
    Bad("no JSON", b'{"model": "auto", ', 400, "invalid_request", "not valid JSON"),
    Bad("a list", [1], 400, "invalid_request", "must be a JSON object"),
    Bad(
        "a key twice",
        b'{"model": "small", "model": "large", "messages": []}',
        400,
        "invalid_request",
        "'model' occurs twice",
        "model",
    ),
    Bad("NaN", b'{"model": "auto", "temperature": NaN}', 400, "invalid_request", "NaN is not JSON"),
    Bad("half a character", b'{"model": "\\ud800"}', 400, "invalid_request", "whole characters"),
    Bad("a number of 5,000 digits", b'{"seed": %s}' % (b"1" * 5000), 400, "invalid_request", "20 digits"),
    Bad("depth 3,000", b'{"a":' * 3000 + b"1" + b"}" * 3000, 400, "invalid_request", "deeper than 32 levels"),
    Bad("10 MiB", b'{"model": "%s"}' % (b"x" * 10 * MIB), 413, "too_large", "larger than 4194304 bytes"),
    Bad("compressed", b"\x1f\x8b", 415, "unsupported_media", "uncompressed", headers={"content-encoding": "gzip"}),
    Bad("a form", b"model=auto", 415, "unsupported_media", "as JSON", headers={"content-type": "text/plain"}),
    Bad("no model", {"messages": MESSAGES}, 400, "invalid_request", "model is missing", "model"),
    Bad("an unknown model", chat(model="gpt-9"), 404, "model_not_found", "'gpt-9' does not exist", "model"),
    Bad("an unknown profile", chat(model="auto:magic"), 404, "model_not_found", "'auto:magic'", "model"),
    Bad(
        "a model of somebody else",
        chat(model="large"),
        404,
        "model_not_found",
        "does not exist for this key",
        "model",
        {"authorization": f"Bearer {PLAIN_SECRET}"},
    ),
    Bad("no messages", {"model": "auto"}, 400, "invalid_request", "at least one message", "messages"),
    Bad("messages of the wrong type", chat(messages="hello"), 400, "invalid_request", "a list of messages", "messages"),
    Bad("too many messages", chat(messages=MESSAGES * 2049), 400, "invalid_request", "more than 2048", "messages"),
    Bad("an unknown role", message(role="robot"), 400, "invalid_request", "must be one of system", "messages[0].role"),
    Bad(
        "an unknown key in a message",
        message(mood="good"),
        400,
        "unsupported_parameter",
        "messages[0].mood",
        "messages[0].mood",
    ),
    Bad(
        "a message without content",
        message(content=None),
        400,
        "invalid_request",
        "is missing; send a text",
        "messages[0].content",
    ),
    Bad(
        "a picture from elsewhere",
        message(content=PICTURE),
        400,
        "invalid_request",
        "must be a data: URL",
        "messages[0].content[0].image_url.url",
    ),
    Bad(
        "an unknown field", chat(frequency=1), 400, "unsupported_parameter", "frequency is not a parameter", "frequency"
    ),
    Bad(
        "a field that is for operators",
        chat(chat_template="{{x}}"),
        400,
        "unsupported_parameter",
        "leave it out",
        "chat_template",
    ),
    Bad(
        "template arguments without leave",
        chat(chat_template_kwargs={"a": 1}),
        403,
        "not_allowed",
        "leave it out",
        "chat_template_kwargs",
    ),
    Bad("a million choices", chat(n=10**6), 400, "invalid_request", "from 1 to 4", "n"),
    Bad("a temperature in words", chat(temperature="hot"), 400, "invalid_request", "from 0 to 2", "temperature"),
    Bad(
        "options of a stream without one",
        chat(stream_options={}),
        400,
        "invalid_request",
        "leave it out",
        "stream_options",
    ),
    Bad(
        "two limits on tokens",
        chat(max_tokens=5, max_completion_tokens=6),
        400,
        "invalid_request",
        "send one of them",
        "max_tokens",
    ),
    Bad("routing as a text", chat(routing="cheap"), 400, "invalid_request", "must be an object", "routing"),
    Bad(
        "an unknown routing key",
        routing(max_prize=1),
        400,
        "unsupported_parameter",
        "there are weights",
        "routing.max_prize",
    ),
    Bad(
        "an unknown weight",
        routing(weights={"coast": 1}),
        400,
        "unsupported_parameter",
        "there are cost",
        "routing.weights.coast",
    ),
    Bad(
        "a negative weight",
        routing(weights={"cost": -1}),
        400,
        "invalid_request",
        "a number from 0",
        "routing.weights.cost",
    ),
    Bad(
        "a limit of the wrong type",
        routing(max_cost_usd="cheap"),
        400,
        "invalid_request",
        "a number, 0 or more",
        "routing.max_cost_usd",
    ),
    Bad(
        "two ways to say one thing",
        routing(weights={"cost": 1}, max_quality_loss=0.1),
        400,
        "invalid_request",
        "leave one out",
        "routing.max_quality_loss",
    ),
    Bad(
        "min_quality without its scope",
        routing(min_quality=0.5),
        403,
        "not_allowed",
        "scope route:upgrade",
        "routing.min_quality",
    ),
    Bad(
        "a priority above the key's", routing(priority="high"), 403, "not_allowed", "at most normal", "routing.priority"
    ),
    Bad(
        "an explanation without its scope",
        routing(explain=True),
        403,
        "not_allowed",
        "scope route:explain",
        "routing.explain",
        {"authorization": f"Bearer {PLAIN_SECRET}"},
    ),
    Bad(
        "a flag in a header",
        GOOD,
        400,
        "invalid_flag",
        "there are only cost",
        "x-thalamus-weights",
        {"x-thalamus-weights": "coast=1"},
    ),
    Bad(
        "NaN in a header",
        GOOD,
        400,
        "invalid_request",
        "each a number from 0",
        "x-thalamus-weights",
        {"x-thalamus-weights": "cost=nan"},
    ),
    Bad("an impossible constraint", routing(max_size_b=1), 422, "no_eligible_model", "max_size_b", "routing"),
    Bad(
        "constraints in conflict",
        routing(models=["small"], exclude=["small"]),
        422,
        "no_eligible_model",
        "exclude",
        "routing",
    ),
    Bad("too long a context", message(content="word " * 20_000), 400, "context_length_exceeded", "4096", "messages"),
    Bad(
        "a call that goes in circles",
        GOOD,
        400,
        "invalid_request",
        "gateways",
        "x-thalamus-hop",
        {"x-thalamus-hop": "3"},
    ),
    Bad("no key", GOOD, 401, "invalid_api_key", "authorization: Bearer", headers={"authorization": ""}),
    Bad("a wrong key", GOOD, 401, "invalid_api_key", "send a valid key", headers={"authorization": "Bearer sk-wrong"}),
    Bad(
        "a key in another scheme", GOOD, 401, "invalid_api_key", "Bearer", headers={"authorization": f"Basic {SECRET}"}
    ),
    Bad(
        "a key without the scope",
        None,
        403,
        "not_allowed",
        "scope models:read",
        path="/v1/models",
        method="GET",
        headers={"authorization": f"Bearer {PLAIN_SECRET}"},
    ),
    Bad("an unknown path", GOOD, 404, "not_found", "begins at /v1", path="/v2/chat/completions"),
    Bad("a path with a slash too many", GOOD, 404, "not_found", "no such path", path="//v1/chat/completions"),
    Bad("a trailing slash", GOOD, 404, "not_found", "no such path", path="/v1/chat/completions/"),
    Bad("a wrong method", None, 405, "method_not_allowed", "it takes POST", method="GET"),
    Bad("no prompt", {"model": "auto"}, 400, "invalid_request", "prompt is missing", "prompt", path="/v1/completions"),
    Bad(
        "an unknown decision",
        None,
        404,
        "decision_not_found",
        "no decision dec-x",
        path="/v1/routing/decisions/dec-x",
        method="GET",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployed(tmp_path_factory.mktemp("config"), "small", "large") as running:
        yield running


async def send(session: aiohttp.ClientSession, url: str, bad: Bad) -> tuple[int, Mapping[str, str], bytes]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {SECRET}", **bad.headers}
    body = None if bad.method == "GET" else io.BytesIO(bad.content)
    async with session.request(bad.method, url + bad.path, data=body, headers=headers) as response:
        return response.status, response.headers, await response.read()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
async def test_a_malformed_request_is_told_what_to_change(bad: Bad, deployment: Deployment) -> None:
    async with aiohttp.ClientSession() as session:
        status, headers, body = await send(session, deployment.url, bad)
    assert status == bad.status, body
    assert headers["x-request-id"]
    error = json.loads(body)["error"]
    assert error["code"] == bad.code
    assert bad.says in error["message"]
    assert error["param"] == bad.param
    assert error["type"]
    assert [backend.calls for backend in deployment.backends.values()] == [0, 0]


@pytest.mark.slow
async def test_malformed_requests_leave_no_memory_behind(deployment: Deployment, full_size: bool) -> None:
    async with aiohttp.ClientSession() as session:

        async def _round() -> None:
            for bad in BAD:
                await send(session, deployment.url, bad)

        for _ in range(3):
            await _round()
        gc.collect()
        before = psutil.Process().memory_info().rss
        for _ in range(100 if full_size else 8):
            await _round()
        gc.collect()
        assert psutil.Process().memory_info().rss - before < 16 * MIB
