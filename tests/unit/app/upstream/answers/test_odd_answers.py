"""Answers that no sound backend gives: each is the backend's failure, told as such, and never one of ours."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from app.domain.request import Operation
from app.errors import UpstreamBroken, UpstreamError
from app.upstream.answers.answer import Answer, Form, read_answer
from app.upstream.answers.payload import LARGE_BYTES, parse
from app.upstream.http.deadline import Deadline
from app.upstream.http.exchange import Pace
from app.upstream.http.faults import Unreadable
from tests.fakes.clock import FakeClock
from tests.fakes.paper import Paper
from tests.fakes.upstream import FakeExchange, Piece, chunk, event
from tests.fakes.yardstick import SHARED, Machine

DONE = event(b"[DONE]")
DEEP = b"[" * 990 + b"]" * 990


async def plain(body: Piece, operation: Operation = "chat") -> Answer:
    return await read(FakeExchange([body], content_type="application/json"), Form("shown", False, operation=operation))


async def read(exchange: FakeExchange, form: Form) -> Answer:
    clock = FakeClock()
    return await read_answer(exchange, form, Pace(30.0, Deadline.after(600, clock), clock, clock.call_later))


async def streamed(*pieces: Piece, operation: Operation = "chat") -> tuple[bytes, Answer]:
    answer = await read(FakeExchange(pieces), Form("shown", True, operation=operation))
    return b"".join([piece async for piece in answer]), answer


def saying(text: str, fields: bytes) -> bytes:
    """An event with these fields, as they are written, before its choices."""
    choices = json.dumps([{"index": 0, "delta": {"content": text}, "finish_reason": None}]).encode()
    return event(b"{%b,%b:%b}" % (fields, b'"choices"', choices))


NAMES = {
    "inside something else first": b'"a":{"model":"own"},"model" : "own"',
    "inside something else last": b'"model" : "own","a":{"model":"own"}',
    "only inside something else": b'"a":{"model":"shown"}',
    "twice": b'"model":"own","model":"own"',
    "twice, written in two ways": b'"model":"own","model" : "own"',
    "twice, the last time ours": b'"model":"own","model":"shown"',
    "escaped": b'"mod\\u0065l":"own"',
    "escaped and inside something else": b'"a":{"model":"own"},"mod\\u0065l":"own"',
    "twice, once escaped": b'"model":"own","\\u006Dodel":"own"',
    "as null": b'"model":null',
}


def names(data: bytes) -> list[object]:
    """All that a reader may take for the name of the model, whichever field of the same name it takes."""
    found: list[object] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # The outermost object is read last.
        found[:] = [value for name, value in pairs if name == "model"]
        return dict(pairs)

    json.loads(data, object_pairs_hook=look)
    return found


@pytest.mark.parametrize("before", [[], [saying('"', b'"model":"own"')]], ids=["at first", "later"])
@pytest.mark.parametrize("fields", NAMES.values(), ids=NAMES.keys())
async def test_a_caller_sees_the_public_name_however_a_backend_writes_its_own(
    fields: bytes, before: list[bytes]
) -> None:
    sent, answer = await streamed(*before, saying('"', fields), saying('"', fields), event(chunk("", "stop")), DONE)
    events = [part[6:] for part in sent.split(b"\n\n") if part.startswith(b"data: {")]
    assert [names(data) for data in events] == [["shown"]] * (3 + len(before))
    assert answer.complete
    whole = await plain(b'{%b,"choices":[{}]}' % fields)
    assert names(await whole.whole()) == ["shown"]


async def test_an_event_without_a_name_after_one_whose_name_stood_elsewhere_is_passed_on() -> None:
    first, second = saying("a", b'"a":{"model":"own"},"model" : "own"'), saying('"', b'"a":{"model":"own"}')
    sent, answer = await streamed(first, second, event(chunk("", "stop")), DONE)
    assert (answer.error, answer.complete) == (None, True)
    assert sent.count(b'"model":"shown"') == 3


async def test_the_name_in_a_response_that_is_told_twice_is_not_passed_on() -> None:
    first = event(b'{"type":"response.created","response":{"model":"own"},"response":null}')
    last = {"type": "response.completed", "response": {"status": "completed", "output": [], "model": "own"}}
    sent, answer = await streamed(first, event(last), operation="responses")
    assert (b'"own"' in sent, answer.complete) == (False, True)


@pytest.mark.parametrize("status", [[], {}, 7, True, None])
async def test_a_state_that_is_none_is_no_failure_of_ours(status: object) -> None:
    response = {"object": "response", "status": status, "output": []}
    assert await (await plain(json.dumps(response).encode(), "responses")).whole()
    delta = event({"type": "response.output_text.delta", "delta": "a"})
    _, answer = await streamed(
        delta, event({"type": "response.completed", "response": response}), operation="responses"
    )
    assert (answer.complete, answer.error) == (True, None)


async def test_nesting_that_cannot_be_written_again_is_the_backends_failure() -> None:
    with pytest.raises(UpstreamBroken, match="nesting") as caught:
        await plain(b'{"choices":[{}],"x":%b}' % DEEP)
    assert not isinstance(caught.value, Unreadable)
    with pytest.raises(UpstreamBroken, match="nesting"):
        await plain(b'{"object":"response","output":%b}' % DEEP, "responses")
    sent, answer = await streamed(event(chunk("a")), saying('"', b'"x":%b' % DEEP))
    assert answer.error is not None
    assert (answer.error.code, b'"content":"a"' in sent) == ("bad_upstream", True)
    assert not isinstance(answer.error, Unreadable)


async def test_a_record_cannot_be_added_to_such_an_answer() -> None:
    answer = await plain(b'{"model":"own","choices":[{}],"x":%b}' % DEEP)
    answer.attach(dict)
    with pytest.raises(UpstreamBroken, match="nesting"):
        await answer.whole()
    assert answer.error is not None
    assert (answer.error.code, answer.complete) == ("bad_upstream", False)
    whole = event({**chunk("a", "stop"), "model": "small"})
    deep = event(b'{"id":%b,"model":"small","choices":[]}' % DEEP)
    stream = await read(FakeExchange([whole, deep, DONE]), Form("shown", True))
    stream.attach(dict)
    assert b"bad_upstream" in b"".join([piece async for piece in stream])
    assert not stream.complete


async def test_numbers_without_an_end_are_not_passed_on() -> None:
    with pytest.raises(UpstreamBroken, match="numbers"):
        await plain(b'{"choices":[{}],"x":1e999,"y":"\\ud800"}')


class Bug(Exception):
    """Nobody expects it."""


@pytest.mark.parametrize("before", [[], [event(chunk(""))]])
async def test_what_nobody_expected_before_the_answer_began_is_a_broken_backend(before: list[Piece]) -> None:
    exchange = FakeExchange([*before, Bug("a secret")])
    with pytest.raises(Unreadable) as caught:
        await read(exchange, Form("shown", True))
    assert ("Bug at " in caught.value.where, "secret" in caught.value.where) == (True, False)
    assert (caught.value.code, caught.value.message) == ("bad_upstream", "the backend's answer could not be read")
    assert exchange.closed
    with pytest.raises(Unreadable):
        await plain(Bug())


async def test_who_is_cancelled_while_reading_is_not_taken_for_a_broken_backend() -> None:
    reading = asyncio.create_task(read(FakeExchange(hangs=True), Form("shown", True)))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def iterated(answer: Answer) -> bytes:
    return b"".join([piece async for piece in answer])


async def relayed(answer: Answer) -> bytes:
    paper = Paper()
    await answer.relay(paper)
    return paper.written


@pytest.mark.parametrize("passed_on", [iterated, relayed])
async def test_what_nobody_expected_in_mid_stream_is_its_error(passed_on: Callable[[Answer], Any]) -> None:
    answer = await read(FakeExchange([event(chunk("a")), event(chunk("b")), Bug()]), Form("shown", True))
    errors: list[UpstreamError | None] = []
    answer.on_close(lambda closed: errors.append(closed.error))  # type: ignore[arg-type]
    sent = await passed_on(answer)
    assert (sent.count(b'"bad_upstream"'), b'"content":"b"' in sent) == (1, True)
    assert [type(error) for error in errors] == [Unreadable], "known before the answer closes"
    assert not answer.complete


BOMBS = {"objects": b"{},", "lists": b"[],", "nested": b"[[[]]],", "small objects": b'{"a":1},'}


@pytest.mark.parametrize("piece", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("operation", ["chat", "responses", "embeddings"])
async def test_very_many_small_things_are_not_read(piece: bytes, operation: Operation) -> None:
    field = {"chat": b"choices", "responses": b"output", "embeddings": b"data"}[operation]
    body = b'{"%b":[%b0]}' % (field, piece * ((4 << 20) // len(piece)))
    tracemalloc.start()
    with pytest.raises(UpstreamBroken, match="too many small things"):
        await plain(body, operation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def likely(count: int, number: int = 20) -> list[dict[str, Any]]:
    """The shortest form of `count` tokens with the 20 likeliest ones each."""
    one = {"token": "", "logprob": 0, "bytes": list[int]()}
    return [{**one, "top_logprobs": [one] * number} for _ in range(count)]


@pytest.mark.parametrize("top", [0, 1, 20])
async def test_the_log_probabilities_of_a_long_answer_are_read(top: int) -> None:
    choice = {"index": 0, "message": {"content": "a"}, "logprobs": {"content": likely(84_000 // (top + 1), top)}}
    body = json.dumps({"choices": [choice]}, separators=(",", ":")).encode()
    assert 1 << 20 < len(body) < 16 << 20
    assert (await plain(body)).logprobs == 84_000 // (top + 1)


MANY = {
    "keys": b'{"choices":[],"x":{%b}}' % b",".join(b'"%x":1' % number for number in range(1_500_000)),
    "numbers": b'{"choices":[],"x":[%b1]}' % (b"1," * (7 << 20)),
    "fractions": b'{"choices":[],"x":[%b1]}' % (b"1.1," * (15 << 18)),
    "texts": b'{"choices":[],"x":[%b1]}' % (b'"",' * (5 << 20)),
    "objects": b'{"choices":[],"x":[%b1]}' % (b'{"":111111111},' * ((1 << 20) - 1000)),
}


@pytest.mark.parametrize("name", MANY)
def test_very_many_things_of_any_kind_are_refused_in_a_moment(name: str, machine: Machine) -> None:
    taken_s = []
    for _ in range(3):
        began_at = time.process_time()
        with pytest.raises(UpstreamBroken, match="too many small things"):
            parse(MANY[name])
        taken_s.append(time.process_time() - began_at)
    assert min(taken_s) < SHARED * 0.03 * machine.slowness()


def test_embeddings_as_large_as_an_answer_may_be_are_read() -> None:
    numbers = ",".join(f"{number / 7e7:.9f}" for number in range(1024))
    each = [f'{{"index":{index},"embedding":[{numbers}]}}' for index in range(1_300)]
    body = f'{{"data":[{",".join(each)}]}}'
    assert 15 << 20 < len(body) < 16 << 20
    assert len(parse(body.encode())["data"]) == 1_300


@pytest.mark.parametrize("text", ["[1,2],", '{"a":"\\\\"},', "[[[", '"{"'])
async def test_a_text_may_have_any_number_of_brackets(text: str) -> None:
    said = text * (2 * LARGE_BYTES // len(text))
    body = json.dumps({"choices": [{"index": 0, "message": {"content": said}}]}).encode()
    assert json.loads(await (await plain(body)).whole())["choices"][0]["message"]["content"] == said


def test_what_is_large_and_broken_is_told_as_such() -> None:
    for body in (b'{"a":"' + b"{" * LARGE_BYTES, b"{" * LARGE_BYTES, b'{"' * LARGE_BYTES):
        with pytest.raises(UpstreamBroken):
            parse(body)
