"""Failures of real connections: another model answers before the first byte, an error event ends it after that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from app.errors import UpstreamBroken, UpstreamRateLimited, UpstreamRejected, UpstreamTimeout
from app.upstream.served import Served
from tests.fakes.backend import TOKENS, USAGE, FakeBackend, Script
from tests.fakes.gateway import Bench, bench, catalog_of, client_of
from tests.fakes.upstream import texts
from tests.fakes.world import FakeKey, catalog, model, request

pytestmark = pytest.mark.timing

KEY = FakeKey()
TEXT = "".join(TOKENS)
STREAMED = replace(request(stream=True), max_tokens=1)
PLAIN = replace(request(), max_tokens=1)

FAILURES = {
    "resets": Script(reset=True),
    "says 503": Script(status=503),
    "says 500": Script(status=500, error={"message": "EngineCore encountered an issue."}),
    "says 429": Script(status=429, headers={"retry-after": "1"}),
    "never answers": Script(hang=True),
    "resets after the head": Script(head_then_reset=True),
    "is cut before the first event": Script(cut_after=0),
    "answers with an error in a 200": Script(error={"message": "no"}, error_after=0),
    "answers with garbage": Script(garbage_after=0, body=b'{"choices": ['),
    "gives up at once": Script(tokens=("",), finish_reason="abort"),
}


@asynccontextmanager
async def two_backends(script: Script) -> AsyncIterator[tuple[Bench, FakeBackend, FakeBackend]]:
    async with FakeBackend(script) as small, FakeBackend() as large:
        catalog = catalog_of(small=small, large=large)
        async with client_of(catalog) as client:
            yield bench(catalog, client), small, large


async def read(served: Served) -> bytes:
    try:
        return b"".join([piece async for piece in served.answer])
    finally:
        await served.answer.aclose()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_a_connection_that_was_idle_for_too_long_is_no_failure(stream: bool) -> None:
    async with two_backends(Script(closes_idle=True)) as (world, small, large):
        for _ in range(3):
            served = await world.gateway.complete(STREAMED if stream else PLAIN, KEY)
            assert (served.candidate.model.name, served.attempts, served.reason) == ("small", 1, "best")
            assert await read(served)
        assert (small.calls, large.calls) == (3, 0)
        assert [replica.failures for replica in world.replicas.all] == [0, 0]


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_another_model_answers_whole_when_the_chosen_one_fails_before_the_first_byte(
    failure: Script, stream: bool
) -> None:
    async with two_backends(failure) as (bench, small, large):
        served = await bench.gateway.complete(STREAMED if stream else PLAIN, KEY)
        sent = await read(served)

        said = texts(sent) if stream else json.loads(sent)["choices"][0]["message"]["content"]
        assert said == TEXT
        assert (served.candidate.model.name, served.attempts, served.reason) == ("large", 2, "fallback")
        assert (small.calls, large.calls) == (1, 1)
        assert bench.in_flight == (0, 0, 0)
        assert [record["outcome"] for record in bench.completed] == ["ok"]


async def test_a_refused_connection_is_no_failure_of_the_request() -> None:
    async with two_backends(Script()) as (bench, small, _):
        await small.stop()
        served = await bench.gateway.complete(STREAMED, KEY)
        assert texts(await read(served)) == TEXT
        assert served.headers()["x-thalamus-reason"] == "fallback"


CUTS: dict[str, tuple[Callable[[int], Script], str]] = {
    "FIN": (lambda k: Script(cut_after=k), "upstream_disconnected"),
    "RST": (lambda k: Script(cut_after=k, cut_with_reset=True), "upstream_disconnected"),
    "garbage": (lambda k: Script(garbage_after=k), "bad_upstream"),
    "error event": (lambda k: Script(error_after=k), "bad_upstream"),
    "silence": (lambda k: Script(hang_after=k), "upstream_timeout"),
}


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize(("script", "code"), CUTS.values(), ids=CUTS.keys())
async def test_a_begun_stream_ends_with_exactly_one_error_event_and_no_done(
    script: Callable[[int], Script], code: str, k: int
) -> None:
    async with two_backends(script(k)) as (bench, small, large):
        served = await bench.gateway.complete(STREAMED, KEY)
        sent = await read(served)

        events = [part.removeprefix(b"data: ") for part in sent.split(b"\n\n") if part]
        errors = [json.loads(event)["error"] for event in events if b'"error"' in event]
        assert [error["code"] for error in errors] == [code]
        assert b'"error"' in events[-1]
        assert b"[DONE]" not in sent
        assert texts(sent) == "".join(TOKENS[: k - 1])
        assert (small.calls, large.calls) == (1, 0)
        assert bench.in_flight == (0, 0, 0)
        (record,) = bench.completed
        assert (record["outcome"], record["usage_counted"], record["output_tokens"]) == (code, True, k - 1)


async def test_an_answer_that_was_aborted_by_its_worker_is_an_error_not_an_answer() -> None:
    async with two_backends(Script(finish_reason="abort")) as (bench, _, _large):
        served = await bench.gateway.complete(STREAMED, KEY)
        sent = await read(served)
        assert texts(sent) == "".join(TOKENS[:-1])
        assert b'"code":"upstream_disconnected"' in sent
        assert b"[DONE]" not in sent


async def test_a_whole_stream_without_its_done_gets_one_and_is_counted() -> None:
    async with two_backends(Script(done=False)) as (bench, _, _large):
        served = await bench.gateway.complete(STREAMED, KEY)
        assert (await read(served)).endswith(b"data: [DONE]\n\n")
        assert bench.sample("thalamus_done_added_total", backend="small") == 1


async def test_a_stream_that_arrives_byte_by_byte_is_the_same_stream() -> None:
    async with two_backends(Script()) as (bench, small, _):
        whole = await read(await bench.gateway.complete(STREAMED, KEY))
        small.script = Script(drip_bytes=1)
        dripped = await read(await bench.gateway.complete(STREAMED, KEY))
        assert dripped == whole


async def test_a_silent_stream_is_cut_when_the_callers_deadline_passes() -> None:
    async with two_backends(Script(event_delay_s=0.1, tokens=("a",) * 50)) as (bench, small, _):
        served = await bench.gateway.complete(replace(STREAMED, deadline_s=0.25), KEY)
        sent = await read(served)
        assert b'"code":"upstream_timeout"' in sent
        await small.until(in_flight=0)
        assert small.aborted == 1
        assert bench.replicas.all[0].failures == 0, "a caller's deadline says nothing against the replica"


async def test_a_refusal_of_the_request_itself_is_passed_on_and_not_tried_elsewhere() -> None:
    error = {"message": "temperature must be non-negative, got -1", "type": "BadRequestError", "param": "temperature"}
    async with two_backends(Script(status=400, error=error)) as (bench, _, large):
        with pytest.raises(UpstreamRejected) as caught:
            await bench.gateway.complete(PLAIN, KEY)
        assert (caught.value.status, caught.value.param) == (400, "temperature")
        assert "non-negative" in caught.value.message
        assert large.calls == 0


async def test_a_worker_that_refuses_our_key_is_the_operators_problem() -> None:
    async with two_backends(Script()) as (bench, small, large):
        small.key = "other"
        with pytest.raises(UpstreamRejected) as caught:
            await bench.gateway.complete(PLAIN, KEY)
        assert (caught.value.status, caught.value.code, large.calls) == (502, "bad_upstream", 0)
        assert bench.events("replica.refused_key")


async def test_when_all_are_over_their_rate_limit_the_caller_hears_the_shortest_wait() -> None:
    async with two_backends(Script(status=429, headers={"retry-after": "7"})) as (bench, _, large):
        large.script = Script(status=429, headers={"retry-after": "3"})
        with pytest.raises(UpstreamRateLimited) as caught:
            await bench.gateway.complete(PLAIN, KEY)
        assert (caught.value.status, caught.value.retry_after_s) == (429, 3)


async def test_a_plain_answer_that_outlives_the_deadline_is_a_504() -> None:
    async with two_backends(Script(hang=True)) as (bench, _, _large):
        with pytest.raises(UpstreamTimeout) as caught:
            await bench.gateway.complete(replace(PLAIN, deadline_s=0.1), KEY)
        assert caught.value.status == 504


async def test_a_request_that_broke_two_workers_is_not_given_to_a_third() -> None:
    broken = Script(status=500)
    async with FakeBackend(broken) as a, FakeBackend(broken) as b, FakeBackend() as c:
        catalog = catalog_of(a=a, b=b, c=c)
        async with client_of(catalog) as client:
            with pytest.raises(UpstreamBroken) as caught:
                await bench(catalog, client).gateway.complete(PLAIN, KEY)
        assert (a.calls, b.calls, c.calls, caught.value.may_retry) == (1, 1, 0, False)


async def test_the_answer_carries_the_catalogues_name_its_usage_and_its_cost() -> None:
    async with two_backends(Script()) as (bench, small, _):
        served = await bench.gateway.complete(PLAIN, KEY)
        body = json.loads(await read(served))
        assert (body["model"], body["usage"]) == ("small", USAGE)
        # 7 tokens at 1 USD and 6 at 2 USD per million.
        assert served.headers()["x-thalamus-cost-usd"] == "0.000019"
        (record,) = bench.completed
        assert (record["input_tokens"], record["output_tokens"]) == (7, 6)
        sent = small.requests[0]
        assert sent.body["model"] == "small"
        assert "user-agent" not in sent.headers
        assert sent.headers["x-request-id"] == "req-1"


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_the_usage_chunk_is_shown_only_to_who_asked_for_it(wants_usage: bool) -> None:
    async with two_backends(Script()) as (bench, small, _):
        body: dict[str, Any] = {"messages": [], "stream_options": {"include_usage": wants_usage}}
        sent = await read(await bench.gateway.complete(replace(STREAMED, body=body), KEY))
        assert (b'"usage"' in sent) is wants_usage
        assert small.requests[0].body["stream_options"]["include_usage"] is True
        assert bench.completed[0]["output_tokens"] == 6


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_is_thought_about_and_not_counted_by_its_backend(name: str, stream: bool) -> None:
    script = Script(tokens=("Paris",), reasoning=("France", " has", " one"), reasoning_name=name, usage=None)
    async with FakeBackend(script) as small:
        catalog = catalog_of(small=small)
        async with client_of(catalog) as client:
            world = bench(catalog, client)
            served = await world.gateway.complete(request(stream=stream), FakeKey())
            sent = b"".join([piece async for piece in served.answer])
    assert sent.count(b'"%b"' % name.encode()) == (3 if stream else 1)
    (record,) = world.completed
    # 19 bytes at four a token, or one token a chunk.
    assert (record["output_tokens"], record["usage_counted"]) == (4, True)
    assert (record["outcome"], record["cost_usd"] > 0) == ("ok", True)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_backend_rests_as_long_as_its_headers_say(status: int) -> None:
    quota = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}
    async with FakeBackend(Script(status=status, headers=quota)) as small, FakeBackend() as large:
        catalog = catalog_of(small=small, large=large)
        async with client_of(catalog) as client:
            world = bench(catalog, client)
            for _ in range(3):
                served = await world.gateway.complete(request(), FakeKey())
                assert served.candidate.model.name == "large"
                await served.answer.aclose()
            assert 85 < world.replicas.of("small")[0].rests_until - world.replicas.clock() <= 90
    assert small.calls == 1


async def test_a_model_over_its_limit_leaves_the_others_of_a_paid_backend_alone() -> None:
    limited = Script(status=429, headers={"retry-after": "60"})
    async with FakeBackend() as paid:
        paid.scripts["large"] = limited
        the_catalog = catalog(model("large", "paid"), model("small", "paid"), urls={"paid": (paid.url,)}, kind="openai")
        async with client_of(the_catalog) as client:
            world = bench(the_catalog, client)
            for _ in range(3):
                served = await world.gateway.complete(request(), KEY)
                assert served.candidate.model.name == "small"
                await served.answer.aclose()
            assert world.replicas.fleet().available == (False, True)
            paid.script = limited
            for _ in range(2):
                with pytest.raises(UpstreamRateLimited) as caught:
                    await world.gateway.complete(request(), KEY)
                assert 58 <= (caught.value.retry_after_s or 0) <= 60
    assert [sent.body["model"] for sent in paid.requests] == ["large", "small", "small", "small", "small"]
