"""A caller's connection, without sockets: framing, phases, refusals, and what is left behind by none of them."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api import Plane, data_plane
from app.api.call import LINGER_BYTES
from app.api.connection.front import Patience
from app.api.connection.wire import LEAST_READ_BYTES, MAX_EARLY_BYTES, WRITE_BUFFER_BYTES
from app.errors import UpstreamDisconnected
from app.store.keys.key import Key
from tests.fakes.connection import FakeConnection
from tests.fakes.gateway import Bench, bench
from tests.fakes.listener import SECRET, UNLIMITED, doors, keys
from tests.fakes.upstream import FakeExchange, FakeUpstream
from tests.fakes.world import catalog, model

CATALOG = catalog(model("small"), model("large"))
STREAMED = b'data: {"id":"c","model":"small","choices":[{"index":0,"delta":{"content":"Par"}}]}\n\n'
BODY = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}).encode()


def world() -> Bench:
    return bench(CATALOG, FakeUpstream(small=b"hello", large=b"hello"))


def plane(a_bench: Bench | None = None, **more: Any) -> Plane:
    narrow = Key("narrow", models=("*",), scopes=frozenset({"inference"}), **UNLIMITED)
    return data_plane(doors(a_bench or world(), CATALOG, keys(sk_narrow=narrow)), **more)


def chat(body: bytes = BODY, *headers: str, key: str = SECRET, path: str = "/v1/chat/completions") -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "host: x",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*pieces: bytes) -> bytes:
    head = chat(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


def statuses(written: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", written)]


async def until_at_work(a_bench: Bench) -> None:
    """Let what was sent be admitted."""
    while not a_bench.in_flight[0]:
        await asyncio.sleep(0)


def code(written: bytes) -> str:
    found: str = json.loads(written.partition(b"\r\n\r\n")[2])["error"]["code"]
    return found


async def test_a_call_is_answered_in_one_write_and_the_connection_stays() -> None:
    caller = FakeConnection(plane())
    answer = await caller.ask(chat())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert statuses(answer) == [200]
    assert json.loads(body)["choices"][0]["message"]["content"] == "hello"
    assert b"content-length: %d" % len(body) in head
    assert b"connection: close" not in head
    assert caller.transport.writes == 1
    assert statuses(await caller.ask(chat())) == [200]
    assert not caller.transport.closed


@given(cuts=st.lists(st.integers(0, 400), max_size=8), framing=st.sampled_from(["length", "chunks"]))
@settings(max_examples=60, deadline=None)
def test_where_the_network_cuts_a_call_makes_no_difference(cuts: list[int], framing: str) -> None:
    whole = chat() if framing == "length" else chunked(BODY[:7], BODY[7:])

    async def ask() -> bytes:
        caller = FakeConnection(plane())
        places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
        for start, end in pairwise(places):
            caller.send(whole[start:end])
        await caller.settle()
        caller.leave()
        return caller.written

    assert statuses(asyncio.run(ask())) == [200]


async def test_calls_that_come_together_are_answered_in_order_one_at_a_time() -> None:
    a_bench = world()
    caller = FakeConnection(plane(a_bench))
    caller.send(chat(BODY, "x-request-id: first") + chat(BODY, "x-request-id: second"))
    await asyncio.sleep(0)
    assert a_bench.in_flight[0] <= 1
    while len(caller.server.tasks):
        await caller.settle()
    assert re.findall(rb"x-request-id: (\w+)", caller.written) == [b"first", b"second"]


async def test_who_sends_too_much_too_early_is_cut_off() -> None:
    a_bench = bench(CATALOG, FakeUpstream(small=FakeExchange(hangs=True), large=FakeExchange(hangs=True)))
    caller = FakeConnection(plane(a_bench))
    caller.send(chat())
    await asyncio.sleep(0)
    caller.send(b"x" * MAX_EARLY_BYTES)
    assert not caller.transport.closed
    caller.send(b"x")
    assert caller.transport.aborted
    caller.leave()
    await caller.settle()
    assert a_bench.in_flight == (0, 0, 0)


async def test_a_large_call_that_comes_upon_the_last_byte_of_an_answer_is_not_too_early() -> None:
    caller = FakeConnection(plane())
    body = {**json.loads(BODY), "stream": True}
    caller.send(chat(json.dumps(body).encode()))
    while not caller.written.endswith(b"0\r\n\r\n"):
        await asyncio.sleep(0)
    assert caller.server.tasks, "the answer is about to be given back"
    large = chat(json.dumps({**body, "messages": [{"role": "user", "content": "hi " * MAX_EARLY_BYTES}]}).encode())
    caller.send(large[:MAX_EARLY_BYTES])
    assert not caller.transport.paused
    caller.send(large[MAX_EARLY_BYTES:-1])
    assert (caller.transport.paused, caller.transport.aborted) == (True, False)
    await caller.settle()
    assert not caller.transport.paused
    caller.send(large[-1:])
    await caller.settle()
    assert statuses(caller.written) == [200, 200]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_leaves_cancels_what_works_for_him(stream: bool) -> None:
    a_bench = bench(CATALOG, FakeUpstream(small=FakeExchange(hangs=True), large=FakeExchange(hangs=True)))
    caller = FakeConnection(plane(a_bench))
    caller.send(chat(json.dumps({**json.loads(BODY), "stream": stream}).encode()))
    await until_at_work(a_bench)
    caller.leave()
    await caller.settle()
    assert a_bench.in_flight == (0, 0, 0)
    assert [one["outcome"] for one in a_bench.completed] == ["cancelled"]
    assert caller.written == b""


async def test_without_a_key_the_answer_does_not_wait_for_the_body() -> None:
    caller = FakeConnection(plane())
    caller.send(chat(b"x" * 1000, key="sk-wrong")[:-1000])
    assert statuses(caller.written) == [401]
    assert b"connection: close" in caller.written
    assert caller.transport.half_closed
    assert (caller.transport.paused, caller.transport.closed) == (True, False)
    caller.wire.overdue()
    assert caller.transport.aborted


@pytest.mark.parametrize("framing", ["announced", "in chunks"])
async def test_a_body_that_is_too_large_is_refused(framing: str) -> None:
    a_bench = world()
    small = data_plane(doors(a_bench, CATALOG, body_limit_bytes=100))
    caller = FakeConnection(small)
    caller.send(chat(b"x" * 101)[:-101] if framing == "announced" else chunked(b"x" * 60, b"x" * 60))
    assert (statuses(caller.written), code(caller.written)) == ([413], "too_large")
    caller.send(b"x" * (LINGER_BYTES - 1))
    assert not caller.transport.paused
    caller.send(b"x")
    assert caller.transport.paused


async def test_a_slow_head_and_a_slow_body_are_refused_and_idle_connections_closed() -> None:
    for sent, status in ((b"POST /v1", 408), (chat()[:-5], 408), (b"", None)):
        a_plane = plane(patience=Patience(head_s=0.0, body_s=0.0))
        caller = FakeConnection(a_plane)
        caller.send(sent)
        caller.wire.overdue()
        assert statuses(caller.written) == ([status] if status else [])
        assert caller.transport.closed or caller.transport.half_closed


async def test_who_never_takes_the_end_of_a_last_answer_is_cut_off() -> None:
    caller = FakeConnection(plane())
    caller.transport.unsent = 1000
    caller.send(chat().replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
    await caller.settle()
    assert (statuses(caller.written), caller.transport.closed, caller.transport.aborted) == ([200], True, False)
    assert caller.wire.due_at < math.inf
    caller.wire.overdue()
    assert caller.transport.aborted


LISTED = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n" % SECRET.encode()


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (LISTED.replace(b"host: x", b"host: x\r\nconnection: close"), 200),
        (chat(b"x" * 99, path="/v1/nothing")[:-99], 404),
    ],
    ids=["when its caller wants so", "when its body is not read"],
)
async def test_who_never_takes_the_end_of_a_last_answer_of_a_control_route_is_cut_off(call: bytes, status: int) -> None:
    caller = FakeConnection(plane())
    caller.transport.unsent = 1000
    caller.send(call)
    await caller.settle()
    assert (statuses(caller.written), caller.transport.closed, caller.transport.aborted) == ([status], True, False)
    assert caller.wire.due_at < math.inf
    caller.wire.overdue()
    assert (statuses(caller.written), caller.transport.aborted) == ([status], True)


@pytest.mark.parametrize("fails", [True, False])
async def test_who_does_not_take_an_answer_that_broke_off_is_cut_off_too(fails: bool) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        if fails:
            raise RuntimeError("a bug")

    caller = FakeConnection(replace(plane(), app=cast("Any", broken)))
    caller.transport.unsent = 1000
    caller.send(LISTED)
    await caller.settle()
    assert (statuses(caller.written), caller.transport.closed, caller.transport.aborted) == ([200], True, False)
    assert caller.wire.due_at < math.inf
    caller.wire.overdue()
    assert caller.transport.aborted


async def test_a_caller_who_reads_nothing_is_cut_off_and_a_slow_one_is_not() -> None:
    a_bench = bench(CATALOG, FakeUpstream(small=FakeExchange(hangs=True), large=FakeExchange(hangs=True)))
    caller = FakeConnection(plane(a_bench))
    caller.send(chat())
    await asyncio.sleep(0)
    caller.transport.unsent = 100_000
    caller.wire.pause_writing()
    caller.transport.unsent -= LEAST_READ_BYTES
    caller.wire.overdue()
    assert not caller.transport.closed
    caller.transport.unsent -= LEAST_READ_BYTES - 1
    caller.wire.overdue()
    assert caller.transport.aborted
    caller.leave()
    await caller.settle()


async def test_a_caller_who_reads_a_long_plain_answer_slowly_is_not_cut_off_before_its_end() -> None:
    a_bench = bench(CATALOG, FakeUpstream(small=b"hi", large=b"hi"))
    caller = FakeConnection(plane(a_bench))
    assert statuses(await caller.ask(chat())) == [200]
    caller.transport.unsent = 100_000
    caller.wire.pause_writing()
    caller.transport.unsent -= LEAST_READ_BYTES
    caller.wire.overdue()
    assert not caller.transport.closed
    caller.transport.unsent = 0
    caller.wire.due_at = 0
    caller.wire.resume_writing()
    assert caller.wire.due_at > asyncio.get_running_loop().time() + Patience().idle_s - 1
    caller.wire.overdue()
    assert caller.transport.aborted, "it has read all, and then sent nothing for long"


async def test_the_rest_of_a_last_answer_has_to_be_read_in_time() -> None:
    caller = FakeConnection(plane())
    assert statuses(await caller.ask(chat(b"{}", "connection: close"))) == [400]
    assert caller.transport.closed
    caller.wire.resume_writing()
    assert caller.wire.due_at < math.inf


async def test_little_is_kept_for_a_caller_who_reads_slowly() -> None:
    assert FakeConnection(plane()).transport.high_water_bytes == WRITE_BUFFER_BYTES


HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("calls", "is_known"),
    [
        ([HEALTH], False),
        ([HEALTH, HEALTH], False),
        ([LISTED], True),
        ([chat()], True),
        ([HEALTH, chat(b"no JSON")], True),
        ([chat(), HEALTH], True),
        ([LISTED, HEALTH.replace(b"GET", b"HEAD")], True),
    ],
)
async def test_a_connection_stays_long_only_where_a_valid_key_was_seen(calls: list[bytes], is_known: bool) -> None:
    caller, patience = FakeConnection(plane()), Patience()
    for call in calls:
        await caller.ask(call)
    waits_s = caller.wire.due_at - asyncio.get_running_loop().time()
    assert waits_s == pytest.approx(patience.idle_s if is_known else patience.stranger_idle_s, abs=1)
    assert not caller.transport.closed


async def makes_room(caller: FakeConnection, a_plane: Plane) -> None:
    """Fails where the caller is not closed for a newcomer."""
    newcomer = FakeConnection(a_plane)
    assert statuses(await newcomer.ask(chat())) == [200]
    assert caller.transport.closed
    caller.leave()


async def test_a_full_front_closes_who_waits_longest_without_a_key() -> None:
    a_plane = plane(max_connections=4)
    front, now = a_plane.front, asyncio.get_running_loop().time()
    known, silent, healthy, busy = (FakeConnection(a_plane) for _ in range(4))
    assert statuses(await known.ask(chat())) == [200]
    assert statuses(await healthy.ask(HEALTH)) == [200]
    busy.send(chat()[:-1])
    await makes_room(healthy, a_plane)
    refused = FakeConnection(a_plane)
    assert statuses(refused.written) == [503], "the silent one has just come"
    refused.leave()
    front.waits(silent.wire, now)
    await makes_room(silent, a_plane)
    assert statuses(FakeConnection(a_plane).written) == [503]
    assert statuses(await known.ask(chat())) == statuses(await busy.ask(chat()[-1:])) == [200]


async def test_a_full_front_takes_no_further_connection() -> None:
    a_plane = plane(max_connections=1)
    first, second = FakeConnection(a_plane), FakeConnection(a_plane)
    assert statuses(second.written) == [503]
    assert b"retry-after: " in second.written
    assert statuses(await first.ask(chat())) == [200]


async def test_a_refused_call_is_counted_and_logged_once() -> None:
    a_bench = world()
    await FakeConnection(plane(a_bench)).ask(chat(b"{", "x-request-id: id-1"))
    (event,) = a_bench.events("request.rejected")
    assert (event["request_id"], event["key"], event["code"]) == ("id-1", "tester", "invalid_request")
    assert a_bench.sample("thalamus_requests_total", operation="chat", outcome="invalid_request") == 1


async def test_an_explanation_without_its_scope_is_refused() -> None:
    body = json.dumps({**json.loads(BODY), "routing": {"explain": True}}).encode()
    assert statuses(await FakeConnection(plane()).ask(chat(body, key="sk-narrow"))) == [403]


async def test_a_bug_is_a_500_that_tells_an_id_and_nothing_else() -> None:
    a_bench = world()
    a_plane = plane(a_bench)

    def broken(body: Any, call: Any) -> Any:
        raise RuntimeError("canary: what somebody wrote")

    operation = a_plane.front.operations["/v1/chat/completions"]
    a_plane.front.operations = {"/v1/chat/completions": replace(operation, parse=broken)}
    answer = await FakeConnection(a_plane).ask(chat(BODY, "x-request-id: id-1"))
    assert (statuses(answer), code(answer)) == ([500], "internal")
    assert b"id-1" in answer
    assert b"canary" not in answer
    (event,) = a_bench.events("request.crashed")
    assert event["where"].startswith("RuntimeError at ")
    assert "canary" not in a_bench.log.getvalue()


async def test_control_routes_are_answered_on_the_same_connection() -> None:
    caller = FakeConnection(plane())
    listed = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n" % SECRET.encode()
    assert statuses(await caller.ask(listed)) == [200]
    assert statuses(await caller.ask(chat())) == [200]
    assert statuses(await caller.ask(listed.replace(b"/v1/models", b"/v1/chat/completions"))) == [405]
    assert statuses(await caller.ask(chat(path="/v1/chat/completions/"))) == [404]


async def test_while_the_gateway_drains_answers_say_that_the_connection_closes() -> None:
    a_bench = world()
    caller = FakeConnection(plane(a_bench))
    a_bench.admission.gate.leaving = True
    answer = await caller.ask(chat())
    assert b"connection: close" in answer
    assert caller.transport.closed or caller.transport.half_closed


async def test_who_comes_when_even_those_who_are_refused_are_many_is_let_go_at_once() -> None:
    a_plane = plane(max_connections=1)
    callers = [FakeConnection(a_plane) for _ in range(3)]
    assert [statuses(caller.written) for caller in callers] == [[], [503], []]
    assert [caller.transport.closed for caller in callers] == [False, False, True]


async def test_doors_that_become_others_lead_new_calls_there() -> None:
    before, after = world(), world()
    the_doors = doors(before, CATALOG)
    caller = FakeConnection(data_plane(the_doors))
    assert statuses(await caller.ask(chat())) == [200]
    the_doors.become(doors(after, CATALOG))
    assert statuses(await caller.ask(chat())) == [200]
    assert (len(before.completed), len(after.completed)) == (1, 1)


@pytest.mark.parametrize(("secret", "status"), [("sk-" + "x" * 32, 200), ("sk-short", 429)])
async def test_others_who_have_no_key_lock_out_only_those_whose_keys_could_be_guessed(secret: str, status: int) -> None:
    a_plane = data_plane(doors(world(), CATALOG, keys(**{secret.replace("-", "_"): Key("a", models=("*",))})))
    for _ in range(21):
        last = await FakeConnection(a_plane).ask(chat(key="sk-wrong"))
    assert statuses(last) == [429]
    assert statuses(await FakeConnection(a_plane).ask(chat(key=secret))) == [status]


async def test_an_old_client_gets_a_stream_that_ends_with_the_connection() -> None:
    body = json.dumps({**json.loads(BODY), "stream": True}).encode()
    caller = FakeConnection(plane())
    answer = await caller.ask(chat(body).replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n", 1))
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")
    assert caller.transport.closed


async def test_who_asks_before_sending_is_told_to_go_on() -> None:
    caller = FakeConnection(plane())
    caller.send(chat(BODY, "expect: 100-continue")[: -len(BODY)])
    assert caller.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert statuses(await caller.ask(BODY)) == [200]


@pytest.mark.parametrize(
    ("highest", "asked", "status"),
    [("high", "", 200), ("high", "low", 503), ("normal", "", 503), ("normal", "high", 503), ("low", "high", 503)],
)
async def test_when_it_is_crowded_who_must_wait_hears_so_before_the_body_is_read(
    highest: Any, asked: str, status: int
) -> None:
    a_bench = bench(CATALOG, FakeUpstream(small=b"hello"), max_in_flight=10)
    key = Key("urgent", models=("*",), max_priority=highest, **UNLIMITED)
    a_bench.limits.in_flight = 9
    body = json.dumps({**json.loads(BODY), "routing": {"priority": "high"}}).encode()
    caller = FakeConnection(data_plane(doors(a_bench, CATALOG, keys(sk_urgent=key))))
    more = (f"x-thalamus-priority: {asked}",) if asked else ()
    answer = await caller.ask(chat(body, *more, key="sk-urgent")[: -len(body) if status == 503 else None])
    assert statuses(answer) == [status]
    if status == 503:
        assert code(answer) == "overloaded"
        assert re.search(rb"retry-after: [1-4]\r\n", answer)
        (event,) = a_bench.events("request.rejected")
        assert (event["key"], event["operation"], event["code"]) == ("urgent", "chat", "overloaded")


@pytest.mark.parametrize("limit", ["requests_per_minute", "concurrency"])
@pytest.mark.parametrize("body", [BODY, b"no JSON"])
async def test_who_is_over_a_limit_hears_so_before_the_body_is_parsed(limit: str, body: bytes) -> None:
    a_bench = bench(CATALOG, FakeUpstream(small=FakeExchange(hangs=True), large=FakeExchange(hangs=True)))
    key = Key("busy", models=("*",), **{**UNLIMITED, limit: 1})
    a_plane = data_plane(doors(a_bench, CATALOG, keys(sk_busy=key)))
    first, second = FakeConnection(a_plane), FakeConnection(a_plane)
    first.send(chat(key="sk-busy"))
    await until_at_work(a_bench)
    answer = await second.ask(chat(body, key="sk-busy"))
    assert (statuses(answer), code(answer)) == ([429], "rate_limit_exceeded")
    assert b"retry-after: " in answer
    assert a_bench.sample("thalamus_key_requests_total", key="other", outcome="rate_limit_exceeded") == 1
    first.leave()
    await first.settle()
    assert a_bench.in_flight == (0, 0, 0)


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (b"no JSON", 400),
        (json.dumps({"model": "auto", "messages": []}).encode(), 400),
        (json.dumps({**json.loads(BODY), "mood": "good"}).encode(), 400),
        (json.dumps({**json.loads(BODY), "model": "gpt-9"}).encode(), 404),
        (json.dumps({**json.loads(BODY), "routing": {"explain": True}}).encode(), 403),
    ],
)
async def test_a_body_that_is_read_and_refused_takes_a_request_but_no_tokens_and_no_place(
    refused: bytes, status: int
) -> None:
    limits = {**UNLIMITED, "requests_per_minute": 3, "tokens_per_minute": 1000, "concurrency": 1}
    key = Key("busy", models=("*",), scopes=frozenset({"inference"}), **limits)
    a_bench = world()
    caller = FakeConnection(data_plane(doors(a_bench, CATALOG, keys(sk_busy=key))))
    assert statuses(await caller.ask(chat(refused, key="sk-busy"))) == [status]
    answer = await caller.ask(chat(key="sk-busy"))
    assert statuses(answer) == [200]
    assert b"x-ratelimit-remaining-requests: 1\r\n" in answer
    assert int(re.findall(rb"x-ratelimit-remaining-tokens: (\d+)", answer)[0]) > 900
    assert statuses(await caller.ask(chat(refused, key="sk-busy"))) == [status]
    answer = await caller.ask(chat(refused, key="sk-busy"))
    assert (statuses(answer), code(answer)) == ([429], "rate_limit_exceeded")
    assert b"x-ratelimit-remaining-requests: 0\r\n" in answer
    assert a_bench.in_flight == (0, 0, 0)


async def test_a_stream_that_breaks_ends_in_one_error_event_and_the_connection_stays() -> None:
    broken = FakeExchange([STREAMED, UpstreamDisconnected("it was cut")])
    a_bench = bench(CATALOG, FakeUpstream(small=[broken, b"hello"], large=b"hello"))
    caller = FakeConnection(plane(a_bench))
    body = json.dumps({**json.loads(BODY), "stream": True}).encode()
    answer = await caller.ask(chat(body))
    assert answer.count(b'data: {"error"') == 1
    assert answer.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in answer
    assert not a_bench.events("request.crashed")
    assert statuses(await caller.ask(chat(body))) == [200]
