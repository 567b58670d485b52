"""Answers over exchanges made of pieces: what the caller gets, and what is noted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.usage import Usage
from app.errors import UpstreamBroken, UpstreamDisconnected, UpstreamError
from app.upstream.answers.answer import Answer, Form, read_answer
from app.upstream.forwarding import form_of
from app.upstream.http.deadline import Deadline
from app.upstream.http.exchange import Pace
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import FakeExchange, Piece, chunk, event, plain_of, stream_of, texts
from tests.fakes.world import model, request

STREAM = Form("shown", stream=True)
PLAIN = Form("shown", stream=False)
DONE = event(b"[DONE]")


def pace(clock: FakeClock | None = None, idle_s: float = 30.0, total_s: float = 600.0) -> Pace:
    clock = clock or FakeClock()
    return Pace(idle_s, Deadline.after(total_s, clock), clock, clock.call_later)


async def everything(answer: Answer) -> bytes:
    return b"".join([piece async for piece in answer])


async def stream(*pieces: Piece, form: Form = STREAM) -> tuple[bytes, Answer]:
    answer = await read_answer(FakeExchange(pieces), form, pace())
    return await everything(answer), answer


async def test_a_stream_is_passed_on_under_the_callers_name_of_the_model() -> None:
    answer = await read_answer(stream_of("hello"), STREAM, pace())
    sent = await everything(answer)
    models = {json.loads(line[6:])["model"] for line in sent.split(b"\n\n") if line.startswith(b"data: {")}
    assert (texts(sent), models) == ("hello", {"shown"})
    assert sent.endswith(DONE)
    assert (answer.complete, answer.usage) == (True, Usage(3, 2))


@given(st.integers(0, 400), st.integers(0, 400))
def test_a_stream_cut_anywhere_by_the_network_reads_the_same(a: int, b: int) -> None:
    whole = b"".join((event(chunk("a")), b": ping\n\n", event(chunk("b", "stop")), DONE))
    first, second = sorted((a, b))
    pieces = [piece for piece in (whole[:first], whole[first:second], whole[second:]) if piece]
    assert asyncio.run(stream(*pieces))[0] == asyncio.run(stream(whole))[0]


NOT_BEGUN: dict[str, list[Piece]] = {
    "nothing at all": [],
    "only a role": [event(chunk(""))],
    "only [DONE]": [DONE],
    "an error object": [event({"error": {"message": "engine died", "code": 500}}), DONE],
    "an error that is all of it": [event({"object": "error", "message": "engine died", "code": 500}), DONE],
    "a choice that failed": [event(chunk("", "error")), DONE],
    "no JSON": [event(b"{")],
    "no object": [event(b"[1]")],
    "NaN": [event(b'{"choices": [], "x": NaN}')],
    "bad UTF-8": [event(b'{"choices": "\xff"}')],
    "deep nesting": [event(b"[" * 100_000)],
    "an aborted answer": [event(chunk("", "abort"))],
    "a cut": [UpstreamDisconnected("cut")],
    "an endless event": [b"data: " + b"x" * (1 << 20)],
}


@pytest.mark.parametrize("pieces", NOT_BEGUN.values(), ids=NOT_BEGUN.keys())
async def test_a_stream_that_says_nothing_raises_so_that_another_can_be_tried(pieces: list[Piece]) -> None:
    exchange = FakeExchange(pieces)
    with pytest.raises(UpstreamBroken) as caught:
        await read_answer(exchange, STREAM, pace())
    assert caught.value.code == "bad_upstream", "the other code is for streams that had begun"
    assert exchange.closed


FAILED = {**chunk(""), "choices": [{"index": 0, "delta": {}, "error": {"code": 502, "message": "secret-host died"}}]}
BEGUN: dict[str, tuple[list[Piece], str]] = {
    "the end without [DONE]": ([], "upstream_disconnected"),
    "a cut": ([UpstreamDisconnected("cut")], "upstream_disconnected"),
    "a cut inside an event": ([event(chunk("b"))[:20]], "upstream_disconnected"),
    "an error object": ([event({"error": {"message": "secret-host died"}}), DONE], "bad_upstream"),
    "an error that is all of it": (
        [event({"object": "error", "message": "secret-host died", "code": 500}), DONE],
        "bad_upstream",
    ),
    "a choice that failed": ([event(chunk("", "error")), DONE], "bad_upstream"),
    "a choice with an error": ([event(FAILED), DONE], "bad_upstream"),
    "no JSON": ([event(b"{")], "bad_upstream"),
    "an endless event": ([b"data: " + b"x" * (1 << 20)], "bad_upstream"),
    "an abort": ([event(chunk("b", "abort")), DONE], "upstream_disconnected"),
}


@pytest.mark.parametrize(("rest", "code"), BEGUN.values(), ids=BEGUN.keys())
async def test_a_begun_stream_that_fails_ends_with_one_error_event(rest: list[Piece], code: str) -> None:
    sent, answer = await stream(event(chunk("a")), *rest)
    events = [json.loads(part[6:]) for part in sent.split(b"\n\n") if part]
    assert [sorted(one["error"]) for one in events[1:]] == [["code", "message", "param", "type"]]
    assert events[1]["error"]["code"] == code
    assert b"secret-host" not in sent
    assert answer.error is not None
    assert (answer.error.code, answer.complete, texts(sent)) == (code, False, "a")


async def test_a_failure_in_the_same_piece_as_the_first_output_is_an_event_too() -> None:
    sent, _ = await stream(event(chunk("a")) + event(b"{"))
    assert texts(sent) == "a"
    assert b'"bad_upstream"' in sent


@pytest.mark.parametrize(
    ("choices", "finished", "whole"), [(1, (0,), True), (2, (0, 1), True), (2, (0,), False), (1, (), False)]
)
async def test_a_missing_done_is_added_when_every_choice_was_finished(
    choices: int, finished: tuple[int, ...], whole: bool
) -> None:
    ends = [event(chunk("", "stop", index=index)) for index in finished]
    sent, answer = await stream(event(chunk("a")), *ends, form=Form("shown", True, choices))
    assert (sent.endswith(DONE), answer.done_added, answer.complete) == (whole, whole, whole)


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_usage_chunk_is_hidden_unless_it_was_asked_for(wanted: bool) -> None:
    answer = await read_answer(stream_of("x"), Form("shown", True, wants_usage=wanted), pace())
    assert (b'"usage"' in await everything(answer)) is wanted
    assert answer.usage == Usage(3, 2)


async def test_output_is_counted_where_no_usage_comes() -> None:
    _, answer = await stream(event(chunk("")), event(chunk("a")), event(chunk("b")), UpstreamDisconnected("cut"))
    assert (answer.usage, answer.counted_tokens) == (None, 2)


def saying(**delta: Any) -> bytes:
    return event({"model": "small", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


async def test_a_usage_that_is_null_is_none_and_the_chunk_is_passed_on() -> None:
    nothing = {**chunk("a"), "usage": None}
    sent, answer = await stream(event(nothing), event({**chunk("", "stop"), "usage": None}), DONE)
    assert (texts(sent), answer.usage, answer.counted_tokens, answer.complete) == ("a", None, 1, True)


async def test_a_usage_that_makes_no_sense_does_not_replace_one_that_did() -> None:
    good, bad = {"prompt_tokens": 3, "completion_tokens": 2}, {"prompt_tokens": "many"}
    _, answer = await stream(event({**chunk("a", "stop"), "usage": good}), event({"choices": [], "usage": bad}), DONE)
    assert answer.usage == Usage(3, 2)


@pytest.mark.parametrize(
    ("delta", "tokens"),
    [
        ({"content": " internationally"}, 1),
        ({"content": "x" * 400}, 100),
        ({"content": "é" * 200}, 100),
        ({"content": "", "reasoning_content": "x" * 40}, 10),
        ({"reasoning": "hm"}, 1),
        ({"reasoning": "x" * 40, "reasoning_content": "x" * 40}, 10),
        ({"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": "x" * 36}}]}, 10),
        ({"tool_calls": [{"index": 0, "function": None}, None]}, 1),
        ({"refusal": "x" * 40}, 10),
        ({"content": [{"type": "text", "text": "parts are not counted"}]}, 1),
    ],
)
async def test_a_chunk_without_usage_counts_as_many_tokens_as_it_is_long(delta: dict[str, Any], tokens: int) -> None:
    sent, answer = await stream(saying(role="assistant", content=""), saying(**delta), event(chunk("", "stop")), DONE)
    assert (answer.counted_tokens, answer.complete) == (tokens, True)
    assert json.dumps(delta, separators=(",", ":")).encode() in sent or "é" in str(delta)


async def test_text_completions_are_counted_too() -> None:
    event_of = event({"model": "small", "choices": [{"index": 0, "text": "x" * 40, "finish_reason": "stop"}]})
    assert (await stream(event_of, DONE))[1].counted_tokens == 10


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_is_output_and_passes_untouched(name: str) -> None:
    exchange = FakeExchange([saying(role="assistant", content=""), saying(**{name: "hm"})], hangs=True)
    answer = await read_answer(exchange, STREAM, pace())
    assert json.loads((await anext(answer)).split(b"\n\n")[1][6:])["choices"][0]["delta"] == {name: "hm"}
    answer.close()


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_a_plain_answer_may_consist_of_reasoning(name: str) -> None:
    message = {"role": "assistant", "content": None, name: "x" * 40}
    whole = {"model": "small", "choices": [{"index": 0, "message": message, "finish_reason": "length"}], "usage": None}
    exchange = FakeExchange([json.dumps(whole).encode()], content_type="application/json")
    answer = await read_answer(exchange, PLAIN, pace())
    assert (answer.usage, answer.counted_tokens) == (None, 10)
    assert json.loads(await everything(answer))["choices"][0]["message"] == message


USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
FINISH, USED = event(chunk("b", "stop")), event({**chunk(""), "choices": [], "usage": USAGE})
ALL_AT_ONCE = [event(chunk("a")) + FINISH + USED + DONE]
ONE_BY_ONE = [event(chunk("a")), FINISH, USED, DONE]


def chunks(sent: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in sent.split(b"\n\n") if line.startswith(b"data: {")]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("pieces", [ALL_AT_ONCE, ONE_BY_ONE, [FINISH, USED + DONE]], ids=["at once", "each", "short"])
async def test_the_record_travels_on_the_last_chunk_beside_the_usage(pieces: list[Piece], wanted: bool) -> None:
    answer = await read_answer(FakeExchange(pieces), Form("shown", True, wants_usage=wanted), pace())
    answer.attach(lambda: {"decision_id": "d"})
    sent = await everything(answer)
    *others, last = chunks(sent)
    assert (last["thalamus"], last["model"]) == ({"decision_id": "d"}, "shown")
    assert last.get("usage") == (USAGE if wanted else None)
    assert (texts(sent)[-1], sent.endswith(DONE), [one for one in others if "thalamus" in one]) == ("b", True, [])


async def test_a_stream_that_never_says_that_it_ends_has_the_record_on_a_chunk_of_its_own() -> None:
    answer = await read_answer(FakeExchange([event(chunk("a")) + DONE]), STREAM, pace())
    answer.attach(lambda: {"decision_id": "d"})
    last = chunks(await everything(answer))[-1]
    assert (last["thalamus"], last["choices"], last["id"], last["model"]) == ({"decision_id": "d"}, [], "1", "shown")


@pytest.mark.parametrize("end", [[DONE], [], [UpstreamDisconnected("cut")]], ids=["done", "over", "cut"])
async def test_a_usage_chunk_that_was_held_back_is_sent_however_the_stream_ends(end: list[Piece]) -> None:
    sent, _ = await stream(event(chunk("a")), FINISH, USED, *end, form=Form("shown", True, wants_usage=True))
    last = {**chunk("", model="shown"), "choices": [], "usage": USAGE}
    assert chunks(sent)[:3] == [chunk("a", model="shown"), chunk("b", "stop", "shown"), last]


async def test_the_word_that_ends_a_stream_may_have_spaces_around_it() -> None:
    sent, answer = await stream(event(chunk("a")), FINISH, event(b" [DONE] "))
    assert (sent.count(b"[DONE]"), sent.endswith(DONE), answer.complete, answer.done_added) == (1, True, True, False)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n"])
async def test_the_word_that_ends_a_stream_needs_no_empty_line_behind_it(end: bytes) -> None:
    sent, answer = await stream(event(chunk("a")), FINISH, b"data: [DONE]" + end)
    assert (texts(sent), sent.count(b"[DONE]"), sent.endswith(DONE)) == ("ab", 1, True)
    assert (answer.complete, answer.error, answer.done_added) == (True, None, False)


@pytest.mark.parametrize(
    "pieces",
    [
        [FINISH, b"data: [DONE"],
        [FINISH, b"data: x\ndata: [DONE]"],
        [FINISH, b"data: {}\n"],
        [event(chunk("b")), b"data: [DONE]\n"],
    ],
)
async def test_half_of_that_word_or_of_anything_else_is_no_end(pieces: list[Piece]) -> None:
    sent, answer = await stream(event(chunk("a")), *pieces)
    assert (b"[DONE]" in sent, sent.count(b"upstream_disconnected"), answer.complete) == (False, 1, False)


async def test_what_comes_after_the_end_stays_behind_it() -> None:
    more = [event(chunk("a")), FINISH, event(chunk("c")), event(chunk("d")), DONE]
    assert texts((await stream(*more))[0]) == "abcd"


async def test_what_else_a_hidden_usage_chunk_says_is_said_on_the_chunk_before() -> None:
    named = event({**chunk(""), "choices": [], "usage": USAGE, "system_fingerprint": "fp", "service_tier": None})
    sent, _ = await stream(event(chunk("a")), FINISH, named, DONE)
    first, last = chunks(sent)
    assert first == chunk("a", model="shown")
    assert last == {**chunk("b", "stop", "shown"), "system_fingerprint": "fp", "service_tier": None}


class Counted(dict[str, Any]):
    """Counts how often it is written."""

    written = 0

    def items(self) -> Any:
        self.written += 1
        return super().items()


@pytest.mark.parametrize("form", [PLAIN, STREAM])
async def test_a_record_is_written_once_and_takes_the_place_of_what_the_backend_calls_so(form: Form) -> None:
    said = {"model": "small", "thalamus": "own", "choices": [{"index": 0, "finish_reason": "stop"}]}
    body = event(said) + DONE if form.stream else json.dumps(said).encode()
    kind = "text/event-stream" if form.stream else "application/json"
    answer = await read_answer(FakeExchange([body], content_type=kind), form, pace())
    record = Counted(decision_id="d", too_large_for_the_quick_writer=10**30)
    answer.attach(lambda: record)
    sent = await everything(answer)
    (told,) = chunks(sent) if form.stream else [json.loads(sent)]
    assert told == {**said, "model": "shown", "thalamus": record}
    assert (sent.count(b"thalamus"), record.written) == (1, 1)


def _unmakeable() -> dict[str, Any]:
    raise ValueError("a bug")


@pytest.mark.parametrize("record", [_unmakeable, lambda: {"a": object()}])
@pytest.mark.parametrize("form", [PLAIN, STREAM])
async def test_an_answer_whose_record_cannot_be_made_goes_without_it(record: Callable[[], Any], form: Form) -> None:
    whole = b'{"model":"small","choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}]}'
    exchange = stream_of("x") if form.stream else FakeExchange([whole], content_type="application/json")
    answer = await read_answer(exchange, form, pace())
    failures: list[str] = []
    answer.attach(record, lambda failure: failures.append(type(failure).__name__))
    said = await everything(answer)
    assert (answer.complete, answer.error, b"thalamus" in said, len(failures)) == (True, None, False, 1)
    assert b'"content":"x"' in said


async def test_a_silent_backend_is_given_up_after_the_idle_limit() -> None:
    clock = FakeClock()
    exchange = FakeExchange([event(chunk("a"))], hangs=True)
    answer = await read_answer(exchange, STREAM, pace(clock, idle_s=30))
    assert texts(await anext(answer)) == "a"
    rest = asyncio.ensure_future(anext(answer))
    await asyncio.sleep(0)
    clock.advance(29)
    assert not rest.done()
    clock.advance(1)
    assert b'"upstream_timeout"' in await rest
    assert [piece async for piece in answer] == []
    assert exchange.closed


async def test_a_caller_who_does_not_ask_is_not_the_backends_silence() -> None:
    clock = FakeClock()
    answer = await read_answer(FakeExchange([event(chunk("a")), event(chunk("b", "stop")), DONE]), STREAM, pace(clock))
    await anext(answer)
    clock.advance(300)
    assert texts(await anext(answer)) == "b"


async def test_the_deadline_ends_a_stream_that_goes_on_talking() -> None:
    clock = FakeClock()
    exchange = FakeExchange([event(chunk(str(n))) for n in range(100)], hangs=True)
    answer = await read_answer(exchange, STREAM, pace(clock, total_s=10))
    sent = b""
    async for piece in answer:
        sent += piece
        clock.advance(1)
    assert 8 <= len(texts(sent)) <= 12
    assert b'"upstream_timeout"' in sent


async def test_closing_tells_each_closer_once_the_latest_first() -> None:
    exchange = stream_of("x")
    answer = await read_answer(exchange, STREAM, pace())
    told: list[str] = []
    answer.on_close(lambda _: told.append("first"))
    answer.on_close(lambda _: told.append("second"))
    await answer.aclose()
    await answer.aclose()
    assert (told, answer.complete, exchange.closed) == (["second", "first"], False, 1)
    assert [piece async for piece in answer] == []


async def test_a_stream_that_was_read_to_its_end_closes_itself() -> None:
    exchange = stream_of("x")
    answer = await read_answer(exchange, STREAM, pace())
    await everything(answer)
    assert (exchange.closed, exchange.unread) == (1, 0)


async def test_a_plain_answer_keeps_its_bytes_but_for_the_models_name() -> None:
    body = b'{"id": "1", "model": "served", "choices": [{"message": {"content": "\\"model\\": \\"served\\""}}]}'
    answer = await read_answer(FakeExchange([body[:9], body[9:]], content_type="application/json"), PLAIN, pace())
    assert await everything(answer) == body.replace(b'"model": "served"', b'"model":"shown"', 1)


async def test_a_plain_answer_carries_the_record_when_asked() -> None:
    answer = await read_answer(plain_of("hello"), PLAIN, pace())
    answer.attach(lambda: {"decision_id": "d"})
    body = json.loads(await everything(answer))
    assert (body["thalamus"], body["model"], answer.usage) == ({"decision_id": "d"}, "shown", Usage(3, 2))


BROKEN: dict[str, Any] = {
    "an error": {"error": {"message": "no"}},
    "no choices": {"id": "1"},
    "an empty list of them": {"id": "1", "choices": []},
    "a choice that is none": {"id": "1", "choices": [None]},
    "an abort": {"choices": [{"finish_reason": "abort", "message": {"content": "par"}}]},
    "a list": [1],
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
async def test_a_plain_answer_that_is_none_is_refused(body: Any) -> None:
    with pytest.raises(UpstreamError):
        await read_answer(FakeExchange([json.dumps(body).encode()], content_type="application/json"), PLAIN, pace())


async def test_a_plain_answer_of_any_size_is_not_kept() -> None:
    exchange = FakeExchange([b"x" * (1 << 20)] * 20, content_type="application/json")
    with pytest.raises(UpstreamBroken, match="larger than"):
        await read_answer(exchange, PLAIN, pace())
    assert exchange.unread == 3
    assert exchange.closed


async def test_an_answer_to_a_stream_that_is_no_stream_is_refused() -> None:
    with pytest.raises(UpstreamBroken, match="stream"):
        await read_answer(plain_of("hello"), STREAM, pace())


@pytest.mark.parametrize("name", ["small", "org/Name-1.5B", 'odd "name"', "\u00e9"])
async def test_every_name_is_replaced(name: str) -> None:
    sent, _ = await stream(event(chunk("a", model=name)), event(chunk("", "stop", model=name)), DONE)
    assert name not in sent.decode()
    assert sent.count(b'"shown"') == 2


async def test_half_of_a_pair_passes_as_the_backend_sent_it() -> None:
    """Servers that cut texts at any place send the halves of an emoji escaped, one after the other."""
    half = event(b'{"model":"small","choices":[{"index":0,"delta":{"content":"\\ud83d"},"finish_reason":null}]}')
    sent, answer = await stream(half, event(chunk("", "stop")), DONE)
    assert (b'"content":"\\ud83d"' in sent, b'"model":"shown"' in sent, answer.complete) == (True, True, True)


async def test_a_beginning_that_says_nothing_is_not_held_for_ever() -> None:
    exchange = FakeExchange([event({**chunk(""), "padding": "x" * 100_000})] * 100)
    with pytest.raises(UpstreamBroken, match="very much before"):
        await read_answer(exchange, STREAM, pace())
    assert exchange.unread > 50


@pytest.mark.parametrize(
    "second",
    [
        b'{"id":"1","model":"small","choices":[{"index":0,"delta":{"content":"b"}}],"model":"other"}',
        b'{"id":"1","model":"other","choices":[{"index":0,"delta":{"content":"b"}}]}',
        b'{"id":"1","choices":[{"index":0,"delta":{"content":"b"}}],"model":"small"}',
        b'{"id":"1","model" : "small","choices":[{"index":0,"delta":{"content":"b"}}]}',
        b'{"id":"1","model":"small","choices":[{"index":0,"delta":{"content":"b"},"model":"small"}]}',
        b'{"id":"1","choices":[{"index":0,"delta":{"content":"b"}}]}',
    ],
)
async def test_a_chunk_that_begins_otherwise_than_the_last_one_is_renamed_too(second: bytes) -> None:
    first = b'{"id":"1","model":"small","choices":[{"index":0,"delta":{"content":"a"}}]}'
    sent, _ = await stream(event(first), event(second), event(first), event(chunk("", "stop")), DONE)
    told = [json.loads(part[6:]) for part in sent.split(b"\n\n")[:-2]]
    assert [one["model"] for one in told] == ["shown"] * 4
    assert texts(sent) == "aba"


async def test_usage_of_the_wrong_form_is_ignored() -> None:
    usages: list[Any] = [{"prompt_tokens": "3"}, {"prompt_tokens": -1, "completion_tokens": 2}, [], 7, {}]
    for usage in usages:
        _, answer = await stream(event({**chunk("a", "stop"), "usage": usage}), DONE)
        assert answer.usage is None


@pytest.mark.parametrize("usage", [{"prompt_tokens": 3}, {"prompt_tokens": 3, "completion_tokens": None}], ids=str)
async def test_output_is_counted_where_the_usage_leaves_it_out(usage: dict[str, Any]) -> None:
    events = [event(chunk("a")), event(chunk("b", "stop")), event({"choices": [], "usage": usage}), DONE]
    _, streamed = await stream(*events)
    choice = {"index": 0, "message": {"role": "assistant", "content": "x" * 40}, "finish_reason": "stop"}
    body = json.dumps({"model": "small", "choices": [choice], "usage": usage}).encode()
    plain = await read_answer(FakeExchange([body], content_type="application/json"), PLAIN, pace())
    assert [(one.usage, one.counted_tokens) for one in (streamed, plain)] == [(None, 2), (None, 10)]


def with_logprobs(text: str, *logprobs: float | None) -> dict[str, Any]:
    told = chunk(text)
    told["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": one} for one in logprobs]}
    return told


async def test_how_probable_a_streamed_answer_was_is_the_mean_over_its_tokens() -> None:
    pieces = [event(with_logprobs("a", -0.5)), event(with_logprobs("b", -1.0, -1.5)), event(chunk("", "stop")), DONE]
    _, answer = await stream(*pieces)
    assert answer.mean_logprob == -1.0


@pytest.mark.parametrize(
    "logprobs",
    [None, [], "x", {}, {"content": None}, {"content": [None, {"logprob": "much"}, {}]}, {"token_logprobs": 7}],
)
async def test_log_probabilities_that_make_no_sense_are_none(logprobs: object) -> None:
    told = chunk("a")
    told["choices"][0]["logprobs"] = logprobs
    _, answer = await stream(event(told), event(chunk("", "stop")), DONE)
    assert answer.complete
    assert answer.mean_logprob is None


async def test_how_probable_a_prompt_was_is_not_taken_for_how_probable_the_answer_was() -> None:
    """The backend repeats it, if told to, with all of its tokens."""
    asked = request(operation="completion", body={"prompt": "ab", "echo": True, "logprobs": 1})
    told = {"choices": [{"index": 0, "text": "abc", "logprobs": {"token_logprobs": [None, -9.0, -0.5]}}]}
    body = FakeExchange([json.dumps(told).encode()], content_type="application/json")
    answer = await read_answer(body, form_of(asked, model("small")), pace())
    assert answer.mean_logprob is None


async def test_the_form_of_completions_is_understood_too() -> None:
    told: dict[str, Any] = {"choices": [{"index": 0, "text": "ab", "logprobs": {"token_logprobs": [None, -2.0, -4.0]}}]}
    _, answer = await stream(event(told), event({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}), DONE)
    assert answer.mean_logprob == -3.0


class Closers:
    """Called by their numbers, at the end of an answer; some fail."""

    def __init__(self, *failing: int) -> None:
        self.called: list[int] = []
        self._failing = failing

    def of(self, number: int) -> Callable[[Answer], None]:
        def closer(_: Answer) -> None:
            self.called.append(number)
            if number in self._failing:
                raise ValueError(number)

        return closer


async def test_a_closer_that_fails_keeps_no_other_from_giving_back_what_it_holds() -> None:
    closers, exchange = Closers(1, 2), plain_of("hello")
    answer = await read_answer(exchange, PLAIN, pace())
    for number in range(4):
        answer.on_close(closers.of(number))
    with pytest.raises(ValueError, match="2"):
        await answer.aclose()
    assert closers.called == [3, 2, 1, 0], "the first failure is raised, after the last was called"
    await answer.aclose()
    assert (closers.called, exchange.closed > 0) == ([3, 2, 1, 0], True)


@pytest.mark.parametrize("odd", ["1e999", "-1e999", "1" * 400, "-" + "9" * 4300, '"-0.5"', "true", "null", "[]", "{}"])
@pytest.mark.parametrize("form", ["chat", "completion"])
async def test_log_probabilities_that_are_none_are_left_out(odd: str, form: str) -> None:
    told = '{"content":[{"logprob":-0.5},{"logprob":%s}]}' if form == "chat" else '{"token_logprobs":[-0.5,%s]}'
    choice = '{"index":0,"delta":{"content":"hello"},"logprobs":%s,"finish_reason":"stop"}' % (told % odd)
    sent, answer = await stream(event(b'{"choices":[%b]}' % choice.encode()), DONE)
    assert (texts(sent), answer.complete, answer.mean_logprob) == ("hello", True, -0.5)
    plain = b'{"choices":[%b]}' % choice.replace("delta", "message").encode()
    whole = await read_answer(FakeExchange([plain]), PLAIN, pace())
    assert whole.mean_logprob == -0.5
