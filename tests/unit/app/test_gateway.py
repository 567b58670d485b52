"""The use case: what is taken is given back, and each admitted request ends in exactly one record."""

from __future__ import annotations

import asyncio
import gc
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.domain.decision import Decision, Estimate, Fleet
from app.domain.request import Preferences, Request
from app.domain.sessions import Session
from app.errors import (
    Draining,
    NoEligibleModel,
    NotAllowed,
    Overloaded,
    RateLimited,
    UnknownDecision,
    UpstreamBroken,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.gateway import has_session
from app.routing.record import describe
from app.routing.tally import NOBODY, Tally
from app.upstream.served import Served
from tests.fakes.clock import FakeClock
from tests.fakes.gateway import Bench, bench
from tests.fakes.routing import llm, world_of
from tests.fakes.upstream import FakeExchange, FakeUpstream, chunk, event, texts
from tests.fakes.world import FakeKey, catalog, decision, model, request

KEY = FakeKey()
SMALL, LARGE = model("small"), model("large")
STREAMED = request(stream=True)


def gateway(upstream: FakeUpstream, clock: FakeClock | None = None, max_in_flight: int = 1000) -> Bench:
    return bench(catalog(SMALL, LARGE), upstream, clock=clock or FakeClock(), max_in_flight=max_in_flight)


async def read(served: Served) -> bytes:
    return b"".join([piece async for piece in served.answer])


async def test_a_request_is_answered_and_recorded_once() -> None:
    world = gateway(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(request(), KEY)
    assert world.completed == [], "the record is written when the answer is closed"
    assert world.in_flight == (1, 1, 1)
    body = json.loads(await read(served))
    await served.answer.aclose()

    assert body["choices"][0]["message"]["content"] == "hello"
    assert world.in_flight == (0, 0, 0)
    (record,) = world.completed
    assert {name: record[name] for name in ("outcome", "model", "reason", "attempts", "key", "asked_for")} == {
        "outcome": "ok",
        "model": "small",
        "reason": "best",
        "attempts": 1,
        "key": "tester",
        "asked_for": "auto:default",
    }
    assert record["cost_usd"] == pytest.approx((3 * 1.0 + 2 * 2.0) / 1e6)
    assert world.sample("thalamus_requests_total", operation="chat", outcome="ok") == 1
    assert world.sample("thalamus_tokens_total", model="small", direction="output") == 2


async def test_a_limit_on_tokens_is_one_on_all_choices() -> None:
    world, key = gateway(FakeUpstream(small=b"hello")), FakeKey(tokens_per_minute=100)
    await world.gateway.complete(request(max_tokens=20), key)
    with pytest.raises(RateLimited):
        await world.gateway.complete(request(max_tokens=20, choices=4), key)
    await world.gateway.complete(request(max_tokens=20), key)


@pytest.mark.parametrize("asked", [request(), STREAMED])
async def test_a_request_that_is_over_leaves_nothing_for_the_garbage_collector(asked: Request) -> None:
    """What holds itself stays until a collection, and that stops everybody."""
    world = gateway(FakeUpstream(small=b"hello"))

    async def answered() -> None:
        served = await world.gateway.complete(asked, KEY)
        await read(served)
        await served.answer.aclose()

    await answered()
    gc.collect()
    gc.disable()
    try:
        await answered()
        assert gc.collect() == 0
    finally:
        gc.enable()


async def test_the_headers_say_who_answered_and_why() -> None:
    world = gateway(FakeUpstream(small=UpstreamBroken("no"), large=b"hello"))
    served = await world.gateway.complete(request(), KEY)
    headers = served.headers()
    assert headers.pop("x-thalamus-overhead-ms") == "0.00"
    assert headers == {
        "content-type": "application/json",
        "x-thalamus-decision-id": "dec-1",
        "x-thalamus-model": "large",
        "x-thalamus-reason": "fallback",
        "x-thalamus-attempts": "2",
        "x-thalamus-cost-usd": "0.000007",
    }
    streamed = await world.gateway.complete(STREAMED, KEY)
    assert "x-thalamus-cost-usd" not in streamed.headers()


@pytest.mark.parametrize("failure", [UpstreamBroken("no"), UpstreamTimeout("no")])
async def test_a_failed_request_is_recorded_under_its_code(failure: Any) -> None:
    world = gateway(FakeUpstream(small=failure, large=failure))
    with pytest.raises(type(failure)):
        await world.gateway.complete(request(), KEY)
    assert [(record["outcome"], record["attempts"]) for record in world.completed] == [(failure.code, 2)]
    assert world.in_flight == (0, 0, 0)


@pytest.mark.parametrize("failure", [UpstreamBroken("no"), UpstreamTimeout("no"), UpstreamUnreachable("no")])
async def test_an_error_after_a_decision_says_which_one_and_who_was_asked_last(failure: UpstreamError) -> None:
    world = gateway(FakeUpstream(small=failure, large=failure))
    with pytest.raises(UpstreamError) as refused:
        await world.gateway.complete(request(), KEY)
    headers = refused.value.headers()
    assert {name: value for name, value in headers.items() if name.startswith("x-thalamus")} == {
        "x-thalamus-decision-id": "dec-1",
        "x-thalamus-model": "large",
        "x-thalamus-reason": "fallback",
        "x-thalamus-attempts": "2",
    }
    looked_up = await world.gateway.decisions.record(headers["x-thalamus-decision-id"], KEY)
    assert looked_up["outcome"]["result"] == failure.code


async def test_an_error_names_no_model_where_none_was_asked() -> None:
    world = gateway(FakeUpstream(small=b"x", large=b"x"))
    for name in ("small", "large"):
        (replica,) = world.replicas.of(f"{name}-backend")
        world.replicas.used_up(replica, model(name), 60)
    with pytest.raises(UpstreamError) as refused:
        await world.gateway.complete(request(), KEY)
    headers = refused.value.headers()
    assert (headers["x-thalamus-decision-id"], headers["x-thalamus-attempts"]) == ("dec-1", "0")
    assert not {"x-thalamus-model", "x-thalamus-reason"} & set(headers)


async def test_an_error_before_a_decision_tells_of_none() -> None:
    world = gateway(FakeUpstream(small=b"x"), max_in_flight=1)
    await world.gateway.complete(request(), KEY)
    with pytest.raises(Overloaded) as refused:
        await world.gateway.complete(request(), KEY)
    assert set(refused.value.headers()) == {"retry-after"}


async def test_a_begun_answer_that_breaks_is_recorded_under_its_code() -> None:
    world = gateway(FakeUpstream(small=FakeExchange([event(chunk("a")), UpstreamDisconnected("cut")])))
    served = await world.gateway.complete(STREAMED, KEY)
    assert texts(await read(served)) == "a"
    assert [record["outcome"] for record in world.completed] == ["upstream_disconnected"]
    assert world.in_flight == (0, 0, 0)


async def test_a_bug_is_recorded_as_ours_and_gives_everything_back() -> None:
    world = gateway(FakeUpstream())
    with pytest.raises(KeyError):
        await world.gateway.complete(request(), KEY)
    assert [record["outcome"] for record in world.completed] == ["internal"]
    assert world.in_flight == (0, 0, 0)


async def test_a_caller_who_leaves_while_waiting_is_recorded_as_cancelled() -> None:
    world = gateway(FakeUpstream(small=FakeExchange(hangs=True)))
    call = asyncio.ensure_future(world.gateway.complete(STREAMED, KEY))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.in_flight == (1, 1, 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (record,) = world.completed
    assert (record["outcome"], record["status"], record["attempts"]) == ("cancelled", 499, 1)
    assert world.in_flight == (0, 0, 0)


async def test_a_caller_who_leaves_in_the_middle_is_recorded_with_what_was_written() -> None:
    exchange = FakeExchange([event(chunk("a")), event(chunk("b"))], hangs=True)
    world = gateway(FakeUpstream(small=exchange))
    served = await world.gateway.complete(STREAMED, KEY)
    await anext(served.answer)
    await anext(served.answer)
    await served.answer.aclose()
    (record,) = world.completed
    assert (record["outcome"], record["output_tokens"], record["input_tokens"]) == ("cancelled", 2, 12)
    assert exchange.closed
    assert world.in_flight == (0, 0, 0)


async def test_who_is_over_a_limit_is_not_admitted() -> None:
    world = gateway(FakeUpstream(small=b"x"))
    key = FakeKey(concurrency=1)
    served = await world.gateway.complete(request(), key)
    with pytest.raises(RateLimited):
        await world.gateway.complete(request(), key)
    await served.answer.aclose()
    assert len(world.completed) == 1
    assert len(world.events("request.rejected")) == 1
    assert world.sample("thalamus_requests_total", operation="chat", outcome="rate_limit_exceeded") == 1


async def test_a_full_gateway_refuses_before_any_work() -> None:
    world = gateway(FakeUpstream(small=b"x"), max_in_flight=1)
    await world.gateway.complete(request(), KEY)
    with pytest.raises(Overloaded):
        await world.gateway.complete(request(), KEY)


async def test_a_crowded_gateway_keeps_its_last_places_for_what_must_not_wait() -> None:
    world = gateway(FakeUpstream(small=b"x"), max_in_flight=10)
    for _ in range(9):
        await world.gateway.complete(request(), KEY)
    for priority in ("low", "normal"):
        with pytest.raises(Overloaded):
            world.gateway.let_in(priority)
        with pytest.raises(Overloaded):
            await world.gateway.complete(request(priority=priority), KEY)
    world.gateway.let_in("high")
    await world.gateway.complete(request(priority="high"), KEY)
    with pytest.raises(Overloaded):
        world.gateway.let_in("high")
    assert world.sample("thalamus_shed_total", priority="normal") == 2
    assert world.sample("thalamus_requests_total", operation="chat", outcome="overloaded") == 2
    assert world.sample("thalamus_pressure", reading="places") == 1
    assert [event["code"] for event in world.events("request.rejected")] == ["overloaded"] * 2


async def test_an_answer_says_what_its_key_has_left() -> None:
    world = gateway(FakeUpstream(small=b"x"))
    served = await world.gateway.complete(request(), FakeKey(requests_per_minute=60))
    assert served.headers()["x-ratelimit-remaining-requests"] == "59"


async def test_a_gateway_that_leaves_is_not_ready_but_serves_until_it_is_closed() -> None:
    world = gateway(FakeUpstream(small=b"x"))
    assert world.gateway.ready()
    begun = await world.gateway.complete(request(), KEY)
    world.admission.gate.leaving = True
    assert not world.gateway.ready()
    assert b"x" in await read(await world.gateway.complete(request(), KEY))
    world.admission.gate.closed = True
    with pytest.raises(Draining):
        await world.gateway.complete(request(), KEY)
    assert world.sample("thalamus_requests_total", operation="chat", outcome="draining") == 1
    assert b"x" in await read(begun)


async def test_a_stream_that_is_cut_ends_with_one_error_event_and_harms_no_replica() -> None:
    world = gateway(FakeUpstream(small=FakeExchange([event(chunk("Par")), event(chunk("is"))], hangs=True)))
    served = await world.gateway.complete(STREAMED, KEY)
    reading = asyncio.create_task(read(served))
    await asyncio.sleep(0)
    world.admission.cut()
    sent = await reading
    assert texts(sent) == "Paris"
    assert (sent.count(b'"code":"draining"'), sent.count(b"[DONE]")) == (1, 0)
    assert [record["outcome"] for record in world.completed] == ["draining"]
    assert world.in_flight == (0, 0, 0)
    assert sum(replica.failures for replica in world.replicas.all) == 0


async def test_a_request_that_is_cut_before_its_answer_hears_that_the_gateway_stops() -> None:
    world = gateway(FakeUpstream(small=FakeExchange(hangs=True)))
    waiting = asyncio.create_task(world.gateway.complete(request(), KEY))
    await asyncio.sleep(0.01)
    assert world.admission.in_flight == 1
    world.admission.cut()
    world.admission.cut()
    with pytest.raises(Draining):
        await waiting
    assert [record["outcome"] for record in world.completed] == ["draining"]
    assert (world.in_flight, world.admission.in_flight) == ((0, 0, 0), 0)


async def test_only_answers_of_certain_backends_can_be_cut() -> None:
    world = gateway(FakeUpstream(small=FakeExchange([event(chunk("Par"))], hangs=True)))
    served = await world.gateway.complete(STREAMED, KEY)
    reading = asyncio.create_task(read(served))
    await asyncio.sleep(0)
    world.admission.cut({"another"})
    await asyncio.sleep(0.01)
    assert not reading.done()
    world.admission.cut({SMALL.backend})
    assert b"draining" in await reading


async def test_a_record_says_which_configuration_the_request_saw() -> None:
    world = gateway(FakeUpstream(small=b"x"))
    await read(await world.gateway.complete(request(), KEY))
    assert [record["config"] for record in world.completed] == ["v1"]


async def test_the_deadline_of_a_request_covers_its_attempts() -> None:
    clock = FakeClock()

    class Slow(FakeUpstream):
        async def send(self, *args: Any) -> FakeExchange:
            clock.advance(0.98)
            return await super().send(*args)

    world = gateway(Slow(small=UpstreamBroken("no"), large=b"x"), clock)
    with pytest.raises(UpstreamTimeout):
        await world.gateway.complete(request(deadline_s=1.0), KEY)
    assert world.completed[0]["outcome"] == "upstream_timeout"


async def test_an_explained_answer_carries_the_record_for_keys_that_may_see_it() -> None:
    world = gateway(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(request(explain=True), KEY)
    record = json.loads(await read(served))["thalamus"]
    assert (record["decision_id"], record["chosen"]) == ("dec-1", "small")
    assert record["outcome"]["usage"]["output_tokens"] == 2
    with pytest.raises(NotAllowed):
        await world.gateway.complete(request(explain=True), FakeKey(scopes=frozenset({"inference"})))


def _unmakeable(_: Decision) -> dict[str, Any]:
    raise KeyError("a bug")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_record_that_cannot_be_made_costs_neither_the_answer_nor_its_backend(stream: bool) -> None:
    world = bench(catalog(SMALL, LARGE), FakeUpstream(small=b"hello"), record=_unmakeable)
    served = await world.gateway.complete(request(explain=True, stream=stream), KEY)
    body = await read(served)
    await served.answer.aclose()

    assert (b"hello" in body, b"thalamus" in body, world.completed[0]["outcome"]) == (True, False, "ok")
    (replica,) = world.replicas.of("small-backend")
    assert (replica.failures, replica.in_flight) == (0, 0)
    (told,) = world.events("record.failed")
    assert (told["request_id"], told["where"].partition(" ")[0]) == (request().request_id, "KeyError")


async def test_a_decision_is_explained_without_asking_a_model() -> None:
    upstream = FakeUpstream(small=b"hello")
    world = gateway(upstream)
    record = await world.gateway.explain(request(), KEY)
    assert (record["chosen"], record["outcome"], upstream.asked) == ("small", None, [])
    assert world.in_flight == (0, 0, 0)
    assert [one["operation"] for one in world.completed] == ["explain"]


async def test_what_would_change_a_choice_is_exact_where_it_is_only_explained() -> None:
    """A glance that is clear about the choice may still be wrong about where it flips."""
    small, large = llm("small", parameters_b=1), llm("large", parameters_b=70)
    quality = {"small": 0.5, "large": 0.7}
    deciding = world_of(small, large, quality=quality, seen={"small": 0.4, "large": 0.9})
    world = bench(catalog(small, large), FakeUpstream(), router=deciding.router, record=describe)
    told = await world.gateway.explain(request(), KEY)
    change = told["counterfactual"]
    assert (told["encoder"], told["model"], change["at_a_glance"]) == ("transformer", "large", False)
    for factor, chosen in ((0.99, "large"), (1.01, "small")):
        weights = {change["dimension"]: change["to"] * factor}
        again = await world.gateway.explain(request(preferences=Preferences(weights=weights)), KEY)
        assert again["model"] == chosen


async def test_a_decision_can_be_asked_for_afterwards_by_its_own_key_only() -> None:
    world = gateway(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(request(), KEY)
    assert (await world.gateway.decisions.record("dec-1", KEY))["outcome"] is None
    await read(served)
    outcome = (await world.gateway.decisions.record("dec-1", KEY))["outcome"]
    assert (outcome["result"], outcome["model"], outcome["usage"]["input_tokens"]) == ("ok", "small", 3)
    assert "127.0.0.1" not in str(outcome), "where a worker is, is not the caller's business"
    with pytest.raises(UnknownDecision):
        await world.gateway.decisions.record("dec-1", FakeKey(id="somebody else"))


async def test_no_prompt_and_no_answer_reaches_the_log() -> None:
    world = gateway(FakeUpstream(small=b"canary-answer"))
    body = {"messages": [{"role": "user", "content": "canary-prompt"}]}
    await read(await world.gateway.complete(request(body=body, conversation=(("user", "canary-prompt"),)), KEY))
    assert "canary" not in world.log.getvalue()
    assert b"canary" not in world.metrics.render()


@dataclass
class StubbornRouter:
    """Finds no model, or makes the same decision for everything."""

    decision: Decision | None = None

    async def route(
        self, request: Request, fleet: Fleet, session: Session | None = None, tally: Tally = NOBODY
    ) -> Decision:
        if self.decision is None:
            raise NoEligibleModel("no candidate costs at most 0.0001 USD")
        return self.decision


async def test_a_request_that_no_model_may_answer_is_recorded_as_that() -> None:
    world = bench(catalog(SMALL), FakeUpstream(), router=StubbornRouter())
    with pytest.raises(NoEligibleModel):
        await world.gateway.complete(request(), KEY)
    assert [record["outcome"] for record in world.completed] == ["no_eligible_model"]
    assert world.in_flight == (0, 0, 0)


async def test_a_predictor_that_failed_is_counted_and_does_not_fail_the_request() -> None:
    without = replace(decision(SMALL, reason="default"), details={"predictor_failure": "over 20 ms"})
    world = bench(catalog(SMALL), FakeUpstream(small=b"hello"), router=StubbornRouter(without))
    served = await world.gateway.complete(request(), KEY)
    await served.answer.aclose()
    assert served.headers()["x-thalamus-reason"] == "default"
    assert world.sample("thalamus_predictor_failures_total") == 1
    assert [one["cause"] for one in world.events("predictor.failed")] == ["over 20 ms"]


async def test_whoever_answered_is_remembered_for_the_session_fallbacks_too() -> None:
    world = gateway(FakeUpstream(small=[UpstreamBroken("it broke")] * 9, large=b"hello"))
    asked = request(session_id="s-1", key_id=KEY.id)
    served = await world.gateway.complete(asked, KEY)
    assert served.reason == "fallback"
    found = await world.sessions.find(asked)
    assert found is not None
    assert (found.model, found.input_tokens, len(world.remembered)) == ("large", asked.input_tokens, 1)
    await served.answer.aclose()


async def test_nothing_is_remembered_without_a_session_or_of_embeddings() -> None:
    world = gateway(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(request(), KEY)
    assert world.remembered == []
    assert not has_session(request(session_id="s-1", operation="embeddings"))
    await served.answer.aclose()


def unreckonable() -> Estimate:
    raise OverflowError("int too large to convert to float")


async def test_a_request_of_which_counting_fails_is_ended_in_the_journal_and_in_the_log() -> None:
    world = gateway(FakeUpstream(small=b"hello"))
    served = await world.gateway.complete(request(), KEY)
    entry = world.admission.ledger.journal.find(served.decision.decision_id, KEY.id)
    served.candidate = replace(served.candidate, expect=unreckonable)
    await read(served)
    await served.answer.aclose()
    assert entry is not None
    assert (entry.outcome is not None, entry.request) == (True, None), "the journal has let go of what was asked"
    assert [record["outcome"] for record in world.completed] == ["ok"]
    assert len(world.events("request.untold")) == 1
    assert world.in_flight == (0, 0, 0)


class Bug(Exception):
    """Nobody expects it."""


@pytest.mark.parametrize("asked", [request(), STREAMED])
async def test_an_answer_that_cannot_be_read_counts_against_its_backend_and_another_one_answers(asked: Request) -> None:
    kind = "text/event-stream" if asked.stream else "application/json"
    world = gateway(FakeUpstream(small=FakeExchange([Bug("a secret")], content_type=kind), large=b"hello"))
    served = await world.gateway.complete(asked, KEY)
    assert b"hello" in await read(served)
    served.answer.close()
    (told,) = world.events("answer.unread")
    assert (told["backend"], "Bug at " in told["where"], "secret" in told["where"]) == ("small-backend", True, False)
    assert world.sample("thalamus_upstream_errors_total", backend="small-backend", code="bad_upstream") == 1
    assert [replica.failures for replica in world.replicas.all] == [1, 0]
    assert [record["outcome"] for record in world.completed] == ["ok"]


async def test_a_stream_that_cannot_be_read_any_further_is_recorded_as_its_backends_failure() -> None:
    world = gateway(FakeUpstream(small=FakeExchange([event(chunk("a")), Bug()])))
    served = await world.gateway.complete(STREAMED, KEY)
    assert b"bad_upstream" in await read(served)
    served.answer.close()
    assert [record["outcome"] for record in world.completed] == ["bad_upstream"]
    assert world.sample("thalamus_upstream_errors_total", backend="small-backend", code="bad_upstream") == 1
    assert ([replica.failures for replica in world.replicas.all], world.in_flight) == ([1, 0], (0, 0, 0))
    assert len(world.events("answer.unread")) == 1
