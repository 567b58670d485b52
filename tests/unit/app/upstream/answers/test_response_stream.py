"""Responses over exchanges made of pieces: what the caller gets, and what is noted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.domain.usage import Usage
from app.errors import UpstreamBroken, UpstreamDisconnected
from app.upstream.answers.answer import Answer, Form, read_answer
from app.upstream.http.deadline import Deadline
from app.upstream.http.exchange import Pace
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import FakeExchange, Piece, event

STREAM = Form("shown", stream=True, operation="responses")
PLAIN = Form("shown", stream=False, operation="responses")
USAGE = {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2, "total_tokens": 9}


def named(kind: str, number: int, **more: Any) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": number, **more}, separators=(",", ":")).encode()
    return b"event: %b\n" % kind.encode() + event(data)


def response(status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"id": "r", "object": "response", "model": "served", "status": status, "output": [], "usage": USAGE, **more}


def delta(text: str, number: int) -> bytes:
    return named("response.output_text.delta", number, item_id="m", delta=text)


CREATED = named("response.created", 0, response=response("in_progress", usage=None))
ADDED = named("response.output_item.added", 1, item={"type": "message"})
A, B = delta("a", 2), delta("b", 3)
COMPLETED = named("response.completed", 4, response=response())
WHOLE = [CREATED, ADDED, A, B, COMPLETED]


async def read(*pieces: Piece, form: Form = STREAM) -> tuple[bytes, Answer]:
    clock = FakeClock()
    kind = "text/event-stream" if form.stream else "application/json"
    pace = Pace(30.0, Deadline.after(600, clock), clock, clock.call_later)
    answer = await read_answer(FakeExchange(pieces, content_type=kind), form, pace)
    return b"".join([piece async for piece in answer]), answer


async def test_events_pass_as_they_are_but_for_the_name_of_the_model() -> None:
    sent, answer = await read(*WHOLE)
    assert sent == b"".join(WHOLE).replace(b'"model":"served"', b'"model":"shown"')
    assert (answer.complete, answer.usage, answer.counted_tokens) == (True, Usage(7, 2, 4), 2)


@pytest.mark.parametrize("kind", ["response.output_text.delta", "response.in_progress", "response.completed"])
async def test_no_event_shows_the_backends_own_name_of_the_model(kind: str) -> None:
    odd = named(kind, 2, item_id="m", delta="a", model="served", response=response())
    rest = [] if kind == "response.completed" else [COMPLETED]
    sent, _ = await read(CREATED, odd, *rest)
    assert b"served" not in sent
    assert b'"model":"shown"' in sent.split(b"\n\n")[1].partition(b'"response"')[0]


async def test_an_event_without_a_response_does_not_show_the_backends_name_of_the_model() -> None:
    odd = named("response.output_text.delta", 2, item_id="m", delta="a", model="served")
    assert (await read(CREATED, odd, COMPLETED))[0].split(b"\n\n")[1] + b"\n\n" == odd.replace(b"served", b"shown")


@pytest.mark.parametrize("size", [1, 2, 3, 50, 1000])
async def test_a_response_cut_anywhere_by_the_network_reads_the_same(size: int) -> None:
    whole = b"".join(WHOLE)
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert (await read(*pieces))[0] == (await read(*WHOLE))[0]


@pytest.mark.parametrize("rest", [[], [event(b"[DONE]")]])
async def test_what_follows_the_whole_response_is_dropped(rest: list[bytes]) -> None:
    sent, answer = await read(*WHOLE, *rest)
    assert (sent.count(b"[DONE]"), answer.complete, answer.done_added) == (0, True, False)


async def test_a_response_that_is_cut_by_its_own_limit_is_whole() -> None:
    last = named("response.incomplete", 4, response=response("incomplete"))
    sent, answer = await read(CREATED, A, last)
    assert (sent.count(b"event: response.incomplete"), answer.complete, answer.usage) == (1, True, Usage(7, 2, 4))


NOT_BEGUN: dict[str, list[Piece]] = {
    "nothing at all": [],
    "only the beginning": [CREATED, ADDED],
    "an error": [CREATED, named("error", 1, code="x", message="died")],
    "a failed response": [CREATED, named("response.failed", 1, response=response("failed"))],
    "a failure that is called whole": [CREATED, named("response.completed", 1, response=response("failed"))],
    "an object of errors": [event({"error": {"message": "died"}})],
    "an event without a type": [CREATED, event({"delta": "a"})],
    "a type of two lines": [CREATED, event({"type": "response.x\nevent: y"})],
    "only [DONE]": [CREATED, event(b"[DONE]")],
    "a beginning without end": [named("response.in_progress", n, response={"x": "y" * 100_000}) for n in range(200)],
}


@pytest.mark.parametrize("pieces", NOT_BEGUN.values(), ids=NOT_BEGUN.keys())
async def test_a_response_that_says_nothing_raises_so_that_another_can_be_tried(pieces: list[Piece]) -> None:
    with pytest.raises(UpstreamBroken):
        await read(*pieces)


BEGUN: dict[str, tuple[list[Piece], str]] = {
    "the end": ([], "upstream_disconnected"),
    "a cut": ([UpstreamDisconnected("cut")], "upstream_disconnected"),
    "a cut inside an event": ([B[:60]], "upstream_disconnected"),
    "[DONE] too early": ([event(b"[DONE]")], "upstream_disconnected"),
    "an error": ([named("error", 3, code="x", message="secret-host died"), event(b"[DONE]")], "bad_upstream"),
    "a failed response": ([named("response.failed", 3, response=response("failed"))], "bad_upstream"),
    "a response still in progress": (
        [named("response.completed", 3, response=response("in_progress"))],
        "upstream_disconnected",
    ),
    "no JSON": ([event(b"{")], "bad_upstream"),
    "bad UTF-8": ([event(b'{"type":"response.output_text.delta","delta":"\xff"}')], "bad_upstream"),
    "an endless event": ([b"data: " + b"x" * (8 << 20)], "bad_upstream"),
}


@pytest.mark.parametrize(("rest", "code"), BEGUN.values(), ids=BEGUN.keys())
async def test_a_begun_response_that_fails_ends_with_one_error_event(rest: list[Piece], code: str) -> None:
    sent, answer = await read(CREATED, A, *rest)
    *passed, last = sent.removesuffix(b"\n\n").split(b"\n\n")
    name, data = last.split(b"\n")
    told = json.loads(data.removeprefix(b"data: "))
    assert (name, len(passed), sent.count(b"event: error"), b"secret-host" in sent) == (b"event: error", 2, 1, False)
    assert answer.error is not None
    assert {field: told[field] for field in ("type", "code", "message", "param", "sequence_number")} == {
        "type": "error",
        "code": code,
        "message": answer.error.message,
        "param": None,
        "sequence_number": 3,
    }
    assert (told["error"]["code"], answer.error.code, answer.complete) == (code, code, False)


async def test_a_function_without_arguments_is_output() -> None:
    done = named("response.function_call_arguments.done", 1, name="now", arguments="")
    sent, answer = await read(CREATED, done, UpstreamDisconnected("cut"))
    assert (b"arguments.done" in sent, answer.error is not None) == (True, True)


async def test_a_name_that_occurs_twice_is_changed_only_where_it_names_the_model() -> None:
    last = named("response.completed", 4, response=response(metadata={"model": "served"}))
    sent, _ = await read(CREATED, A, last)
    told = json.loads(sent.rpartition(b"data: ")[2])["response"]
    assert (told["model"], told["metadata"]) == ("shown", {"model": "served"})


@pytest.mark.parametrize("pieces", [WHOLE, [b"".join(WHOLE)], [COMPLETED]], ids=["each", "at once", "only the end"])
async def test_the_record_travels_with_the_whole_response(pieces: list[bytes]) -> None:
    clock = FakeClock()
    pace = Pace(30.0, Deadline.after(600, clock), clock, clock.call_later)
    answer = await read_answer(FakeExchange(pieces), STREAM, pace)
    answer.attach(lambda: {"decision_id": "d"})
    sent = b"".join([piece async for piece in answer])
    last = json.loads(sent.rpartition(b"data: ")[2])
    assert (last["thalamus"], last["response"]["model"]) == ({"decision_id": "d"}, "shown")
    assert (sent.count(b"thalamus"), answer.complete, answer.usage) == (1, True, Usage(7, 2, 4))


async def test_a_response_whose_record_cannot_be_made_goes_without_it() -> None:
    clock = FakeClock()
    answer = await read_answer(
        FakeExchange(WHOLE), STREAM, Pace(30.0, Deadline.after(600, clock), clock, clock.call_later)
    )
    failures: list[Exception] = []
    answer.attach(lambda: {"a": object()}, failures.append)
    sent = b"".join([piece async for piece in answer])
    last = json.loads(sent.rpartition(b"data: ")[2])
    assert (last["type"], last["response"]["model"], "thalamus" in last) == ("response.completed", "shown", False)
    assert (answer.complete, answer.error, len(failures)) == (True, None, 1)


async def test_a_plain_response_keeps_its_bytes_but_for_the_models_name() -> None:
    body = json.dumps(response(output=[{"type": "message"}])).encode()
    sent, answer = await read(body, form=PLAIN)
    assert sent == body.replace(b'"model": "served"', b'"model":"shown"')
    assert (answer.usage, answer.complete) == (Usage(7, 2, 4), True)


@pytest.mark.parametrize("number", ["9" * 4300, "-" + "9" * 4300, "-7", "1.5", "1e999", "true", '"9"', "null"])
async def test_a_number_that_no_event_has_keeps_no_failure_from_being_told(number: str) -> None:
    odd = A.replace(b'"sequence_number":2', b'"sequence_number":%b' % number.encode())
    sent, answer = await read(CREATED, ADDED, odd, event({"type": "error"}))
    told = json.loads(sent.rpartition(b"data: ")[2])
    assert (told["error"]["code"], told["sequence_number"]) == ("bad_upstream", 2)
    assert isinstance(answer.error, UpstreamBroken)


async def test_a_plain_response_without_usage_is_counted_by_its_length() -> None:
    _, answer = await read(json.dumps(response(usage=None, output=["x" * 396])).encode(), form=PLAIN)
    assert (answer.usage, answer.counted_tokens) == (None, 100)


@pytest.mark.parametrize(
    "body",
    [{"error": {"message": "no"}}, response("failed"), response("in_progress"), {"id": "r"}, [1]],
    ids=["an error", "failed", "in progress", "no output", "a list"],
)
async def test_a_plain_response_that_is_none_is_refused(body: Any) -> None:
    with pytest.raises(UpstreamBroken):
        await read(json.dumps(body).encode(), form=PLAIN)


VECTORS = {"object": "list", "model": "served", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 3}}


async def test_embeddings_keep_their_bytes_but_for_the_models_name() -> None:
    body = json.dumps(VECTORS).encode()
    sent, answer = await read(body, form=Form("shown", stream=False, operation="embeddings"))
    assert sent == body.replace(b'"model": "served"', b'"model":"shown"')
    assert (answer.usage, answer.counted_tokens) == (Usage(3, 0), 0)


@pytest.mark.parametrize("body", [{"error": {"message": "no"}}, {"model": "served"}, [1]])
async def test_embeddings_that_are_none_are_refused(body: Any) -> None:
    with pytest.raises(UpstreamBroken):
        await read(json.dumps(body).encode(), form=Form("shown", stream=False, operation="embeddings"))
