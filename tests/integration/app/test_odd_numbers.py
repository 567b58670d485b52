"""Backends that count what cannot be, over real connections: each request ends once, and gives back what it held."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from app.api.access import Access
from app.api.bodies.parsing import parse_chat, parse_embeddings, parse_responses
from app.domain.preferences import Profile
from app.domain.request import Request
from app.domain.usage import MOST_TOKENS
from app.errors import GatewayError
from app.store.keys.key import Budget
from app.upstream.client import UpstreamClient
from app.upstream.poller import Poller
from tests.fakes.backend import USAGE, FakeBackend, Script
from tests.fakes.call import FakeCall
from tests.fakes.gateway import Bench, bench, catalog_of, client_of
from tests.fakes.upstream import chunk, event
from tests.fakes.world import FakeKey, catalog, model

pytestmark = pytest.mark.timing

Kind = Literal["vllm", "openai"]
KEY = FakeKey(budget=Budget(1e6))
CALL = FakeCall(access=Access(catalog(model("small")), {"default": Profile()}))
CHAT = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
RESPONSE = {"model": "small", "input": "hi"}
# JSON has numbers of any length; Python reads up to 4,300 digits.
ODD: dict[str, Any] = {
    "309 digits": 10**308,
    "310 digits": 10**309,
    "4,300 digits": 10**4299,
    "4,300 digits below 0": -(10**4299),
    "a billion": MOST_TOKENS + 1,
    "less than nothing": -1,
    "a fraction": 1.5,
    "a float of 308 digits": 1e308,
    "text": "7",
    "a truth value": True,
    "a list": [],
    "NaN": math.nan,
    "infinity": math.inf,
}


def asked() -> list[Request]:
    """One of each kind."""
    return [
        *(parse_chat({**CHAT, "stream": stream}, CALL) for stream in (False, True)),
        *(parse_responses({**RESPONSE, "stream": stream}, CALL) for stream in (False, True)),
        parse_embeddings({"model": "small", "input": "hi"}, CALL),
    ]


@dataclass
class World:
    bench: Bench
    client: UpstreamClient
    backend: FakeBackend
    asked: int = 0

    async def ask(self, request: Request) -> GatewayError | None:
        """Ask, and read to the end; returns what went wrong, if anything."""
        self.asked += 1
        try:
            served = await self.bench.gateway.complete(request, KEY)
        except GatewayError as exc:
            return exc
        try:
            served.headers()
            b"".join([piece async for piece in served.answer])
        finally:
            served.answer.close()
        return served.answer.error

    def assert_all_is_given_back(self) -> None:
        assert len(self.bench.completed) == self.asked, "each request ends once"
        assert self.bench.in_flight == (0, 0, 0)
        assert self.bench.admission.in_flight == 0
        assert self.bench.events("request.untold") == []
        assert self.bench.metrics.render()


@asynccontextmanager
async def world(kind: Kind = "vllm") -> AsyncIterator[World]:
    async with FakeBackend() as backend:
        the_catalog = catalog_of(small=backend)
        backends = tuple(replace(one, kind=kind) for one in the_catalog.backends)
        the_catalog = replace(the_catalog, backends=backends)
        async with client_of(the_catalog) as client:
            yield World(bench(the_catalog, client), client, backend)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
async def test_a_count_of_tokens_that_cannot_be(odd: object) -> None:
    usages: list[Mapping[str, Any]] = [
        {**USAGE, "prompt_tokens_details": None, "prompt_tokens": odd},
        {**USAGE, "prompt_tokens_details": None, "completion_tokens": odd},
        {**USAGE, "prompt_tokens_details": {"cached_tokens": odd}},
    ]
    async with world() as the_world:
        for usage in usages:
            the_world.backend.script = Script(usage=usage)
            for request in asked():
                await the_world.ask(request)
        the_world.assert_all_is_given_back()
        spent = [line["input_tokens"] + line["output_tokens"] for line in the_world.bench.completed if "model" in line]
    assert max(spent, default=0) < 1000, "what is not believed is counted by what passed"


@pytest.mark.parametrize("odd", ["1" * 400, "9" * 4300, "-1e999", "1e308", '"-1"', "true", "NaN", "-Infinity", "{}"])
async def test_a_log_probability_that_cannot_be(odd: str) -> None:
    told = f'{{"content":[{{"logprob":-1}},{{"logprob":{odd}}},{{"logprob":{odd}}}]}}'
    choice = json.dumps(chunk("hi", "stop")).replace('"finish_reason"', f'"logprobs":{told},"finish_reason"')
    stream, plain = event(choice.encode()) + event(b"[DONE]"), choice.replace("delta", "message").encode()
    async with world() as the_world:
        the_world.backend.script = Script(body=plain, events=stream)
        for request in asked()[:2]:
            await the_world.ask(request)
        the_world.assert_all_is_given_back()


HEADERS = ("retry-after", "retry-after-ms", "x-ratelimit-reset-requests", "x-ratelimit-reset", "ratelimit-reset")


@pytest.mark.parametrize("odd", ["9" * 60, "9" * 1000, "-9", "NaN", "inf", "1e308", "9" * 20 + "h", "\xb2", ""])
@pytest.mark.parametrize("status", [200, 429, 503])
async def test_a_time_to_come_back_that_cannot_be(odd: str, status: int) -> None:
    headers = {**dict.fromkeys(HEADERS, odd), "x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining": "0"}
    async with world("openai") as the_world:
        the_world.backend.script = Script(status=status, headers=headers)
        for request in asked():
            failure = await the_world.ask(request)
            assert failure is None or 0 < (failure.retry_after_s or 1) <= 86_400
        the_world.assert_all_is_given_back()


@pytest.mark.parametrize("odd", ["1" * 400, "1e308", "-5", "NaN", "+Inf", "1e999", "9" * 60, ""])
async def test_a_queue_that_cannot_be(odd: str) -> None:
    """All engines of a worker are summed up, and a request is sent where the sum is smallest."""
    lines = [f'vllm:num_requests_waiting{{engine="{engine}"}} {odd}\n' for engine in "01"]
    async with world() as the_world:
        the_world.backend.metrics = "".join(lines)
        replicas = the_world.bench.replicas
        await Poller(the_world.client, replicas).poll(replicas.all)
        for request in asked():
            assert await the_world.ask(request) is None
        assert all(0 <= seconds < math.inf for seconds in replicas.fleet().wait_s)
        the_world.assert_all_is_given_back()
