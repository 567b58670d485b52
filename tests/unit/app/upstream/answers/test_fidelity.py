"""What passes unchanged is the same byte for byte, however a network cuts it and however a server writes it.

Prints its figure as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.upstream.answers.answer import Answer, Form, read_answer
from app.upstream.answers.sse import MAX_EVENT_BYTES
from app.upstream.http.deadline import Deadline
from app.upstream.http.exchange import Pace
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import FakeExchange, Piece, chunk, event

BOM = b"\xef\xbb\xbf"
DONE = event(b"[DONE]")
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
# What a server may write besides events: comments, fields that nobody reads, empty lines.
NOISE = st.lists(st.sampled_from([b": ping", b":", b"id: 7", b"retry: 10", b"event: x", b"nothing", b""]), max_size=2)
SPACES = st.sampled_from([(",", ":"), (", ", ": ")])


def pace() -> Pace:
    clock = FakeClock()
    return Pace(30.0, Deadline.after(600, clock), clock, clock.call_later)


async def relayed(pieces: list[Piece], shown: str = "small") -> tuple[bytes, Answer]:
    answer = await read_answer(FakeExchange(pieces), Form(shown, stream=True), pace())
    return b"".join([piece async for piece in answer]), answer


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """The JSON of a chunk, with any text, written in any of the usual ways."""
    said = chunk(draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)))
    written = json.dumps(said, separators=draw(SPACES), ensure_ascii=draw(st.booleans()))
    return written.encode()


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """What is said, and a stream that says it."""
    end, space = draw(LINE_ENDS), draw(st.sampled_from([b"", b" "]))
    said = draw(st.lists(payloads(), min_size=1, max_size=6))
    stream = draw(st.sampled_from([b"", BOM]))
    for data in [*said, json.dumps(chunk("", "stop")).encode(), b"[DONE]"]:
        stream += b"".join(line + end for line in draw(NOISE))
        stream += b"data:" + space + data + end + end
    return said, stream


def cut(stream: bytes, most: int, seed: int) -> Iterator[bytes]:
    """Pieces of 1 to so many bytes."""
    random, start = Random(seed), 0
    while start < len(stream):
        size = random.randint(1, most)
        yield stream[start : start + size]
        start += size


def test_what_passes_unchanged_is_the_same_byte_for_byte(full_size: bool, capsys: pytest.CaptureFixture[str]) -> None:
    examples = 10_000 if full_size else 300
    seen = 0

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(streams(), st.sampled_from([1, 3, 40, 1 << 20]), st.integers(0, 1 << 30))
    def check(streamed: tuple[list[bytes], bytes], most: int, seed: int) -> None:
        nonlocal seen
        said, stream = streamed
        sent, answer = asyncio.run(relayed(list(cut(stream, most, seed))))
        expected = [*said, json.dumps(chunk("", "stop")).encode(), b"[DONE]"]
        assert sent == b"".join(map(event, expected))
        assert answer.complete
        seen += 1

    check()
    with capsys.disabled():
        print(json.dumps({"test": "R20", "streams": seen, "equal_byte_for_byte": seen}))
    assert seen >= examples


@pytest.mark.parametrize("most", [1, 3, 1000, 1 << 16])
def test_only_the_name_of_the_model_changes(most: int) -> None:
    tricky = ['"model":"small"', "\\", "\n\ndata: x", "\u2028", "😀", "model"]
    stream = b"".join(event(chunk(text)) for text in tricky) + event(chunk("", "stop")) + DONE
    sent, _ = asyncio.run(relayed(list(cut(stream, most, 7)), shown="shown"))
    assert sent == stream.replace(b',"model":"small"', b',"model":"shown"')


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_of_several_lines_says_the_same_in_one(end: bytes) -> None:
    lines = json.dumps(chunk("hi"), indent=1).encode().split(b"\n")
    stream = b"".join(b"data: " + line + end for line in lines) + end + event(chunk("", "stop")) + DONE
    sent, answer = asyncio.run(relayed([stream]))
    assert json.loads(sent.split(b"\n\n")[0].removeprefix(b"data: ")) == chunk("hi")
    assert (sent.count(b"\n"), answer.complete) == (6, True)


def test_a_line_as_long_as_an_event_may_be_passes() -> None:
    frame = len(json.dumps(chunk(""), separators=(",", ":")))
    long = event(chunk("x" * (MAX_EVENT_BYTES - frame - len(b"data: ") - 1)))
    stream = event(chunk("a")) + long + event(chunk("", "stop")) + DONE
    sent, answer = asyncio.run(relayed(list(cut(stream, 1 << 16, 1))))
    assert (sent == stream, answer.complete) == (True, True)


@pytest.mark.parametrize("form", [b"data: ", b": ", b"id: ", b"x", b"data: x\ndata: "], ids=repr)
def test_an_event_longer_than_that_is_one_error_event_and_takes_no_memory(form: bytes) -> None:
    endless = [form, *[b"x" * 4096] * (8 * MAX_EVENT_BYTES // 4096)]
    exchange = FakeExchange([event(chunk("a")), *endless])

    async def read() -> bytes:
        answer = await read_answer(exchange, Form("small", stream=True), pace())
        return b"".join([piece async for piece in answer])

    tracemalloc.start()
    sent = asyncio.run(read())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent.startswith(event(chunk("a")))
    assert (sent.count(b'{"error"'), sent.count(b"bad_upstream"), sent.count(b"[DONE]")) == (1, 1, 0)
    assert most < 4 * MAX_EVENT_BYTES
    assert exchange.unread > len(endless) / 2


@pytest.mark.parametrize("line", [b"data", b"data:", b"data: ab"], ids=repr)
def test_an_event_of_endless_short_lines_is_one_error_event_too(line: bytes) -> None:
    piece = (line + b"\n") * 1000
    exchange = FakeExchange([event(chunk("a")), *[piece] * (4 * MAX_EVENT_BYTES // len(piece))])

    async def read() -> bytes:
        answer = await read_answer(exchange, Form("small", stream=True), pace())
        return b"".join([piece async for piece in answer])

    tracemalloc.start()
    sent = asyncio.run(read())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (sent.count(b"bad_upstream"), sent.count(b'{"error"')) == (1, 1)
    assert most < 8 * MAX_EVENT_BYTES
