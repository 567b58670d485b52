"""Responses and embeddings over real connections: the same protections, and the official client reads the answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from app.api.access import Access
from app.api.bodies.parsing import parse_embeddings, parse_responses
from app.domain.preferences import Profile
from app.domain.request import Request
from app.errors import UpstreamError
from app.upstream.served import Served
from tests.fakes.backend import TOKENS, FakeBackend, Script
from tests.fakes.call import FakeCall
from tests.fakes.gateway import Bench, bench, catalog_of, client_of
from tests.fakes.other_answers import VECTOR
from tests.fakes.world import FakeKey, catalog, model

pytestmark = pytest.mark.timing

KEY = FakeKey()
TEXT = "".join(TOKENS)
ACCESS = Access(catalog(model("small"), model("large")), {"default": Profile()})
CALL = FakeCall(access=ACCESS)


def asked(**fields: Any) -> Request:
    return parse_responses({"model": "auto", "input": "What is the capital of France?", **fields}, CALL)


def embedding(**fields: Any) -> Request:
    return parse_embeddings({"model": "small", "input": ["one", "two"], **fields}, CALL)


@asynccontextmanager
async def two_backends(script: Script | None = None) -> AsyncIterator[tuple[Bench, FakeBackend, FakeBackend]]:
    async with FakeBackend(script) as small, FakeBackend() as large:
        the_catalog = catalog_of(small=small, large=large)
        async with client_of(the_catalog) as client:
            yield bench(the_catalog, client), small, large


async def read(served: Served) -> bytes:
    try:
        return b"".join([piece async for piece in served.answer])
    finally:
        await served.answer.aclose()


def openai_reading(sent: bytes, stream: bool) -> AsyncOpenAI:
    """The official client, in front of somebody who answers with these bytes."""
    kind = "text/event-stream" if stream else "application/json"
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers={"content-type": kind}, content=sent))
    return AsyncOpenAI(api_key="x", base_url="http://test/v1", http_client=httpx2.AsyncClient(transport=transport))


async def listen(sent: bytes, said: list[str]) -> None:
    """Put down what is said in a stream, as the official client reads it."""
    stream = await openai_reading(sent, stream=True).responses.create(model="x", input="x", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            said.append(event.delta)  # noqa: PERF401 - what was said before an error counts


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_a_response_is_forwarded_answered_recorded_and_billed(stream: bool) -> None:
    async with two_backends() as (world, small, _):
        await read(await world.gateway.complete(asked(stream=stream, max_output_tokens=5), KEY))
        assert (small.requests[0].path, world.in_flight) == ("/v1/responses", (0, 0, 0))
        assert small.requests[0].body == {
            "model": "small",
            "input": "What is the capital of France?",
            "max_output_tokens": 5,
            "stream": stream,
            "store": False,
        }
        (record,) = world.completed
    seen = {name: record[name] for name in ("operation", "outcome", "input_tokens", "output_tokens", "usage_counted")}
    assert seen == {
        "operation": "responses",
        "outcome": "ok",
        "input_tokens": 7,
        "output_tokens": 6,
        "usage_counted": False,
    }
    assert record["cost_usd"] == pytest.approx(19e-6)


async def test_embeddings_are_forwarded_answered_recorded_and_billed() -> None:
    async with two_backends() as (world, small, _):
        sent = await read(await world.gateway.complete(embedding(dimensions=3), KEY))
        assert (small.requests[0].path, world.in_flight) == ("/v1/embeddings", (0, 0, 0))
        assert small.requests[0].body == {"model": "small", "input": ["one", "two"], "dimensions": 3}
        (record,) = world.completed
    answer = json.loads(sent)
    assert [one["embedding"] for one in answer["data"]] == [list(VECTOR)] * 2
    assert (record["operation"], record["outcome"], record["input_tokens"], record["output_tokens"]) == (
        "embeddings",
        "ok",
        7,
        0,
    )
    assert record["cost_usd"] == pytest.approx(7e-6)


FAILURES = {
    "resets": Script(reset=True),
    "says 503": Script(status=503),
    "resets after the head": Script(head_then_reset=True),
    "is cut before the first delta": Script(cut_after=4),
    "answers with an error in a 200": Script(error={"message": "no"}, error_after=2),
    "answers with garbage": Script(garbage_after=3, body=b'{"output": ['),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_another_model_responds_whole_when_the_chosen_one_fails_before_its_first_output(
    failure: Script, stream: bool
) -> None:
    async with two_backends(failure) as (world, _, _):
        served = await world.gateway.complete(asked(stream=stream), KEY)
        sent = await read(served)
    assert (served.candidate.model.name, served.attempts, sent.count(b"event: response.created")) == (
        "large",
        2,
        int(stream),
    )
    assert b'"model":"large"' in sent.replace(b": ", b":")


@pytest.mark.parametrize("cut_with_reset", [True, False], ids=["reset", "end"])
@pytest.mark.parametrize("drip_bytes", [None, 3])
async def test_a_response_that_is_cut_makes_the_official_client_raise(
    cut_with_reset: bool, drip_bytes: int | None
) -> None:
    script = Script(cut_after=7, cut_with_reset=cut_with_reset, drip_bytes=drip_bytes)
    async with two_backends(script) as (world, _, large):
        sent = await read(await world.gateway.complete(asked(stream=True), KEY))
        assert (large.calls, [record["outcome"] for record in world.completed]) == (0, ["upstream_disconnected"])
    said: list[str] = []
    with pytest.raises(openai.APIError, match="answer was cut") as raised:
        await listen(sent, said)
    assert (said, raised.value.code) == ([*TOKENS[:3]], "upstream_disconnected")


async def test_the_official_client_reads_a_stream_of_events() -> None:
    async with two_backends(Script(drip_bytes=5)) as (world, _, _):
        sent = await read(await world.gateway.complete(asked(stream=True), KEY))
    stream = await openai_reading(sent, stream=True).responses.create(model="x", input="x", stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    last = events[-1]
    assert last.type == "response.completed"
    assert (last.response.output_text, last.response.model) == (TEXT, "small")
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_the_official_client_reads_a_call_of_a_function() -> None:
    script = Script(tool_call={"name": "add", "arguments": '{"a": 1}'})
    async with two_backends(script) as (world, _, _):
        sent = await read(await world.gateway.complete(asked(), KEY))
    answer = await openai_reading(sent, stream=False).responses.create(model="x", input="x")
    (call,) = answer.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("add", '{"a": 1}')


async def test_the_official_client_reads_embeddings() -> None:
    async with two_backends() as (world, _, _):
        sent = await read(await world.gateway.complete(embedding(encoding_format="base64"), KEY))
    answer = await openai_reading(sent, stream=False).embeddings.create(model="x", input=["one", "two"])
    assert [one.embedding for one in answer.data] == [list(VECTOR)] * 2
    assert (answer.model, answer.usage.prompt_tokens) == ("small", 7)


async def test_a_backend_may_have_other_names_for_the_fields_of_a_response() -> None:
    names: Mapping[str, str | None] = {"reasoning": None, "max_output_tokens": "most"}
    async with two_backends() as (world, small, _):
        for replica in world.replicas.of("small"):
            replica.backend = replace(replica.backend, rename=names)
        await read(await world.gateway.complete(asked(reasoning={"effort": "low"}, max_output_tokens=5), KEY))
    assert small.requests[0].body.keys() == {"model", "input", "stream", "store", "most"}


LATE: dict[str, Callable[[], Request]] = {"responses": asked, "embeddings": embedding}


@pytest.mark.parametrize("make", LATE.values(), ids=LATE.keys())
async def test_a_backends_own_refusal_is_passed_on(make: Callable[[], Request]) -> None:
    script = Script(status=400, error={"message": "too long", "type": "BadRequestError", "param": "input", "code": 400})
    async with two_backends(script) as (world, _, large):
        with pytest.raises(UpstreamError) as refused:
            await world.gateway.complete(make(), KEY)
        assert (refused.value.status, large.calls, world.in_flight) == (400, 0, (0, 0, 0))
