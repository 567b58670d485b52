"""Splitting a byte stream into events, wherever the network cuts it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.answers.sse import EventSplitter, EventTooLong

LINE_ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
VALUES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20).map(str.encode)
LINES = st.one_of(
    VALUES.map(lambda value: b"data: " + value),
    VALUES.map(lambda value: b"data:" + value),
    VALUES.map(lambda value: b": " + value),
    VALUES.map(lambda value: b"event: " + value),
    st.just(b"data"),
    st.just(b""),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Any mixture of fields, comments and line ends, perhaps behind a byte-order mark."""
    stream = b"\xef\xbb\xbf" if draw(st.booleans()) else b""
    for line in draw(st.lists(LINES, max_size=12)):
        stream += line + draw(LINE_ENDS)
    return stream + draw(st.one_of(st.just(b""), LINES))


def read_at_once(stream: bytes) -> list[bytes]:
    """The rules of the format, on a whole stream."""
    events: list[bytes] = []
    data: list[bytes] = []
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for line in text.split(b"\n")[:-1]:
        if not line and data:
            events.append(b"\n".join(data))
            data = []
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
    return events


@given(streams(), st.data())
def test_a_stream_split_at_any_bytes_yields_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    splitter = EventSplitter()

    events = [event for a, b in pairwise(edges) for event in splitter.feed(stream[a:b])]

    assert events == read_at_once(stream)
    assert read_at_once(stream + b"\n\n")[len(events) :] in ([], [splitter.unended])


@given(streams())
def test_a_stream_that_comes_byte_by_byte_yields_the_same_events(stream: bytes) -> None:
    splitter = EventSplitter()
    assert [event for byte in stream for event in splitter.feed(bytes([byte]))] == read_at_once(stream)


@given(st.lists(st.one_of(VALUES, st.just(b"\n\ndata: ")), min_size=1, max_size=6), LINE_ENDS)
def test_whole_events_that_arrive_together_are_told_apart(values: list[bytes], end: bytes) -> None:
    stream = b"".join(b"data: " + value + b"\n\n" for value in values) + b"data: x" + end + end
    splitter = EventSplitter()
    assert splitter.feed(stream) == read_at_once(stream)
    assert splitter.feed(stream) == read_at_once(stream)


@pytest.mark.parametrize("rest", [b"data: x", b"data: x\n", b"da"])
def test_what_is_left_at_the_end_is_no_event_but_is_seen(rest: bytes) -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\n\n" + rest) == [b"a"]
    assert splitter.pending


def test_nothing_is_pending_after_a_whole_event() -> None:
    splitter = EventSplitter()
    splitter.feed(b"data: a\r\n\r\n")
    assert not splitter.pending


@pytest.mark.parametrize("piece", [b"data: xxxxxxxx", b": xxxxxxxxxxxxx", b"data: xxxx\n"])
def test_an_event_or_a_line_without_end_is_refused_at_its_limit(piece: bytes) -> None:
    splitter = EventSplitter(max_event_bytes=100)
    for _ in range(6):
        splitter.feed(piece)
    with pytest.raises(EventTooLong):
        splitter.feed(piece * 20)


def test_any_number_of_short_events_is_fine() -> None:
    splitter = EventSplitter(max_event_bytes=100)
    assert sum(len(splitter.feed(b"data: xxxxxxxx\n\n: comment\n\n")) for _ in range(1000)) == 1000
