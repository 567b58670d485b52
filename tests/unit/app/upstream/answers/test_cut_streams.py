"""A stream that breaks after k tokens: the text so far, exactly one error event, and no end that looks like one.

Prints its figure as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from app.errors import AnswerTooLarge, UpstreamDisconnected
from app.upstream.answers.answer import Answer, Form, read_answer
from app.upstream.http.deadline import Deadline
from app.upstream.http.exchange import Pace
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import FakeExchange, Piece, chunk, event

DONE = event(b"[DONE]")
Api = Callable[[int], bytes]


def chat_token(number: int) -> bytes:
    return event(chunk(f" t{number}"))


def text_token(number: int) -> bytes:
    choice = {"index": 0, "text": f" t{number}", "finish_reason": None}
    return event({"id": "1", "object": "text_completion", "model": "small", "choices": [choice]})


def response_token(number: int) -> bytes:
    kind = "response.output_text.delta"
    return b"event: %b\n" % kind.encode() + event({"type": kind, "sequence_number": number, "delta": f" t{number}"})


APIS: dict[Any, Api] = {"chat": chat_token, "completion": text_token, "responses": response_token}

# How it breaks: what comes instead of the next token, and the code of the error event.
BREAKS: dict[str, tuple[Callable[[bytes], list[Piece]], str]] = {
    "ends": (lambda _: [], "upstream_disconnected"),
    "resets": (lambda _: [UpstreamDisconnected("reset")], "upstream_disconnected"),
    "ends inside an event": (lambda token: [token[: len(token) // 2]], "upstream_disconnected"),
    "ends inside a character": (lambda token: [token[:-4] + b"\xf0\x9f"], "upstream_disconnected"),
    "sends half an event": (lambda token: [event(_data(token)[:-7]), token, DONE], "bad_upstream"),
    "sends half a character": (lambda token: [event(_data(token)[:-3] + b'\xf0\x9f"}')], "bad_upstream"),
    "sends a byte too many": (lambda token: [event(_data(token) + b"}"), token, DONE], "bad_upstream"),
    "sends something else": (lambda token: [event(b'"' + _data(token)[:5] + b'"')], "bad_upstream"),
    "sends an error": (lambda token: [event({"error": {"message": "died", "code": 500}}), token, DONE], "bad_upstream"),
    "sends an endless event": (lambda _: [b"data: ", *[b"x" * (1 << 20)] * 9, DONE], "bad_upstream"),
}


def _data(token: bytes) -> bytes:
    return token.partition(b"data: ")[2].removesuffix(b"\n\n")


async def relayed(operation: Any, pieces: list[Piece]) -> tuple[bytes, Answer]:
    clock = FakeClock()
    pace = Pace(30.0, Deadline.after(600, clock), clock, clock.call_later)
    answer = await read_answer(FakeExchange(pieces), Form("shown", stream=True, operation=operation), pace)
    return b"".join([piece async for piece in answer]), answer


def regrouped(pieces: list[Piece], random: Random) -> list[Piece]:
    """The same bytes, arriving together or apart as it happens."""
    grouped: list[Piece] = []
    for piece in pieces:
        last = grouped[-1] if grouped else None
        if isinstance(piece, bytes) and isinstance(last, bytes) and len(piece) < 5000 and random.random() < 0.5:
            grouped[-1] = last + piece
        else:
            grouped.append(piece)
    return grouped


def read(sent: bytes) -> tuple[str, list[dict[str, Any]]]:
    """The text in a stream, and its errors."""
    events = [json.loads(_data(b"\n" + part + b"\n\n")) for part in sent.split(b"\n\n") if part]
    text = ""
    for one in events:
        choice = one["choices"][0] if "choices" in one else {}
        text += one.get("delta") or choice.get("text") or choice.get("delta", {}).get("content") or ""
    return text, [one["error"] for one in events if "error" in one]


@pytest.fixture(scope="module")
def figure(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Streams that ended as they should."""
    counted: Counter[str] = Counter()
    yield counted
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(
            json.dumps({"test": "R2", "ways": len(BREAKS) * len(APIS), **counted, "with_one_error": counted["streams"]})
        )


@pytest.mark.parametrize("operation", APIS)
@pytest.mark.parametrize("breaks", BREAKS)
def test_a_stream_that_breaks_ends_with_one_error_event(
    operation: Any, breaks: str, full_size: bool, figure: Counter[str]
) -> None:
    token, (broken, code) = APIS[operation], BREAKS[breaks]
    random, lasts = Random(breaks), range(1, 51) if full_size else (1, 2, 7, 50)
    for k in lasts:
        pieces: list[Piece] = [*map(token, range(k)), *broken(token(k))]
        sent, answer = asyncio.run(relayed(operation, regrouped(pieces, random)))
        text, errors = read(sent)
        assert text == "".join(f" t{number}" for number in range(k))
        assert [error["code"] for error in errors] == [code]
        assert b"[DONE]" not in sent
        assert answer.error is not None
        assert (answer.error.code, answer.complete, answer.counted_tokens) == (code, False, k)
        figure["streams"] += 1


@pytest.mark.parametrize("operation", ["chat", "completion"])
def test_an_end_that_is_none_is_not_taken_for_one(operation: Any) -> None:
    """Neither a finish reason nor [DONE] is a cut; a finish reason alone is an end, and [DONE] is added."""
    token = APIS[operation](0)
    finished = token.replace(b'"finish_reason":null', b'"finish_reason":"stop"')
    assert asyncio.run(relayed(operation, [token]))[0].count(b"upstream_disconnected") == 1
    sent, answer = asyncio.run(relayed(operation, [token, finished]))
    assert (sent.endswith(DONE), answer.done_added, answer.error) == (True, True, None)


@pytest.mark.parametrize("operation", APIS)
def test_an_event_of_a_size_that_the_caller_chose_is_told_as_such(operation: Any) -> None:
    endless, code = BREAKS["sends an endless event"]
    sent, answer = asyncio.run(relayed(operation, [APIS[operation](0), *endless(b"")]))
    assert type(answer.error) is AnswerTooLarge
    assert [error["code"] for error in read(sent)[1]] == [code]


def test_an_event_that_comes_twice_is_passed_on_twice_and_counted_so() -> None:
    """Chunks have no numbers: nothing tells a repeated one from the same word said again."""
    sent, answer = asyncio.run(relayed("chat", [chat_token(1), chat_token(1), event(chunk("", "stop")), DONE]))
    assert (read(sent.replace(DONE, b""))[0], answer.counted_tokens, answer.complete) == (" t1 t1", 2, True)
